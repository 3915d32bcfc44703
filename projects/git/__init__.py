"""Git repositories as data: fetched, looked up and exported, never checked out, nothing in them ever run."""

from .access import Access
from .command import MINIMUM_VERSION, Deadlines, version
from .errors import (
    GitError,
    HostKeyChanged,
    HostKeyUnknown,
    MirrorDamaged,
    MirrorUnusable,
    RepositoryRefused,
    RepositoryUnreachable,
    Trouble,
    UnknownRef,
    UnsafeRepository,
)
from .mirror import Commit, Exported, Mirror
from .tree import Entry, Limits

__all__ = [
    "MINIMUM_VERSION",
    "Access",
    "Commit",
    "Deadlines",
    "Entry",
    "Exported",
    "GitError",
    "HostKeyChanged",
    "HostKeyUnknown",
    "Limits",
    "Mirror",
    "MirrorDamaged",
    "MirrorUnusable",
    "RepositoryRefused",
    "RepositoryUnreachable",
    "Trouble",
    "UnknownRef",
    "UnsafeRepository",
    "version",
]
