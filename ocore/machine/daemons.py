"""Starting containerd and dockerd: through systemd where it runs, else by ourselves, in the background.

What they say goes to files; when they don't come up, the reason is read from there.
"""

import json
import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from ocore.errors import ExpectedError
from ocore.machine.packages import SYSTEM_PATH, find_program
from ocore.machine.processes import Process, end_alone, name_of
from ocore.machine.progress import Progress

logger = logging.getLogger(__name__)
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
DOCKER_PID_FILE = Path("/var/run/docker.pid")
DAEMON_JSON = Path("/etc/docker/daemon.json")
CGROUPS = Path("/sys/fs/cgroup")
RECORD = "started.json"
START_SECONDS = 60.0
TAIL_LINES = 15

NO_PRIVILEGES = (
    "This machine does not let the engine do what it must (network, mounts); in a container or sandbox, run that with "
    "more privileges (Docker: --privileged), or set DOCKER_HOST to an engine elsewhere."
)
REASONS: Sequence[tuple[str, str, str]] = (
    # What the log says, what it means, what to do. The first that fits.
    (
        r"live-restore.*swarm|swarm.*live-restore",
        "this engine is in a swarm, which excludes --live-restore",
        "Start dockerd by hand without --live-restore.",
    ),
    (
        r"pid file found|process with PID \d+ is still running",
        "another dockerd runs already",
        "Stop the other dockerd, or make it listen on /var/run/docker.sock.",
    ),
    (r"(?i)operation not permitted|permission denied", "it lacks privileges", NO_PRIVILEGES),
    (
        r"(?i)ip_?tables|nf_tables|nat table|controller.*bridge|creating default \"?bridge",
        "the kernel lacks what container networks need (netfilter, bridge), or it may not be used",
        "Load the kernel modules ip_tables, iptable_nat, br_netfilter and overlay, or use a machine that has them.",
    ),
    (
        r"(?i)cgroup",
        "control groups are not mounted",
        "Mount them: cgroupfs-mount (package cgroupfs-mount); then run it again.",
    ),
    (
        r"(?i)no space left",
        "the disk is full",
        "Free space where the engine keeps its data (/var/lib/docker).",
    ),
    (
        r"(?i)storage driver|graphdriver|overlay",
        "no storage driver works on this file system",
        "Put the engine's data (data-root in /etc/docker/daemon.json) on ext4 or xfs.",
    ),
    (
        r"(?i)unable to configure the Docker daemon with file|daemon\.json",
        "its configuration /etc/docker/daemon.json is not valid",
        "Correct /etc/docker/daemon.json; then run it again.",
    ),
)


class EngineUnavailable(ExpectedError):
    """No Docker engine answers, and none can be started; `detail` is the end of a daemon's log where there is one."""

    default_advice = (
        "Install and start Docker Engine, or set DOCKER_HOST to one that can be reached; then run it again."
    )


