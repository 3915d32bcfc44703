"""Crash points: what a deployment does to the world, named and counted, so that its process can die exactly there.

They are put around the runtime's verbs and every write of a row, in the child process that runs a job: production code
knows nothing of them. A point is `verb#n:place`, the n-th time that the verb is used in this process; `before` and
`after` are certain, `during` is half of the time that it took when it was recorded.
"""

import functools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection

from instances.database import PostgresCluster
from instances.edge import CaddyEdge
from instances.filestore import VolumeFilestores
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.images import DockerImages

VERBS: dict[type, tuple[str, ...]] = {
    DockerImages: ("build", "remove"),
    DockerContainers: (
        "create",
        "get_ready",
        "start",
        "stop",
        "remove",
        "run",
        "join_edge",
        "leave_edge",
        "ensure_volume",
    ),
    PostgresCluster: ("create_role", "drop_role", "create", "clone", "rename", "put_back", "drop", "query", "dump"),
    VolumeFilestores: ("ensure", "remove", "snapshot", "restore", "discard"),
    CaddyEdge: ("apply", "close", "close_and_drain", "open"),
}
ROOMS = {
    DockerImages: "images",
    DockerContainers: "containers",
    PostgresCluster: "databases",
    VolumeFilestores: "filestores",
    CaddyEdge: "edge",
}
WORTH_A_MIDDLE = 0.02
"""Seconds that a verb takes at least to be killed in its middle."""
_WRITE = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM) \"(\w+)\"")
_NOT_COUNTED = {"deployments_logchunk"}
"""Written at twice a second, by the clock: not at the same place in two runs."""


@dataclass(frozen=True)
class Crash:
    point: str
    seconds: float = 0.0
    """How long the verb took when it was recorded, for `during`."""
    signal: int = signal.SIGKILL
    """What this process gets; nothing where the victim is another."""

    @classmethod
    def read(cls, text: str) -> "Crash":
        """From what `str` wrote."""
        point, _, seconds = text.partition("@")
        return cls(point, float(seconds or 0))

    def __str__(self) -> str:
        return f"{self.point}@{self.seconds}" if self.seconds else self.point


@dataclass(frozen=True)
class Meanwhile:
    """What somebody else does at that point."""

    point: str
    act: Callable[[], None]


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


class Points:
    """Installed in a child: notes each point in a file, and dies at the one that was asked for; or, with `strike`, lets
    another die there."""

    def __init__(
        self,
        journal: Path,
        crash: Crash | None = None,
        meanwhile: "Meanwhile | None" = None,
        strike: Callable[[], None] | None = None,
    ) -> None:
        self._journal = journal
        self._crash = crash
        self._meanwhile = meanwhile
        self._strike = strike or (lambda: die(crash.signal if crash else signal.SIGKILL))
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def install(self) -> None:
        for cls, verbs in VERBS.items():
            for verb in verbs:
                setattr(cls, verb, self._around(f"{ROOMS[cls]}.{verb}", getattr(cls, verb)))
        connection.ensure_connection()
        connection.execute_wrappers.append(self._row)

    def _around(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(act)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if name == "databases.query" and arguments[2].lstrip().startswith("SELECT"):
                return act(*arguments, **named)
            key = self._count(name)
            self._reach(f"{key}:before")
            timer = self._middle(key)
            began = time.monotonic()
            try:
                return act(*arguments, **named)
            finally:
                if timer:
                    timer.cancel()
                self._note(key, time.monotonic() - began)
                self._reach(f"{key}:after")

        return wrapped

    def _row(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        found = _WRITE.match(sql)
        if found and found[2] not in _NOT_COUNTED:
            key = self._count(f"rows.{found[1].split()[0].lower()}.{found[2].partition('_')[2]}")
            self._note(key, 0.0)
            self._reach(f"{key}:before")
        return execute(sql, params, many, context)

    def _count(self, name: str) -> str:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + 1
            return f"{name}#{self._counts[name]}"

    def _middle(self, key: str) -> threading.Timer | None:
        if self._crash is None or self._crash.point != f"{key}:during":
            return None
        timer = threading.Timer(self._crash.seconds / 2, self._strike)
        timer.daemon = True
        timer.start()
        return timer

    def _reach(self, point: str) -> None:
        if self._meanwhile and self._meanwhile.point == point:
            self._meanwhile.act()
        if self._crash and self._crash.point == point:
            self._strike()

    def _note(self, key: str, seconds: float) -> None:
        with self._lock, self._journal.open("a") as journal:
            journal.write(json.dumps([key, round(seconds, 4)]) + "\n")


def recorded(journal: Path, *, own: bool = True) -> list[Crash]:
    """Every point of a recorded run: before each, and for what reaches out of the process also in its middle and
    after it. What comes after a row's write is what comes before the next; and for a victim that is not this process
    (`own`), rows are nothing, and what comes after a verb is what comes before the next."""
    crashes = []
    for line in journal.read_text().splitlines():
        key, seconds = json.loads(line)
        if key.startswith("rows.") and not own:
            continue
        crashes.append(Crash(f"{key}:before"))
        if not key.startswith("rows."):
            if seconds >= WORTH_A_MIDDLE:
                crashes.append(Crash(f"{key}:during", seconds))
            if own:
                crashes.append(Crash(f"{key}:after"))
    return crashes
