"""Keeps the portal's programs running, in the foreground, until it is told to stop; one per state folder. With them an
engine that oCore started: that one goes on when it stops.

    with Supervisor(progress) as supervisor:   # Redis first, then the rest
        supervisor.wait_for_web()
        ...                                    # Ctrl-C, SIGTERM, SIGHUP raise KeyboardInterrupt here
        supervisor.wait()                      # returns when told to stop

honcho reads the Procfile and prints; it ends everything when one program ends, so keeping them alive is ours.
"""

import contextlib
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, TextIO

from django.conf import settings
from honcho.colour import get_colours
from honcho.printer import Message, Printer

from ocore.errors import ExpectedError
from ocore.machine import redis, web
from ocore.machine.child import Child
from ocore.machine.engine import Guard
from ocore.machine.processes import Process, end, end_alone, send
from ocore.machine.programs import Program, environment, portal_programs
from ocore.machine.progress import Progress
from ocore.machine.standstill import Watch

PATIENCE = 8.0
"""Seconds that programs get to finish what they do when told to stop; a deployment that was cut is taken over by the
reconciler."""
GUARD_SECONDS = 0.5
WATCH_SECONDS = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class AlreadyRunning(ExpectedError):
    default_advice = "Use the one that runs, or stop it first with: make down"


