"""Tells whoever started us, at a terminal or in a log, what is going on: a line per event, no silent stretch."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ocore.errors import ExpectedError

WORTH_SAYING = 1.0
"""Seconds a step must have taken for its end to get a line of its own."""


@dataclass
class _Step:
    title: str
    began: float
    latest: str = field(default="")


class Progress:
    """Plain lines with the seconds since the start in front. While a step is silent for `heartbeat` seconds, a line
    says that it is still going on, for how long, and what it last reported. May be used from several threads.

    Told to standard output, or to whoever takes whole lines as `write` (a deployment's log)."""

    def __init__(self, write: Callable[[str], object] | None = None, *, heartbeat: float = 10.0) -> None:
        self._write = write or _print
        self.heartbeat = heartbeat
        self.began = time.monotonic()
        self._lock = threading.RLock()
        self._steps: list[_Step] = []
        self._last_line = self.began

    @property
    def seconds(self) -> float:
        """Since this progress began."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """One event; further lines of `text` are indented under it."""
        with self._lock:
            stamp = f"[{self.seconds:6.1f} s] "
            for number, line in enumerate(text.splitlines() or [""]):
                self._write((stamp if number == 0 else " " * len(stamp)) + line.rstrip() + "\n")
            self._last_line = time.monotonic()

    def log(self, text: str) -> None:
        """Output of the work of the current step: kept for the next line that says that it still goes on."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        with self._lock:
            if lines and self._steps:
                self._steps[-1].latest = lines[-1][:160]

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Say that something begins, that it goes on, and that it is done; may be nested."""
        self.say(f"{title} ...")
        step = _Step(title, time.monotonic())
        with self._lock:
            self._steps.append(step)
        over = threading.Event()
        threading.Thread(target=self._beat, args=(step, over), daemon=True).start()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            over.set()
            with self._lock:
                self._steps.remove(step)
            took = time.monotonic() - step.began
            if outcome == "failed" or took >= WORTH_SAYING:
                self.say(f"{title}: {outcome} after {took:.1f} s")

    def _beat(self, step: _Step, over: threading.Event) -> None:
        while not over.wait(max(self._due(), 0.01)):
            with self._lock:
                if over.is_set() or self._steps[-1:] != [step] or self._due() > 0:
                    continue
                latest = f": {step.latest}" if step.latest else ""
                self.say(f"still {_lower(step.title)}, {time.monotonic() - step.began:.0f} s{latest}")

    def _due(self) -> float:
        """Seconds until a silence gets too long; a step that has another one inside it looks again after a while."""
        due = self._last_line + self.heartbeat - time.monotonic()
        return due if due > 0 else 0.0


def _print(line: str) -> None:
    """A reader that has gone, or a full disk behind it, ends nobody's work."""
    with suppress(OSError):
        sys.stdout.write(line)
        sys.stdout.flush()


def _lower(title: str) -> str:
    """For the middle of a sentence; names and abbreviations keep their capitals."""
    first = title.split(" ", 1)[0]
    return title[:1].lower() + title[1:] if first[1:].islower() else title


def told(error: ExpectedError) -> str:
    """An expected failure for a terminal: what happened, what the machine said, what to do."""
    detail = "".join(f"\n    {line}" for line in error.detail.strip().splitlines())
    return error.message + detail + (f"\n{error.advice}" if error.advice else "")
