"""The repositories of projects as bare mirrors on the portal's machine, each called by its project's slug; a further
one by that, `FURTHER` and its own name."""

import fcntl
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings

from projects.git import Mirror
from projects.models import Project, Repository
from projects.repositories import FURTHER

__all__ = ["FURTHER", "facts", "kept", "mirror_of", "remove", "size_of"]

LOCK = ".git.lock"
PARTS = (".git", ".git.fresh", ".git.old", ".modules")
"""Of what is kept for one repository: its mirror, what a rebuilding one has beside it, those of its submodules."""


def mirror_of(holder: Project | Repository) -> Mirror:
    return holder.mirror_in(_folder() / f"{holder.mirror_name}.git")


def kept() -> list[str]:
    """The names of all repositories of which something lies here, also of those that are no more."""
    folder = _folder()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({name.partition(".")[0] for name in names if name.endswith(PARTS)})


def facts(name: str) -> tuple[datetime, int]:
    """When its files were written last, and their size in bytes."""
    paths = [path for path in _paths(name) if path.exists()]
    written = max((path.stat().st_mtime for path in paths), default=0.0)
    return datetime.fromtimestamp(written, UTC), sum(size_of(path) for path in paths)


def size_of(path: Path) -> int:
    """Of all files below; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue
    return total


def remove(name: str, *, for_good: Callable[[], bool]) -> bool:
    """False when somebody is fetching it now. `for_good` is asked once nobody can fetch it: whether whose it was is
    gone, and the lock goes too; it raises where the mirror is needed."""
    lock = _folder() / f"{name}{LOCK}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        gone = for_good()
        for path in _paths(name):
            shutil.rmtree(path, ignore_errors=True)
        if gone:
            lock.unlink(missing_ok=True)
    return True


def _paths(name: str) -> list[Path]:
    return [_folder() / f"{name}{part}" for part in PARTS]


def _folder() -> Path:
    return Path(settings.STATE_DIR) / "mirrors"
