"""How git is run: in an environment of its own (`environment`), no shell, a deadline, nothing left running."""

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

from ocore import waiting
from ocore.redaction import redact

from . import errors, host_keys
from .access import Access
from .address import Address
from .environment import environment

Log = Callable[[str], None]
"""Takes whole lines as they come. May raise to stop what runs, which is then killed."""

_TALKING = ("fetch", "ls-remote")
"""The commands that speak with a remote. No other gets to see credentials."""
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

    def __init__(self, address: Address, access: Access | None = None, *, deadlines: Deadlines) -> None:
        self.address, self.access, self.deadlines = address, access or Access(), deadlines

    def redact(self, text: str) -> str:
        return redact(text, self.access.secrets)

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
            raise errors.from_local_output(text) if local else self._error(text)
        return Result(code, output, text)

    def _error(self, said: str) -> errors.GitError:
        error = errors.from_output(self.address.url, said)
        if isinstance(error, errors.HostKeyUnknown):
            return host_keys.with_offer(error, self.address.host, self.address.port)
        return error

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
        access = self.access if arguments[0] in _TALKING else None
        with environment(self.address, access, git_dir, self.deadlines.silence) as surroundings:
            try:
                process = subprocess.Popen(
                    ["git", *arguments],
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=surroundings,
                    cwd="/",
                    start_new_session=True,
                    pass_fds=tuple(keep),
                )
            except FileNotFoundError:
                raise errors.program_missing("git", "git") from None
            try:
                yield process
            finally:
                _end(process)
                for pipe in (process.stdout, process.stderr):
                    if pipe:
                        pipe.close()

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


def version() -> tuple[int, ...]:
    """Of the git on this machine; empty when there is none."""
    try:
        said = subprocess.run(["git", "version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in match.groups() if part) if match else ()
