"""A folder filled with what commits hold, and nothing that reaches out of it.

Files and links are written by a loop of our own from the commit's listing and the bytes of its blobs. Links are made
last, when no file can be written through them any more, and each must end inside the folder.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import MirrorDamaged, MirrorUnusable, UnsafeRepository

_CHUNK = 1 << 20
_LFS = b"version https://git-lfs.github.com/spec/v1"
_MAX_TARGET = 4096


@dataclass(frozen=True)
class Entry:
    """A file (`blob`) or submodule (`commit`) of a commit's tree. `size` in bytes, 0 for submodules."""

    path: str
    mode: str
    type: str
    sha: str
    size: int

    @property
    def is_link(self) -> bool:
        return self.mode == "120000"


@dataclass(frozen=True)
class Limits:
    """How much a commit may hold, submodules included; and how deep submodules may be nested."""

    files: int = 300_000
    size_bytes: int = 4 * 1024**3
    depth: int = 4


class Reader(Protocol):
    def line(self) -> bytes: ...

    def read(self, size: int, /) -> bytes: ...


@dataclass
class Tree:
    """The folder `root`, which must be empty or not there, while it is being filled."""

    root: Path
    limits: Limits
    files: int = 0
    size_bytes: int = 0
    lfs_pointers: int = 0
    _links: list[tuple[Path, str, str]] = field(default_factory=list)
    _folders: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            occupied = any(self.root.iterdir())
        except OSError as error:
            raise _cannot_write(error) from error
        if occupied:
            raise ValueError(f"{self.root} is not empty")

    def reset(self) -> None:
        """Empty again, to begin anew."""
        self.files = self.size_bytes = self.lfs_pointers = 0
        self._links.clear()
        self._folders.clear()
        for entry in self.root.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def admit(self, entries: Iterable[Entry], prefix: str) -> None:
        """Raise unless all of them have names that are safe, and they are not too much."""
        for entry in entries:
            check_name(prefix + entry.path)
            if entry.is_link and entry.size > _MAX_TARGET:
                raise UnsafeRepository(f"“{shown(prefix + entry.path)}” is a link with an impossible target.")
            self.files += 1
            self.size_bytes += entry.size
        if self.files > self.limits.files:
            raise UnsafeRepository(f"The commit holds more than {self.limits.files} files.")
        if self.size_bytes > self.limits.size_bytes:
            raise UnsafeRepository(f"The commit's files are larger than {self.limits.size_bytes / 1024**2:.0f} MiB.")

    def unpack(self, entries: Iterable[Entry], stream: Reader, prefix: str, moment: float) -> None:
        """Write the entries below `prefix` (empty, or ending in a slash), their blobs read one after the other from
        `git cat-file --batch`; `moment` becomes the files' time. Links are kept for `finish`."""
        try:
            for entry in entries:
                header = stream.line().split()
                if header[1:] != [b"blob", b"%d" % entry.size]:
                    detail = b" ".join(header).decode(errors="replace")
                    raise MirrorDamaged("oCore's copy of the repository is damaged.", detail=detail)
                name = prefix + entry.path
                if entry.is_link:
                    self._links.append((self.root / name, os.fsdecode(stream.read(entry.size)), name))
                else:
                    self._write(entry, f"{self.root}/{name}", stream, moment)
                stream.read(1)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise UnsafeRepository(f"The commit holds two entries of one name: {error.filename}.") from error
        except OSError as error:
            raise _cannot_write(error) from error

    def _write(self, entry: Entry, path: str, stream: Reader, moment: float) -> None:
        self._make_folder(os.path.dirname(path))  # noqa: PTH120 - pathlib is slow here
        mode = 0o755 if entry.mode == "100755" else 0o644
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(target, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            os.fchmod(target, mode)
            missing = entry.size
            while missing:
                chunk = stream.read(min(missing, _CHUNK))
                file.write(chunk)
                missing -= len(chunk)
                if entry.size < 1024 and chunk.startswith(_LFS):
                    self.lfs_pointers += 1
            os.utime(target, (moment, moment))

    def _make_folder(self, path: str) -> None:
        if path not in self._folders:
            os.makedirs(path, mode=0o755, exist_ok=True)  # noqa: PTH103
            self._folders.add(path)

    def submodule(self, path: str) -> None:
        """Make the folder of a submodule, in which nothing may be yet."""
        folder = self.root / path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            occupied = any(folder.iterdir())
        except (FileExistsError, NotADirectoryError):
            occupied = True
        except OSError as error:
            raise _cannot_write(error) from error
        if occupied:
            raise UnsafeRepository(f"The submodule “{shown(path)}” lies on top of something else.")

    def finish(self) -> None:
        """Make the links, and see where each of them ends now that all are there."""
        try:
            for path, target, _ in self._links:
                self._make_folder(str(path.parent))
                path.symlink_to(target)
        except (FileExistsError, NotADirectoryError, ValueError) as error:
            raise UnsafeRepository("The commit holds a link that cannot be made.", detail=str(error)) from error
        except OSError as error:
            raise _cannot_write(error) from error
        for path, target, name in self._links:
            if target.startswith("/") or not Path(os.path.realpath(path)).is_relative_to(self.root):
                raise UnsafeRepository(f"“{shown(name)}” is a link out of the repository, to “{shown(target)}”.")


def check_name(name: str) -> None:
    """An entry's path in the tree: relative, no way up, and none of git's own folders."""
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in name.split("/")):
        raise UnsafeRepository(f"The commit holds an entry with the unsafe name “{shown(name)}”.")


def shown(name: str) -> str:
    """A file's name fit for a message."""
    return "".join(character if character.isprintable() else "�" for character in name[:200])


def _cannot_write(error: OSError) -> MirrorUnusable:
    return MirrorUnusable("The commit's files cannot be written on this machine.", detail=str(error))
