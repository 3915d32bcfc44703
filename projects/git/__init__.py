"""Git repositories as data: fetched, looked up and exported, never checked out, nothing in them ever run."""

from .command import MINIMUM_VERSION, Deadlines, version
from .errors import (
    GitError,
    MirrorDamaged,
    MirrorUnusable,
    RepositoryRefused,
    RepositoryUnreachable,
    UnknownRef,
    UnsafeRepository,
)
from .mirror import Commit, Exported, Mirror
from .tree import Entry, Limits

__all__ = [
    "MINIMUM_VERSION",
    "Commit",
    "Deadlines",
    "Entry",
    "Exported",
    "GitError",
    "Limits",
    "Mirror",
    "MirrorDamaged",
    "MirrorUnusable",
    "RepositoryRefused",
    "RepositoryUnreachable",
    "UnknownRef",
    "UnsafeRepository",
    "version",
]
