"""A server that asks before each of its side effects whether whoever wants it may still act."""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from instances.runtimes.base import Runtime

ROOMS = frozenset({"images", "containers", "databases", "filestores", "edge"})
LOOKS = frozenset(
    [
        "find",
        "list",
        "logs",
        "exec",
        "exists",
        "size",
        "facts",
        "memory_free",
        "figures",
        "serves",
        "doors",
        "in_flight",
        "fetch",
    ]
)
"""Verbs that change nothing. `exec` is what the health check asks with."""


class _Fenced:
    def __init__(self, behind: object, check: Callable[[], None]) -> None:
        self._behind = behind
        self._check = check

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._behind, name)
        if name in ROOMS:
            return _Fenced(found, self._check)
        if name in LOOKS or not callable(found):
            return found

        @wraps(found)
        def verb(*arguments: Any, **named: Any) -> Any:
            self._check()
            return found(*arguments, **named)

        return verb


def fenced(runtime: Runtime, check: Callable[[], None]) -> Runtime:
    """`check` raises to forbid it."""
    return cast(Runtime, _Fenced(runtime, check))
