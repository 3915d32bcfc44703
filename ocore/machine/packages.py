"""Programs that oCore needs on the machine: found, or installed from Debian's packages, or asked for."""

import os
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ocore.errors import ExpectedError
from ocore.machine.progress import Progress

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
POLICY = Path("/usr/sbin/policy-rc.d")
LISTS = Path("/var/lib/apt/lists")
APT_OPTIONS = (
    "-y",
    "-o=Dpkg::Use-Pty=0",
    "-o=DPkg::Lock::Timeout=300",  # seconds: another apt may be at work
    "-o=Dpkg::Options::=--force-confold",
    "--no-install-recommends",
)


class ProgramMissing(ExpectedError):
    """Something has to be installed that we may not or cannot install."""


def find_program(name: str) -> str | None:
    """Its path. The system's folders count also where a person's PATH lacks them (sbin)."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_PATH]))


def may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and shutil.which("dpkg-query") is not None


def installed(package: str) -> bool:
    answer = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package], capture_output=True, text=True
    )
    return answer.returncode == 0 and answer.stdout == "installed"


def ensure_program(program: str, package: str, progress: Progress, *, purpose: str = "") -> str:
    """The program's path, after installing Debian's `package` where it is missing and we may."""
    found = find_program(program)
    if found is None:
        ensure_packages([package], progress, purpose=purpose or program)
        found = find_program(program)
    if found is None:
        raise ProgramMissing(
            f"{program} is not on this machine, although the package {package} is installed.",
            advice=f"Look where it went with: dpkg --listfiles {package}",
        )
    return found


def ensure_packages(packages: Iterable[str], progress: Progress, *, purpose: str) -> None:
    """Debian's packages are installed, without what they merely recommend and without starting any service."""
    names = list(packages)
    missing = [name for name in names if not installed(name)] if shutil.which("dpkg-query") else names
    if not missing:
        return
    command = ["apt-get", "install", "--no-install-recommends", *missing]
    if not may_install():
        on_debian = shutil.which("apt-get") is not None
        raise ProgramMissing(
            f"{purpose} needs {', '.join(missing)} (so Debian calls it), which this machine lacks; "
            f"only root on Debian can have it installed by oCore.",
            advice=(
                f"Run: sudo {shlex.join(command)}"
                if on_debian
                else f"Install it with your system's package manager: {', '.join(missing)}"
            ),
        )
    with progress.step(f"Installing {', '.join(missing)} for {purpose}"), _no_service_starts():
        _install(missing, progress)


def _install(packages: Sequence[str], progress: Progress) -> None:
    """Refreshes the package lists only when they are absent or too old to serve."""
    fresh = any(LISTS.glob("*_Packages*"))
    update = None if fresh else _apt(["update"], progress)
    code, output = _apt(["install", *packages], progress)
    if code != 0 and fresh:
        update = _apt(["update"], progress)
        code, output = _apt(["install", *packages], progress)
    if code != 0:
        # An update may fail for one source of many and still do: it is told only when the rest failed too.
        told = f"{update[1]}\n{output}" if update is not None and update[0] != 0 else output
        raise ProgramMissing(
            f"apt-get could not install {', '.join(packages)}.",
            detail=told,
            advice="Check that Debian's package mirror can be reached and the disk is not full; then run it by hand: "
            + shlex.join(["apt-get", "install", *packages]),
        )


def _apt(arguments: Sequence[str], progress: Progress) -> tuple[int, str]:
    """Exit code and the last lines that it wrote."""
    tail: deque[str] = deque(maxlen=25)
    with subprocess.Popen(
        ["apt-get", *APT_OPTIONS, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_SUSPEND": "1"},
    ) as apt:
        for line in apt.stdout or ():
            tail.append(line.rstrip())
            progress.log(line)
    return apt.returncode, "\n".join(tail)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts a service when it is installed. Not here: Redis would take its well-known port for nothing, and
    without systemd Docker's start script fails and the installation with it. We start what we need ourselves."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
