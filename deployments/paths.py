"""Which files of a repository an environment deploys for: its setting `deploy_paths`."""

from collections.abc import Iterable, Iterator, Sequence
from posixpath import dirname

from projects.git import Entry
from projects.rules import matches

ADDONS = "addons"
"""Stands for all that an image is built from."""
_MANIFESTS = ("__manifest__.py", "__openerp__.py")
_BUILT = ("requirements.txt", "apt.txt", ".gitmodules")


def changed(patterns: Sequence[str], before: Sequence[Entry], after: Sequence[Entry]) -> Iterator[str]:
    """The paths that differ and are wanted. A submodule is one path, and differs when it points elsewhere."""
    then, now = ({entry.path: (entry.sha, entry.mode) for entry in files} for files in (before, after))
    differing = (path for path in sorted(then.keys() | now.keys()) if then.get(path) != now.get(path))
    addons = _addon_folders([*before, *after]) if ADDONS in patterns else set()
    modules = {entry.path for entry in (*before, *after) if entry.type == "commit"} if ADDONS in patterns else set()
    for path in differing:
        built = ADDONS in patterns and (path in modules or path in _BUILT or _inside(path, addons))
        if built or any(_covers(pattern, path) for pattern in patterns if pattern != ADDONS):
            yield path


def _covers(pattern: str, path: str) -> bool:
    """A pattern that names a folder covers what is in it; one without a slash fits a file's name anywhere."""
    folder = pattern.rstrip("/")
    if "/" not in folder and matches(folder, path.rpartition("/")[2]):
        return True
    return matches(folder, path) or any(matches(folder, parent) for parent in _parents(path))


def _addon_folders(files: Iterable[Entry]) -> set[str]:
    return {dirname(entry.path) for entry in files if entry.path.rpartition("/")[2] in _MANIFESTS}


def _inside(path: str, folders: set[str]) -> bool:
    return "" in folders or any(parent in folders for parent in _parents(path))


def _parents(path: str) -> Iterator[str]:
    while path := dirname(path):
        yield path
