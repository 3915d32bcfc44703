"""One supervised program: started, its output kept, started again when it ends, given up when that doesn't help."""

import logging
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ocore.errors import ExpectedError
from ocore.machine.processes import Process, in_session, send
from ocore.machine.programs import Program

HEALTHY_AFTER = 60.0
"""Seconds after which a program that ends is not one that can't start."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
MOST_FAILURES = 6
"""In a row; with the pauses doubling in between, half a minute of trying."""
LOG_BYTES = 10 * 1024 * 1024
TAIL_LINES = 15


class ProgramKeepsEnding(ExpectedError):
    """A part of the portal ends again and again; `detail` is the last that it said."""


class Child:
    def __init__(
        self,
        program: Program,
        log: Path,
        *,
        cwd: Path,
        environment: Mapping[str, str],
        echo: Callable[[str, str], None],
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self.program = program
        self.process: Process | None = None
        self._cwd, self._environment, self._echo, self._first_pause = cwd, environment, echo, first_pause
        self._log_path = log
        self._log = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._popen: subprocess.Popen[bytes] | None = None
        self._began = self._due = 0.0
        self._failures = 0

    def start(self) -> None:
        """In a session of its own: a Ctrl-C at the terminal is the supervisor's alone."""
        try:
            self._popen = subprocess.Popen(
                self.program.argv,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramKeepsEnding(
                f"{self.program.name} can't be started: {self.program.argv[0]}: {error.strerror}.",
                advice="Check that the virtual environment is whole: remove .venv and run it again.",
            ) from error
        self._began = time.monotonic()
        self.process = Process.of(self._popen.pid)
        self._write(f"-- started as process {self._popen.pid}")
        threading.Thread(target=self._read, args=(self._popen,), daemon=True).start()

    def tend(self) -> bool:
        """Start it again if it ended and its pause is over. True when there is a new process. Raises
        `ProgramKeepsEnding` when that has been tried often enough."""
        if self._popen is None:
            if time.monotonic() < self._due:
                return False
            self.start()
            return True
        if self._popen.poll() is None:
            return False
        code = self._popen.returncode
        # A worker that was killed leaves a horse that goes on deploying, unknown to whoever stops us later.
        send(in_session(self._popen.pid), signal.SIGKILL)
        if time.monotonic() - self._began >= HEALTHY_AFTER:
            self._failures = 0
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            raise ProgramKeepsEnding(
                f"{self.program.name} ended {self._failures} times in a row, at last with {_spoken(code)}.",
                detail="\n".join(self._tail),
                advice=f"The rest of what it said is in {self._log_path}.",
            )
        pause = min(self._first_pause * 2 ** (self._failures - 1), LONGEST_PAUSE)
        self._due = time.monotonic() + pause
        self._popen = self.process = None
        self._write(f"-- ended with {_spoken(code)}; started again in {pause:g} s")
        return False

    def reap(self) -> None:
        """After it was ended on purpose."""
        if self._popen is not None:
            self._popen.wait()
        self._write("-- stopped")
        self._log.close()

    def _read(self, popen: "subprocess.Popen[bytes]") -> None:
        if popen.stdout is None:
            return
        with popen.stdout as output:
            for line in iter(lambda: output.readline(65536), b""):
                self._write(line.decode("utf-8", "replace").rstrip("\n"))

    def _write(self, line: str) -> None:
        self._tail.append(line)
        self._log.handle(logging.makeLogRecord({"msg": line}))
        self._echo(self.program.name, line)


def _spoken(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
