"""How git is run: nothing of the machine's configuration, nothing of the repository's, no prompt, no shell, a deadline.

The token reaches git through a credential helper that reads the child's environment, and git asks that helper only
for the origin it belongs to. It is in no argument, address or file.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from django.conf import settings

from ocore import waiting
from ocore.redaction import redact

from . import errors
from .address import Address

Log = Callable[[str], None]
"""Takes whole lines as they come. May raise to stop what runs, which is then killed."""

_PASSED_ON = (
    "PATH", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
    "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)  # fmt: skip
_CREDENTIAL_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$OCORE_GIT_USERNAME" "$OCORE_GIT_TOKEN"; }; f'
)
_SSH = (
    'ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o "UserKnownHostsFile=\\"$OCORE_GIT_KNOWN_HOSTS\\"" '
    "-o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o ControlMaster=no -o ControlPath=none "
    "-o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no"
)
_PROGRESS = re.compile(r"(?:remote: )?[A-Z][a-z]+ [a-z ]*:? +\d+% \(")
_PROGRESS_EVERY = 2.0
_STDERR_KEPT = 8 * 1024
_TERM_GRACE = 3.0
MINIMUM_VERSION = (2, 34)


@dataclass(frozen=True)
class Deadlines:
    """Seconds in all, and seconds without a sign of life."""

    total: float = 1800
    silence: float = 120


@dataclass(frozen=True)
class Result:
    code: int
    output: bytes
    said: str
    """The end of standard error, without secrets."""


class Git:
    """git with the credentials for one address, and the environment that it is safe to run in."""

    def __init__(self, address: Address, *, username: str = "", token: str = "", deadlines: Deadlines) -> None:
        if re.search(r"[\x00-\x1f\x7f]", username + token):
            raise errors.RepositoryRefused(
                "The user name or access token contains a line break or another control character.",
                advice="Enter it again, without white space around it.",
            )
        self.address = address
        self.username = username or address.user or "x-access-token"
        self.token = token if address.scheme == "https" else ""
        self.deadlines = deadlines

    def redact(self, text: str) -> str:
        return redact(text, [self.token] if self.token else [])

    def run(
        self,
        *arguments: str,
        git_dir: Path | None = None,
        log: Log | None = None,
        accepted: Sequence[int] = (0,),
        keep: Sequence[int] = (),
        local: bool = False,
    ) -> Result:
        """Run it to its end. An exit code that isn't `accepted` raises the error for what git said; `local` says that
        only our mirror was involved. The child inherits the file descriptors `keep`."""
        with self._process(arguments, git_dir, subprocess.PIPE, keep) as process:
            output, said = self._follow(process, log)
            code = process.wait()
        text = self.redact(said.decode(errors="replace")).strip()
        if code not in accepted:
            raise errors.from_local_output(text) if local else errors.from_output(self.address.url, text)
        return Result(code, output, text)

    @contextlib.contextmanager
    def stream(self, *arguments: str, git_dir: Path, given: IO[bytes]) -> Iterator["DeadlineReader"]:
        """Standard output to read from as it comes, for what is only about our own mirror; `given` is a file for
        standard input."""
        with (
            tempfile.TemporaryFile() as stderr,
            self._process(arguments, git_dir, stderr, (), given) as process,
        ):
            assert process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
            try:
                with DeadlineReader(process.stdout, self.deadlines) as reader:
                    yield reader
            except errors.StreamEnded:
                process.wait()
                stderr.seek(0)
                said = self.redact(stderr.read(_STDERR_KEPT).decode(errors="replace")).strip()
                raise errors.from_local_output(said) from None

    @contextlib.contextmanager
    def _process(
        self,
        arguments: Sequence[str],
        git_dir: Path | None,
        stderr: int | IO[bytes],
        keep: Sequence[int],
        given: int | IO[bytes] = subprocess.DEVNULL,
    ) -> Iterator["subprocess.Popen[bytes]"]:
        try:
            process = subprocess.Popen(
                ["git", *arguments],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment(git_dir),
                cwd="/",
                start_new_session=True,
                pass_fds=tuple(keep),
            )
        except FileNotFoundError:
            raise errors.MirrorUnusable(
                "There is no git on this machine.", advice="Install it, on Debian with: apt-get install git"
            ) from None
        try:
            yield process
        finally:
            _end(process)
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()

    def _environment(self, git_dir: Path | None) -> dict[str, str]:
        folder = _folder()
        configuration = {
            "protocol.ext.allow": "never",
            "core.hooksPath": "/dev/null",
            "core.fsmonitor": "false",
            "core.attributesFile": "/dev/null",
            "core.symlinks": "false",
            "core.quotePath": "false",
            "gc.auto": "0",
            "maintenance.auto": "false",
            "fetch.recurseSubmodules": "false",
            "fetch.unpackLimit": "1",
            "http.followRedirects": "false",
            "http.lowSpeedLimit": "1",
            "http.lowSpeedTime": str(int(self.deadlines.silence) or 1),
            "log.showSignature": "false",
            "log.mailmap": "false",
        }
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        if self.token:
            configuration[f"credential.{self.address.origin}.helper"] = _CREDENTIAL_HELPER
            environment |= {"OCORE_GIT_USERNAME": self.username, "OCORE_GIT_TOKEN": self.token}
        for number, (name, value) in enumerate(configuration.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return environment | {
            "GIT_CONFIG_COUNT": str(len(configuration)),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(_trusting_config(folder)) if self.address.scheme == "file" else "/dev/null",
            "GIT_ALLOW_PROTOCOL": self.address.scheme,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_DIR": str(git_dir) if git_dir else "/dev/null",
            "GIT_SSH_COMMAND": _SSH,
            "GIT_SSH_VARIANT": "ssh",
            "OCORE_GIT_KNOWN_HOSTS": str(folder / "known_hosts"),
            "HOME": str(folder / "home"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }

    def _follow(self, process: "subprocess.Popen[bytes]", log: Log | None) -> tuple[bytes, bytes]:
        """Collect both streams until they end; a deadline or a raising `log` leaves through the context's kill."""
        output, said = bytearray(), bytearray()
        lines = _Lines(lambda line: log(self.redact(line)) if log is not None else None)
        heard = time.monotonic()
        end = heard + self.deadlines.total
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                waiting.pulse()
                patience = min(heard + self.deadlines.silence, end) - time.monotonic()
                ready = selector.select(max(0, min(patience, waiting.PULSE_SECONDS)))
                now = time.monotonic()
                if now >= end or (not ready and now >= heard + self.deadlines.silence):
                    raise self._late(bytes(said), ended=now >= end)
                heard = now if ready else heard
                for key, _ in ready:
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        output += chunk
                    else:
                        said = (said + chunk)[-_STDERR_KEPT:]
                        lines.feed(chunk)
        lines.close()
        return bytes(output), bytes(said)

    def _late(self, said: bytes, *, ended: bool) -> errors.RepositoryUnreachable:
        what = f"after {self.deadlines.total:.0f} s" if ended else f"after {self.deadlines.silence:.0f} s of silence"
        return errors.RepositoryUnreachable(
            f"git was stopped {what}, working on {self.address.url}.",
            detail=self.redact(said.decode(errors="replace")).strip(),
        )


