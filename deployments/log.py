"""A step's log: redacted, in chunks small enough to follow live and few enough to keep."""

import threading
import time
from collections.abc import Iterable

from deployments.models import LogChunk, Step
from ocore.redaction import redact

FLUSH_SECONDS = 0.5
FLUSH_CHARACTERS = 8_000
MAX_CHARACTERS = 4_000_000
"""Of one step; a build that prints more is cut, and says so."""


class StepLog:
    """Collects text, writes it at most twice a second. Safe to call from several threads."""

    def __init__(self, step: Step, secrets: Iterable[str] = ()) -> None:
        self._step = step
        self._secrets = list(secrets)
        self._lock = threading.Lock()
        self._pending: list[str] = []
        self._size = 0
        self._total = 0
        self._written = time.monotonic()

    def __call__(self, text: str) -> None:
        if not text.strip():
            self._pulse()
            return
        with self._lock:
            if self._total > MAX_CHARACTERS:
                return
            self._total += len(text)
            if self._total > MAX_CHARACTERS:
                text = "... the log is cut here: it is too long.\n"
            self._pending.append(text if text.endswith("\n") else text + "\n")
            self._size += len(text)
            if self._size >= FLUSH_CHARACTERS or time.monotonic() - self._written >= FLUSH_SECONDS:
                self._flush()

    def _pulse(self) -> None:
        """Work that is silent says so once a second: what was said last is shown, not kept until it says more."""
        with self._lock:
            if time.monotonic() - self._written >= FLUSH_SECONDS:
                self._flush()

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            text = redact("".join(self._pending), self._secrets).replace("\x00", "")
            LogChunk.objects.create(step=self._step, text=text)
        self._pending, self._size, self._written = [], 0, time.monotonic()