class Supervisor:
    def __init__(
        self,
        progress: Progress,
        programs: Sequence[Program] | None = None,
        *,
        state_dir: Path | None = None,
        echo: TextIO | None = None,
        patience: float = PATIENCE,
        first_pause: float = 0.5,
    ) -> None:
        """`echo`: where the programs' output goes too, besides a file for each in the state folder's `log/`."""
        self.progress = progress
        self.programs = list(programs if programs is not None else portal_programs())
        self.state_dir = Path(state_dir or settings.STATE_DIR)
        self.patience = patience
        self._first_pause = first_pause
        self._printer = Printer(echo, width=max(len(program.name) for program in self.programs)) if echo else None
        self._colours = dict(zip((program.name for program in self.programs), get_colours(), strict=False))
        self._children: list[Child] = []
        self._tending = threading.Lock()
        self._printing = threading.Lock()
        self._stopping = threading.Event()
        self._failure: ExpectedError | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._lock: IO[str] | None = None
        self.stopped: list[str] = []
        """The names of the programs that were ended with it."""
        self.stopped_by = ""
        """What made it end: Ctrl-C or a signal's name; empty where it wasn't told to."""

    def __enter__(self) -> "Supervisor":
        self._lock = _lock(self.state_dir)
        if self._lock is None:
            runs = running(self.state_dir)
            raise AlreadyRunning(f"oCore runs already, as process {runs.pid if runs else 'unknown'}.")
        self._handlers = {number: signal.signal(number, self._interrupt) for number in STOP_SIGNALS}
        try:
            end(_recorded(self.state_dir), patience=self.patience)
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._failure is not None and isinstance(error, KeyboardInterrupt):
            raise self._failure from None

    def wait_for_web(self, timeout: float = 60.0) -> float:
        """Until the portal answers; how many seconds that took."""
        began = time.monotonic()
        web.wait_until_healthy(timeout=timeout, log=self.state_dir / "log" / "web.log")
        return time.monotonic() - began

    def wait(self) -> None:
        """Until told to stop; raises `ProgramKeepsEnding` when one of the programs can't be kept alive."""
        with contextlib.suppress(KeyboardInterrupt):
            while self._failure is None:
                time.sleep(1)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End all of them within seconds, Redis last; may be called again."""
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        self._stopping.set()
        with self._tending:
            children, self._children = self._children, []
            self.stopped += [child.program.name for child in children]
            last = [child for child in children if child.program.name == "redis"]
            for group in ([child for child in children if child not in last], last):
                end([child.process for child in group if child.process is not None], patience=self.patience)
                for child in group:
                    child.reap()
        if self._lock is not None:
            _record_path(self.state_dir).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._handlers = {}

    def _start(self) -> None:
        names = [program.name for program in self.programs]
        if "web" in names:
            web.refuse_taken_address()
        (self.state_dir / "log").mkdir(parents=True, exist_ok=True)
        for program in sorted(self.programs, key=lambda program: program.name != "redis"):
            child = Child(
                program,
                self.state_dir / "log" / f"{program.name}.log",
                cwd=Path(settings.BASE_DIR),
                environment=environment(),
                echo=self._echo,
                first_pause=self._first_pause,
            )
            child.start()
            self._children.append(child)
            self._record()
            if program.name == "redis":
                redis.wait_for_redis(timeout=15)
        threading.Thread(target=self._tend, daemon=True).start()
        threading.Thread(target=self._guard_engine, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _tend(self) -> None:
        while not self._stopping.wait(0.1):
            with self._tending:
                for child in self._children:
                    try:
                        if child.tend():
                            self._record()
                            self.progress.say(f"{child.program.name} had ended and was started again")
                    except ExpectedError as error:
                        self._failure = error
                        os.kill(os.getpid(), signal.SIGTERM)
                        return

    def _guard_engine(self) -> None:
        """Apart, since an engine takes its time to start. It is not ended with the programs: containers run on it."""
        guard = Guard(self.state_dir / "engine")
        while not self._stopping.wait(GUARD_SECONDS):
            guard.look(self.progress)

    def _watch(self) -> None:
        """Apart, since Redis is asked. What is killed here the others start again."""
        watch = Watch(settings.OCORE_STANDSTILL_SECONDS)
        while not self._stopping.wait(WATCH_SECONDS):
            programs = {child.program.name: child.process for child in list(self._children) if child.process}
            for name, process in watch.look(programs):
                self.progress.say(f"{name} stood still for a while and is killed (process {process.pid})")
                send([process], signal.SIGKILL)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        if self._failure is None:
            self.stopped_by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        raise KeyboardInterrupt

    def _echo(self, name: str, line: str) -> None:
        if self._printer is None:
            return
        with self._printing, contextlib.suppress(OSError):  # as for `Progress`: nobody may take it any more
            self._printer.write(Message("line", line, datetime.now(), name, self._colours.get(name)))

    def _record(self) -> None:
        own = Process.of(os.getpid())
        everyone = [own, *(child.process for child in self._children)]
        path = _record_path(self.state_dir)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps([(process.pid, process.began) for process in everyone if process]))
        temporary.replace(path)


def running(state_dir: Path | None = None) -> Process | None:
    """The supervisor of that state folder, when there is one."""
    folder = Path(state_dir or settings.STATE_DIR)
    lock = _lock(folder)
    if lock is not None:
        lock.close()
        return None
    recorded = _read(folder)
    return recorded[0] if recorded else None


def lives(state_dir: Path | None = None) -> bool:
    """Whether there is one, by its record: may be asked at any time, also while one starts, since it leaves the lock
    alone."""
    recorded = _read(Path(state_dir or settings.STATE_DIR))
    return bool(recorded) and recorded[0].alive


def stop_running(progress: Progress, *, state_dir: Path | None = None, timeout: float = 30.0) -> bool:
    """Stop the supervisor of that state folder and whatever one that was killed has left. False: there was nothing."""
    folder = Path(state_dir or settings.STATE_DIR)
    supervisor = running(folder)
    left = _recorded(folder)
    if supervisor is None and not any(process.alive for process in left):
        return False
    with progress.step("Stopping the portal"):
        # Alone: its family may include the engine that it started, which goes on.
        if supervisor is not None and not end_alone(supervisor, patience=timeout):
            send([supervisor], signal.SIGKILL)
        end(left, patience=PATIENCE)
        _record_path(folder).unlink(missing_ok=True)
    return True


def _lock(state_dir: Path) -> IO[str] | None:
    """The file that a supervisor holds locked while it lives; None when one does. Dies with its holder."""
    folder = state_dir / "run"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "supervisor.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _record_path(state_dir: Path) -> Path:
    return state_dir / "run" / "supervisor.json"


def _read(state_dir: Path) -> list[Process]:
    """The supervisor, then its programs."""
    try:
        entries = json.loads(_record_path(state_dir).read_text())
    except FileNotFoundError:
        return []
    return [Process(pid, began) for pid, began in entries]


def _recorded(state_dir: Path) -> list[Process]:
    """The programs that a supervisor has noted; living ones without it are what a killed one left."""
    return _read(state_dir)[1:]
