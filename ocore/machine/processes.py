"""Processes as the kernel knows them: who is still the same one, who belongs to it, and how to end them all.

A pid alone names nobody for long: it is given out again. With the instant at which its process began it does.
Reads /proc; where there is none (not Linux), only what the standard library can tell.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
KILL_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Process:
    pid: int
    began: int
    """In clock ticks since the machine started; 0 where the kernel doesn't tell."""

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The living process of that pid. A zombie is not living."""
        fields = _stat(pid)
        if fields is not None:
            return None if fields[0] in "ZX" else cls(pid, int(fields[19]))
        if PROC.is_dir():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return cls(pid, 0)

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    @property
    def stopped(self) -> bool:
        """By a signal, until another one lets it go on. One that a debugger traces is not."""
        fields = _stat(self.pid)
        return fields is not None and fields[0] == "T" and self.alive


def own_name() -> str:
    """Names this very process for the rows: where it lives (boot and pid namespace), its pid, and when it began."""
    me = Process.of(os.getpid())
    return f"{_here()} {os.getpid()} {me.began if me else 0}"


def available_memory() -> int | None:
    """Bytes that programs on this machine could still take (`MemAvailable`, Linux); None where nobody says."""
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "")
    return int(kilobytes) * 1024 if kilobytes.isdecimal() else None


def die_with_parent(parent: int) -> None:
    """From now on the kernel kills this process when its parent ends, however that ends. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it had ended before
        os.kill(os.getpid(), signal.SIGKILL)


def is_dead(name: str) -> bool:
    """Whether the process of that `own_name` is certainly gone. One that lives elsewhere can't be told from here."""
    process = _local(name)
    return process is not None and not process.alive


def kill_named(name: str) -> bool:
    """The process of that `own_name` does nothing any more, if it lives here; never this one. False: it lives on."""
    process = _local(name)
    if process is None or process.pid == os.getpid():
        return True
    send([process], signal.SIGKILL)
    deadline = time.monotonic() + KILL_SECONDS
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    return not process.alive


def _local(name: str) -> Process | None:
    place, _, rest = name.partition(" ")
    pid, _, began = rest.partition(" ")
    return Process(int(pid), int(began)) if place and place == _here() else None


@cache
def _here() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _stat(pid: int) -> list[str] | None:
    """The fields after the name: state, parent, group, session, ... (proc(5)); the name may hold anything."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def name_of(pid: int) -> str:
    """The program's name, at most 15 characters; empty when there is no such process."""
    try:
        return (PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def family(leaders: Iterable[Process]) -> set[Process]:
    """The living among the leaders, all their descendants, and all in the sessions that they opened.

    An RQ work horse makes a process group of its own and outlives its worker; its session tells whose it is.
    """
    found = {leader for leader in leaders if leader.alive}
    sessions = {leader.pid for leader in found}
    pids = {leader.pid for leader in found}
    everyone = list(_everyone())
    grown = True
    while grown:
        grown = False
        for parent, session, process in everyone:
            if process.pid not in pids and (parent in pids or session in sessions):
                pids.add(process.pid)
                found.add(process)
                grown = True
    return found


def in_session(pid: int) -> set[Process]:
    """The living in the session that this process opened, also when it is no longer there itself."""
    return {process for _, session, process in _everyone() if session == pid}


def _everyone() -> Iterator[tuple[int, int, Process]]:
    """Parent, session and process of all that live."""
    for entry in PROC.glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None and fields[0] not in "ZX":
            yield int(fields[1]), int(fields[3]), Process(int(entry.name), int(fields[19]))


def send(processes: Iterable[Process], sig: signal.Signals) -> None:
    for process in processes:
        if process.alive:
            try:
                os.kill(process.pid, sig)
            except ProcessLookupError:
                continue


def end_alone(process: Process, *, patience: float) -> bool:
    """Ask one process to stop, and nobody of its family; whether it did within `patience` seconds."""
    send([process], signal.SIGTERM)
    deadline = time.monotonic() + patience
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    return not process.alive


def end(leaders: Iterable[Process], *, patience: float) -> None:
    """Ask the leaders to stop (SIGTERM); after `patience` seconds kill whoever of their families is left."""
    leaders = list(leaders)
    known = family(leaders)
    send(leaders, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(process.alive for process in known):
        known |= family(leaders)
        time.sleep(0.05)
    known |= family(known)
    send(known, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(process.alive for process in known):
        time.sleep(0.02)