def start_with_systemd(progress: Progress, *, answers: Callable[[], bool]) -> None:
    outcome = subprocess.run(["systemctl", "start", "docker"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if outcome.returncode != 0:
        journal = subprocess.run(
            ["journalctl", "--unit=docker", "--no-pager", f"--lines={TAIL_LINES}"], capture_output=True, text=True
        )
        raise explain("dockerd", f"{outcome.stderr}\n{journal.stdout}")
    _wait("dockerd", None, None, answers, progress)


def start(folder: Path, progress: Progress, *, answers: Callable[[], bool]) -> list[str]:
    """Of both daemons what doesn't run, with their logs and the record of what was started in `folder`; their names.
    Where one does not come up, none that was started here stays behind, nor on record but for what was there before."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount_cgroups(progress)
    before = _record(folder)
    launched: dict[str, Process] = {}
    try:
        _ensure_containerd(folder, launched, progress)
        dockerd = None
        if not _runs_already():
            dockerd = _launch(["dockerd", *_dockerd_options()], folder, launched)

        def both_answer() -> bool:
            # Without it dockerd would be waited for in vain, and it may die meanwhile.
            _ensure_containerd(folder, launched, progress)
            return answers()

        _wait("dockerd", dockerd, folder / "dockerd.log", both_answer, progress)
    except BaseException:
        for process in reversed(launched.values()):
            end_alone(process, patience=10)
        _take_back(folder, launched, before)
        raise
    return list(launched)


def _take_back(folder: Path, launched: Mapping[str, Process], before: Mapping[str, tuple[int, int]]) -> None:
    """What never ran has not died, and nobody is to start it again. One that had run before is still to be brought
    back, and one that did not end is still ours to stop."""
    ended = [name for name, process in launched.items() if not process.alive]
    record = {name: known for name, known in _record(folder).items() if name not in ended}
    _write_record(folder, record | {name: before[name] for name in ended if name in before})


def _ensure_containerd(folder: Path, launched: dict[str, Process], progress: Progress) -> None:
    if not _accepts(CONTAINERD_SOCKET):
        process = _launch(["containerd"], folder, launched)
        _wait("containerd", process, folder / "containerd.log", lambda: _accepts(CONTAINERD_SOCKET), progress)


def died(folder: Path) -> list[str]:
    """The names of those that an earlier `start` left running and nobody has stopped, and which don't run."""
    return [name for name, (pid, began) in _record(folder).items() if not Process(pid, began).alive]


def forget_dead(folder: Path) -> None:
    """What was stopped on purpose stays so, and what somebody else has started since is theirs."""
    dead = died(folder)
    _write_record(folder, {name: known for name, known in _record(folder).items() if name not in dead})


def started(folder: Path) -> list[Process]:
    """What an earlier `start` left running, in the order in which to stop it."""
    record = _record(folder)
    processes = [Process(*record[name]) for name in ("dockerd", "containerd") if name in record]
    return [process for process in processes if process.alive]


def stop(folder: Path, *, patience: float = 30.0) -> None:
    """Each with `patience` seconds to write down what it knows; never their children: those are the containers."""
    for daemon in started(folder):
        if not end_alone(daemon, patience=patience):
            raise EngineUnavailable(
                f"{name_of(daemon.pid)} (process {daemon.pid}) does not stop.",
                advice=f"See what it says in {folder}, and end it by hand: kill -9 {daemon.pid}",
            )
    forget_dead(folder)


def explain(daemon: str, log: str) -> EngineUnavailable:
    """Why a daemon doesn't run, from what it wrote, as an error with its reader's next move."""
    text = _telling(log)
    for pattern, meaning, advice in REASONS:
        if re.search(pattern, text):
            return EngineUnavailable(f"{daemon} does not start: {meaning}.", detail=text, advice=advice)
    return EngineUnavailable(f"{daemon} does not start.", detail=text)


def _telling(log: str) -> str:
    """The last lines of a daemon's log that are more than news."""
    lines = log.strip().splitlines()
    return "\n".join(([line for line in lines if "level=info" not in line] or lines)[-TAIL_LINES:])


def _wait(
    daemon: str,
    process: "subprocess.Popen[bytes] | None",
    log: Path | None,
    answers: Callable[[], bool],
    progress: Progress,
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        said = log.read_text(errors="replace") if log is not None else ""
        if process is not None and process.poll() is not None:
            raise explain(daemon, said)
        if time.monotonic() > deadline:
            raise EngineUnavailable(
                f"{daemon} was started but does not answer after {START_SECONDS:.0f} s.",
                detail=_telling(said),
            )
        progress.log(said[-500:])
        time.sleep(0.1)


def _launch(argv: Sequence[str], folder: Path, launched: dict[str, Process]) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that a Ctrl-C at our terminal isn't meant for it, and without our secrets. On record
    before it answers: whoever starts it may die meanwhile."""
    program = find_program(argv[0])
    if program is None:
        raise EngineUnavailable(f"{argv[0]} is not on this machine.")
    ours = ("OCORE_", "DJANGO_", "DATABASE_URL", "REDIS_URL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["PATH"] = os.pathsep.join([environment.get("PATH", ""), *SYSTEM_PATH])
    log = folder / f"{argv[0]}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))  # why the one before has ended
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    known = Process.of(process.pid)
    if known is not None:
        launched[argv[0]] = known
        # An older containerd of ours that still runs stays ours when only dockerd had to be started anew.
        _write_record(folder, _record(folder) | {argv[0]: (known.pid, known.began)})
    return process


def _record(folder: Path) -> dict[str, tuple[int, int]]:
    """One that can't be read is empty: then nothing is known to be ours, and nothing is started or stopped."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return {str(name): (int(pid), int(began)) for name, (pid, began) in record.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        _tell_unreadable(folder / RECORD, str(error))
        return {}


@cache
def _tell_unreadable(path: Path, problem: str) -> None:
    """Once, since it is read every second."""
    logger.error(
        "The record of the Docker engine that oCore started, %s, can't be read (%s): an engine of ours that dies is "
        "not started again, nor stopped by make down. Start it anew: end dockerd by hand, then run make up.",
        path,
        problem,
    )


def _write_record(folder: Path, record: Mapping[str, tuple[int, int]]) -> None:
    """Whole or not at all, whatever happens to the machine meanwhile."""
    temporary = folder / f"{RECORD}.new"
    with temporary.open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / RECORD)


def _dockerd_options() -> list[str]:
    """An option that stands in daemon.json too keeps dockerd from starting."""
    try:
        configured = json.loads(DAEMON_JSON.read_text() or "{}")
    except FileNotFoundError:
        configured = {}
    except json.JSONDecodeError as error:
        raise EngineUnavailable(
            f"The Docker engine's configuration {DAEMON_JSON} is not valid JSON: {error}.",
            advice=f"Correct {DAEMON_JSON}; then run it again.",
        ) from error
    options = []
    if "containerd" not in configured:
        options.append(f"--containerd={CONTAINERD_SOCKET}")
    if "live-restore" not in configured:
        options.append("--live-restore")
    return options


def _runs_already() -> bool:
    """Whether the pid file names a living dockerd. One that doesn't goes: dockerd refuses to start while any process
    has that pid, which after a crash or a reboot is somebody else's. (containerd's own, which dockerd falls over too,
    isn't read: containerd is started apart.)"""
    try:
        pid = int(DOCKER_PID_FILE.read_text().strip() or "0")
    except (FileNotFoundError, ValueError):
        pid = 0
    if name_of(pid) == "dockerd" and Process.of(pid) is not None:
        return True
    DOCKER_PID_FILE.unlink(missing_ok=True)
    return False


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _mount_cgroups(progress: Progress) -> None:
    """Where no init did it; the script comes with Debian's cgroupfs-mount."""
    mounted = (CGROUPS / "cgroup.controllers").exists() or (CGROUPS / "memory" / "tasks").exists()
    script = find_program("cgroupfs-mount")
    if not mounted and script is not None:
        outcome = subprocess.run([script], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        progress.log(outcome.stdout + outcome.stderr)