class DeadlineReader:
    """A pipe that raises when it is silent, or open, for too long."""

    def __init__(self, pipe: IO[bytes], deadlines: Deadlines) -> None:
        self._pipe, self._silence, self._end = pipe, deadlines.silence, time.monotonic() + deadlines.total
        self._buffer = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        return self._take(size)

    def line(self) -> bytes:
        """Without its end."""
        while (end := self._buffer.find(b"\n")) < 0:
            self._fill()
        return self._take(end + 1)[:-1]

    def _fill(self) -> None:
        waiting.pulse()
        end = min(time.monotonic() + self._silence, self._end)
        while not self._selector.select(max(0, min(end - time.monotonic(), waiting.PULSE_SECONDS))):
            waiting.pulse()
            if time.monotonic() >= end:
                raise errors.MirrorUnusable("Reading our copy of the repository took too long and was stopped.")
        chunk = os.read(self._pipe.fileno(), 1 << 16)
        if not chunk:
            raise errors.StreamEnded("git's output ended too early.")
        self._buffer += chunk

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


class _Lines:
    """Cuts git's progress into lines for people: whole ones, and one moving percentage every few seconds."""

    def __init__(self, take: Log) -> None:
        self._take, self._rest, self._told = take, b"", time.monotonic()

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + chunk)
        for raw in lines:
            line = raw.decode(errors="replace").rstrip()
            if not line:
                continue
            if _PROGRESS.match(line) and not line.endswith("done."):
                if time.monotonic() - self._told < _PROGRESS_EVERY:
                    continue
                self._told = time.monotonic()
            self._take(line)

    def close(self) -> None:
        self.feed(b"\n")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Nothing of its process group outlives us: first asked to go (git then removes its lock files), then killed."""
    for sign, patience in ((signal.SIGTERM, _TERM_GRACE), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _folder() -> Path:
    """What git needs of a home: empty, and ours."""
    folder = Path(settings.STATE_DIR) / "git"
    (folder / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _trusting_config(folder: Path) -> Path:
    """For `file://` only, whose folders the operator has named: git otherwise refuses what other users own, and the
    program that serves the folder reads this from no other place."""
    path = folder / "file-repositories.config"
    content = "[safe]\n\tdirectory = *\n"
    if not path.exists() or path.read_text() != content:
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(content)
        fresh.replace(path)
    return path


def version() -> tuple[int, ...]:
    """Of the git on this machine; empty when there is none."""
    try:
        said = subprocess.run(["git", "version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in match.groups() if part) if match else ()
