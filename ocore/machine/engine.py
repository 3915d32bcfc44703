"""A Docker engine for "this machine": the one that answers, or Debian's, installed and started.

Without systemd it is started as measured on Debian 12: containerd on its own and dockerd beside it with
live-restore, so that a dockerd that dies leaves the containers running and the next start takes half a second.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from django.conf import settings
from docker.errors import DockerException

from ocore.locks import file_lock
from ocore.machine import daemons
from ocore.machine.daemons import EngineUnavailable
from ocore.machine.packages import ensure_packages, find_program, may_install
from ocore.machine.progress import Progress, told

DEFAULT_SOCKET = Path("/var/run/docker.sock")
SYSTEMD = Path("/run/systemd/system")
ANSWER_SECONDS = 5
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0

__all__ = ["Engine", "EngineUnavailable", "Guard", "ensure_engine", "find_engine", "stop_engine"]


@dataclass(frozen=True)
class Engine:
    endpoint: str
    """As `DOCKER_HOST`; empty: what the environment says, or the default socket."""
    version: str


def ensure_engine(progress: Progress) -> Engine:
    """The engine of this machine, installed and started where necessary. Raises `EngineUnavailable` or
    `ProgramMissing`."""
    found = find_engine()
    if found is not None:
        progress.say(f"Docker Engine {found.version} answers" + (f" at {found.endpoint}" if found.endpoint else ""))
        return found
    if os.environ.get("DOCKER_HOST"):
        raise EngineUnavailable(
            f"Nothing answers at DOCKER_HOST ({os.environ['DOCKER_HOST']}).",
            advice="Start that engine, or unset DOCKER_HOST to use this machine's own.",
        )
    _explain_what_only_a_person_can_do()
    if find_program("dockerd") is None:
        ensure_packages(_debian_packages(), progress, purpose="the Docker engine")
    with progress.step("Starting the Docker engine"):
        if SYSTEMD.is_dir():
            daemons.start_with_systemd(progress, answers=_answers)
        else:
            _start(_folder(), progress)
    found = find_engine()
    if found is None:
        raise EngineUnavailable("The Docker engine was started and stopped answering at once.")
    progress.say(f"Docker Engine {found.version} answers")
    return found


class Guard:
    """Starts the engine again that oCore itself started and that has died, without anybody having stopped it. One that
    systemd started, or a person, is theirs."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the record of what was started is; that of this installation."""
        self._folder = folder or _folder()
        self._due = 0.0
        self._pause = FIRST_PAUSE

    def look(self, progress: Progress) -> None:
        """Called every second or so. What it can't start, or not even look at, it tells, and tries again after a pause
        that grows."""
        if time.monotonic() < self._due:
            return
        try:
            if not daemons.died(self._folder):
                self._pause = FIRST_PAUSE
                return
            launched = _start(self._folder, progress)
            daemons.forget_dead(self._folder)
        except (EngineUnavailable, OSError, ValueError) as error:  # a full disk, say: it will not stay full
            self._due = time.monotonic() + self._pause
            said = told(error) if isinstance(error, EngineUnavailable) else f"{type(error).__name__}: {error}"
            progress.say(f"The Docker engine has died; the next attempt in {self._pause:.0f} s. {said}")
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        if launched:
            progress.say(f"The Docker engine had died; started again: {', '.join(launched)}")


def _start(folder: Path, progress: Progress) -> list[str]:
    """One at a time: whoever waited finds it started."""
    with file_lock(folder / "start.lock"):
        return daemons.start(folder, progress, answers=_answers)


def _answers() -> bool:
    return find_engine() is not None


def find_engine() -> Engine | None:
    """The one that answers now: at DOCKER_HOST, the default socket, or a person's own (rootless, Docker Desktop)."""
    for endpoint in _candidates():
        version = _version(endpoint)
        if version is not None:
            return Engine(endpoint, version)
    return None


def _candidates() -> Iterator[str]:
    if os.environ.get("DOCKER_HOST"):
        yield ""
        return
    if DEFAULT_SOCKET.exists():
        yield ""
    own = [Path.home() / ".docker/run/docker.sock", Path.home() / ".docker/desktop/docker.sock"]
    if os.environ.get("XDG_RUNTIME_DIR"):
        own.insert(0, Path(os.environ["XDG_RUNTIME_DIR"]) / "docker.sock")
    yield from (f"unix://{socket}" for socket in own if socket.exists())


def _version(endpoint: str) -> str | None:
    try:
        client = docker.DockerClient(base_url=endpoint, timeout=ANSWER_SECONDS) if endpoint else _from_environment()
    except DockerException:
        return None
    try:
        return str(client.version()["Version"])
    except (DockerException, requests.RequestException):
        return None
    finally:
        client.close()


def _from_environment() -> docker.DockerClient:
    return docker.DockerClient.from_env(timeout=ANSWER_SECONDS)


def _explain_what_only_a_person_can_do() -> None:
    """Not root: say what to run, as exactly as can be known."""
    if os.geteuid() == 0:
        return
    if DEFAULT_SOCKET.exists() and not os.access(DEFAULT_SOCKET, os.R_OK | os.W_OK):
        raise EngineUnavailable(
            f"A Docker engine is there, but this user may not use its socket {DEFAULT_SOCKET}.",
            advice="Run: sudo usermod -aG docker $USER, log in again, and run it again (or run it as root).",
        )
    if find_program("dockerd") is None:
        advice = (
            "Run: sudo apt-get install docker.io"
            if find_program("apt-get")
            else "Install Docker (https://docs.docker.com/engine/install/) and start it; then run it again."
        )
        raise EngineUnavailable("Docker Engine is not installed, and only root can install it.", advice=advice)
    start = "sudo systemctl start docker" if SYSTEMD.is_dir() else "sudo dockerd"
    raise EngineUnavailable(
        "The Docker engine does not run, and only root can start it.", advice=f"Run: {start}; then run it again."
    )


def _debian_packages() -> list[str]:
    """docker.io brings containerd, runc and iptables; what it only recommends is needed on some kernels."""
    if not may_install():
        raise EngineUnavailable(
            "Docker Engine is not installed, and this is not a Debian on which oCore could install it.",
            advice="Install it (https://docs.docker.com/engine/install/) and start it; then run it again.",
        )
    packages = ["docker.io", "ca-certificates"]
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    if apparmor.exists() and apparmor.read_text().strip() == "Y":
        packages.append("apparmor")
    if not SYSTEMD.is_dir():
        packages.append("cgroupfs-mount")
    return packages


def _folder() -> Path:
    return Path(settings.STATE_DIR) / "engine"


def stop_engine(progress: Progress) -> bool:
    """Stop the engine if we started it. The caller has seen that nobody else's containers run. False: not ours."""
    if not daemons.started(_folder()):
        return False
    with progress.step("Stopping the Docker engine"):
        daemons.stop(_folder())
    return True


def running_containers(engine: Engine) -> int:
    """How many run on it, whoever's they are. Raises `EngineUnavailable`."""
    client = docker.DockerClient(base_url=engine.endpoint) if engine.endpoint else _from_environment()
    try:
        return len(client.api.containers(quiet=True))
    except (DockerException, requests.RequestException) as error:
        raise EngineUnavailable("The Docker engine stopped answering.", detail=str(error)) from error
    finally:
        client.close()
