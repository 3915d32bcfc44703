"""This machine's Docker daemons as victims, with the portal's guard beside them that starts them again.

Only those are killed that oCore itself has started, here or from another checkout, and only where containers outlive
them (live-restore): nobody else's are ours to kill.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import requests
from docker.errors import DockerException

from ocore.machine import daemons, engine
from ocore.machine.processes import Process
from tests.chaos.outside import Broken

if TYPE_CHECKING:
    from tests.chaos.world import World

BACK_SECONDS = 30.0
GUARD = """
import django, os, sys, time
parent = os.getppid()
django.setup()
from pathlib import Path
from ocore.machine.engine import Guard
from ocore.machine.progress import Progress
guard = Guard(Path(sys.argv[1]))
while os.getppid() == parent:  # it ends with the test
    guard.look(Progress())
    time.sleep(0.5)
"""


@dataclass
class Engine:
    folder: Path
    """With the record of whoever started it."""

    def kill(self, *names: str) -> None:
        """-9; and it is certain that it is dead."""
        for name in names or ("dockerd",):
            process = self._process(name)
            if process and process.alive:
                os.kill(process.pid, signal.SIGKILL)
                while process.alive:
                    time.sleep(0.005)

    def _process(self, name: str) -> Process | None:
        known = daemons._record(self.folder).get(name)
        return Process(*known) if known else None

    def wait_until_back(self) -> float:
        """Seconds until both run and it answers."""
        began = time.monotonic()
        while daemons.died(self.folder) or not _answers():
            if time.monotonic() - began > BACK_SECONDS:
                raise Broken(f"nobody has started the engine again: {daemons.died(self.folder)}")
            time.sleep(0.02)
        return time.monotonic() - began


def strike(world: "World", victim: str) -> None:
    """Let it die, besides whoever calls."""
    outside, own = world.outside, world.engine
    if victim in ("postgres", "edge"):
        outside.kill(f"{outside.namespace}-{victim}")
    elif own is None:
        return
    elif victim == "engine":
        own.kill("dockerd")
    elif victim == "containerd":
        own.kill("containerd")
    elif victim == "power":
        # As where the machine fails, or containers don't outlive their engine.
        containers = outside.pids()
        own.kill("dockerd", "containerd")
        for pid in containers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    else:
        raise ValueError(victim)


def _answers() -> bool:
    try:
        client = docker.APIClient(timeout=10)
        client.trust_env = False
        client.containers(quiet=True)  # which asks for more than a version
    except (DockerException, requests.RequestException):
        return False
    return True


def ours() -> Engine | None:
    """The engine of this machine, if oCore has started it: its log lies beside the record of that."""
    try:
        pid = int(daemons.DOCKER_PID_FILE.read_text())
        folder = Path(f"/proc/{pid}/fd/1").readlink().parent
    except (OSError, ValueError):
        return None
    if os.environ.get("DOCKER_HOST") or engine.SYSTEMD.is_dir() or pid not in {p.pid for p in daemons.started(folder)}:
        return None
    return Engine(folder) if docker.APIClient().info()["LiveRestoreEnabled"] else None


@contextmanager
def guarded() -> Iterator[Engine | None]:
    """As `make up` guards it, by a process of its own."""
    found = ours()
    if found is None:
        yield None
        return
    guard = subprocess.Popen([sys.executable, "-c", GUARD, str(found.folder)])
    try:
        yield found
        found.wait_until_back()
    finally:
        guard.kill()
        guard.wait()
