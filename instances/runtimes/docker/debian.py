"""A Debian root file system made from this machine's own mirror, for base images where no registry answers."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from instances.runtimes.base import ImageMissing, Log
from instances.runtimes.docker.streams import DeadlinePassed, watched
from ocore.machine.packages import ProgramMissing, ensure_program
from ocore.machine.progress import Progress

SUITE = "trixie"
APT_OPTIONS = (
    'APT::Install-Recommends "false"',
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Check-Date "false"',
    'Acquire::Languages "none"',
    'Acquire::Retries "3"',
)
UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
TIMEOUT, SILENCE = 900, 300
"""Seconds for the root file system in all, and without a word; 26 s on two cores."""


@dataclass(frozen=True)
class Entry:
    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def one_line_entries(text: str) -> Iterator[Entry]:
    """The `deb` lines of a `sources.list`."""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        words = words[1:]
        if words and words[0].startswith("["):
            while words and not words.pop(0).endswith("]"):
                pass
        if len(words) >= 3:
            yield Entry(words[0], (words[1],), tuple(words[2:]))


def deb822_entries(text: str) -> Iterator[Entry]:
    """The `deb` stanzas of a `.sources` file."""
    for stanza in "\n".join(line for line in text.splitlines() if not line.startswith("#")).split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in {" ", "\t"}:
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                key = name.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false"}:
            continue
        for uri in fields.get("uris", "").split():
            yield Entry(uri, tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split()))


def mirror(etc: Path = Path("/etc")) -> str:
    """The address from which this machine gets Debian itself. Raises `ImageMissing` where it isn't Debian."""
    release = dict(
        line.split("=", 1) for line in (_read(etc / "os-release")).splitlines() if "=" in line and line[0] != "#"
    )
    codename = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID", "").strip('"') != "debian":
        raise ImageMissing(
            "This machine is not Debian, so no base image can be built from its packages.",
            advice="Let the server reach a registry that has the image, or load it there with `docker load`.",
        )
    apt = etc / "apt"
    entries = list(one_line_entries(_read(apt / "sources.list")))
    for path in sorted((apt / "sources.list.d").glob("*")):
        if path.suffix == ".list":
            entries += one_line_entries(_read(path))
        elif path.suffix == ".sources":
            entries += deb822_entries(_read(path))
    wanted = {codename, "stable", "testing", "unstable", "sid", SUITE} - {""}
    for entry in entries:
        if wanted & set(entry.suites) and "main" in entry.components and (address := _address(entry.uri)):
            return address
    raise ImageMissing(
        "No Debian mirror stands in this machine's apt sources, so no base image can be built from packages.",
        advice="Add a line for Debian itself to /etc/apt/sources.list, or let the server reach a registry.",
    )


def _address(uri: str) -> str:
    """Debian's cloud images name a file that lists mirrors: its first one."""
    if uri.startswith("mirror+file:"):
        listed = _read(Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))).split()
        uri = listed[0] if listed else ""
    return uri if uri.startswith(("http://", "https://")) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def make_root(target: Path, log: Log, pulse: Callable[[float], None]) -> None:
    """Write the root file system of Debian's SUITE to the tar file `target`. Raises `ImageMissing` with the reason."""
    address = mirror()
    try:
        program = ensure_program("mmdebstrap", "mmdebstrap", Progress(log), purpose="Building base images")
    except ProgramMissing as error:
        raise ImageMissing(
            f"No base image can be built from Debian's packages. {error.message}",
            detail=error.detail,
            advice=f"{error.advice} (on the portal's machine), and try again.",
        ) from error
    argv = [program, "--mode=root" if os.geteuid() == 0 else "--mode=unshare", "--variant=minbase"]
    argv += ["--include=ca-certificates"]
    argv += [f"--aptopt={option}" for option in APT_OPTIONS]
    argv += [f"--dpkgopt=path-exclude={path}" for path in UNWANTED]
    argv += [SUITE, str(target), "-"]
    tail: list[str] = []
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        process.stdin.write(f"deb {address} {SUITE} main\n".encode())
        process.stdin.close()
        output = process.stdout
        lines = watched(lambda: output, lambda: _stop(process), timeout=TIMEOUT, silence=SILENCE, pulse=pulse)
        try:
            with closing(lines):  # type: ignore[type-var]
                for line in lines:
                    text = line.decode("utf-8", "replace")
                    tail.append(text)
                    log(text)
                process.wait(30)
        except DeadlinePassed as error:
            raise ImageMissing(f"mmdebstrap {error} and was stopped.", detail="".join(tail[-40:])) from error
    if process.returncode:
        raise ImageMissing(
            f"mmdebstrap could not make Debian {SUITE} (exit {process.returncode}).",
            detail="".join(tail[-40:]),
            advice="Check that this machine reaches its Debian mirror (`apt-get update`) and has space below /tmp.",
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """With all its children; SIGTERM first, since it unmounts and cleans up then."""
    if process.poll() is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return
