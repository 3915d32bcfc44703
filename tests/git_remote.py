"""A real git repository for tests, made with plain git: the remote that mirrors are fetched from.

remote = GitRemote(tmp_path / "remote")
first = remote.commit("Add the module", {"sale_x/__manifest__.py": "{'name': 'x'}"})
remote.commit("Drop a file", {"old.py": None}, branch="staging")
remote.tag("v1", annotated=True)
Mirror(remote.url, ...)
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

_BORN = 1_767_225_600  # 2026-01-01; every commit is a minute younger than the one before


@dataclass(frozen=True)
class Link:
    """A symbolic link, as a file's content."""

    target: str


@dataclass(frozen=True)
class Executable:
    """An executable file's content."""

    content: str


@dataclass(frozen=True)
class Pin:
    """A submodule's commit, as a file's content; `GitRemote.submodule` writes `.gitmodules` too."""

    sha: str


Content = str | bytes | None | Link | Executable | Pin


class GitRemote:
    """A bare repository in the folder `path`."""

    def __init__(self, path: Path, *, object_format: str = "sha1") -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._commits = 0
        self._submodules: dict[tuple[str, str], str] = {}
        self._git(
            "init",
            "-q",
            "--bare",
            "--template=",
            "-b",
            "main",
            f"--object-format={object_format}",
            str(self.path),
            inside=False,
        )

    def copied_to(self, path: Path) -> "GitRemote":
        """The same once more, which then goes a way of its own."""
        shutil.copytree(self.path, path)
        twin = copy(self)
        twin.path, twin._submodules = path, dict(self._submodules)
        return twin

    @property
    def url(self) -> str:
        return self.path.as_uri()

    def commit(
        self,
        message: str,
        files: Mapping[str, Content] | None = None,
        branch: str = "main",
        *,
        parent: str | None = None,
        author: str = "Ann Author",
    ) -> str:
        """A commit on top of the branch (of `parent`, which makes it a force push); its id. A file that is None goes.
        A new branch begins at `main`, or at nothing."""
        tip = self.sha(branch)
        base = parent or tip or (self.sha("main") if branch != "main" else "")
        self._import([self._told(message, files or {}, branch, base, author)])
        return self.sha(branch)

    def commit_everywhere(self, message: str, files: Mapping[str, Mapping[str, Content]]) -> dict[str, str]:
        """A commit on each of these branches, with its files, in one go; their ids by branch."""
        tips = self._tips()
        self._import(
            [
                self._told(message, changed, branch, tips.get(branch, ""), "Ann Author")
                for branch, changed in files.items()
            ]
        )
        tips = self._tips()
        return {branch: tips[branch] for branch in files}

    def _told(self, message: str, files: Mapping[str, Content], branch: str, base: str, author: str) -> bytes:
        """A commit as fast-import reads it."""
        self._commits += 1
        when = f"{author} <{author.split()[0].lower()}@example.com> {_BORN + 60 * self._commits} +0000"
        lines = [b"commit refs/heads/" + branch.encode(), b"author " + when.encode(), b"committer " + when.encode()]
        lines += [_data(message.encode())]
        if base:
            lines.append(b"from " + base.encode())
        lines += [_change(path, content) for path, content in files.items()]
        return b"\n".join(lines) + b"\n"

    def _import(self, commits: list[bytes]) -> None:
        self._git("fast-import", "--quiet", "--force", given=b"\n".join(commits))

    def _tips(self) -> dict[str, str]:
        listed = self._git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
        return dict(line.split(" ", 1) for line in listed.splitlines())

    def tag(self, name: str, annotated: bool = False, target: str = "main") -> str:
        """A tag at a branch or commit; its own id, which is the commit's unless annotated."""
        options = ["-a", "-m", f"Tag {name}"] if annotated else []
        self._git("tag", "-f", *options, name, target)
        return self._git("rev-parse", f"refs/tags/{name}").strip()

    def reset(self, branch: str, sha: str) -> None:
        """A force push: the branch is now at `sha`."""
        self._git("update-ref", f"refs/heads/{branch}", sha)

    def delete_branch(self, branch: str) -> None:
        self._git("update-ref", "-d", f"refs/heads/{branch}")

    def delete_tag(self, name: str) -> None:
        self._git("update-ref", "-d", f"refs/tags/{name}")

    def submodule(
        self, path: str, remote: "GitRemote", sha: str | None = None, *, branch: str = "main", url: str | None = None
    ) -> str:
        """A commit that adds a submodule, or pins it to another commit; `url` as it is to stand in `.gitmodules`."""
        self._submodules[branch, path] = url or remote.url
        listed = [(name, place) for (of, name), place in self._submodules.items() if of == branch]
        modules = "".join(f'[submodule "{name}"]\n\tpath = {name}\n\turl = {place}\n' for name, place in listed)
        pin = Pin(sha or remote.sha("main"))
        return self.commit(f"Submodule {path}", {".gitmodules": modules, path: pin}, branch)

    def sha(self, ref: str) -> str:
        """The commit that a branch is at, "" without it. Read from its file where it has one, which needs no git."""
        file = self.path / "refs" / "heads" / ref
        if file.is_file():
            return file.read_text().strip()
        if not (self.path / "packed-refs").exists():
            return ""
        return self._git("rev-parse", "--verify", "--quiet", f"refs/heads/{ref}", check=False).strip()

    def _git(self, *arguments: str, given: bytes = b"", inside: bool = True, check: bool = True) -> str:
        folder = ["--git-dir", str(self.path)] if inside else []
        identity = {"NAME": "Ann Author", "EMAIL": "ann@example.com", "DATE": f"{_BORN + 60 * self._commits} +0000"}
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": value for what, value in identity.items() for who in ("AUTHOR", "COMMITTER")},
        }
        done = subprocess.run(
            ["git", *folder, *arguments], input=given, capture_output=True, env=environment, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode()


def _data(content: bytes) -> bytes:
    return b"data %d\n%s" % (len(content), content)


def _change(path: str, content: Content) -> bytes:
    name = b'"' + path.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
    match content:
        case None:
            return b"D " + name
        case Pin(sha):
            return b"M 160000 " + sha.encode() + b" " + name
        case Link(target):
            return b"M 120000 inline " + name + b"\n" + _data(target.encode())
        case Executable(text):
            return b"M 100755 inline " + name + b"\n" + _data(text.encode())
        case str():
            return b"M 100644 inline " + name + b"\n" + _data(content.encode())
        case _:
            return b"M 100644 inline " + name + b"\n" + _data(content)
