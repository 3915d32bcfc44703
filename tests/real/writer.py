"""A client that keeps writing into a real Odoo through the edge, and remembers every answer."""

import threading
import time
from dataclasses import dataclass, field

import requests


@dataclass
class Attempt:
    title: str
    started: float
    seconds: float
    status: int
    """0: no answer at all."""


@dataclass
class Writer:
    """Posts notes to the demo's addon, `per_second` of them, each from a thread of its own so that a held one holds
    up nobody. Bounded: it stops by itself after `limit` notes."""

    url: str
    host: str
    per_second: float = 10
    limit: int = 6000
    prefix: str = "note"
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._pacer = threading.Thread(target=self._pace, daemon=True)

    def __enter__(self) -> "Writer":
        self._pacer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new note; wait for the answers that are still out."""
        self._stop.set()
        self._pacer.join()
        for thread in self._threads:
            thread.join()

    def _pace(self) -> None:
        for number in range(self.limit):
            if self._stop.wait(1 / self.per_second):
                return
            thread = threading.Thread(target=self._write, args=(f"{self.prefix}-{number}",), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _write(self, title: str) -> None:
        started = time.monotonic()
        try:
            answer = requests.post(
                f"{self.url}/acme_notes/post", json={"title": title}, headers={"Host": self.host}, timeout=180
            )
            status = answer.status_code
        except requests.RequestException:
            status = 0
        with self._lock:
            self.attempts.append(Attempt(title, started, time.monotonic() - started, status))

    @property
    def accepted(self) -> set[str]:
        with self._lock:
            return {attempt.title for attempt in self.attempts if attempt.status == 201}

    @property
    def failed(self) -> list[Attempt]:
        with self._lock:
            return [attempt for attempt in self.attempts if attempt.status != 201]

    @property
    def longest(self) -> float:
        with self._lock:
            return max((attempt.seconds for attempt in self.attempts), default=0.0)
