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
    success = 201

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
            status = self._ask(title)
        except requests.RequestException:
            status = 0
        with self._lock:
            self.attempts.append(Attempt(title, started, time.monotonic() - started, status))

    def _ask(self, title: str) -> int:
        named = {"Host": self.host}
        return requests.post(
            f"{self.url}/acme_notes/post", json={"title": title}, headers=named, timeout=180
        ).status_code

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Until so many further requests have been answered, or have failed."""
        wanted, deadline = len(self.attempts) + more, time.monotonic() + seconds
        while len(self.attempts) < wanted:
            assert time.monotonic() < deadline, f"{len(self.attempts)} of {wanted} requests are answered"
            time.sleep(0.05)

    def forget(self, attempts: list[Attempt]) -> None:
        """They have been judged; what is asked for later is asked of the others."""
        with self._lock:
            self.attempts = [attempt for attempt in self.attempts if attempt not in attempts]

    @property
    def accepted(self) -> set[str]:
        with self._lock:
            return {attempt.title for attempt in self.attempts if attempt.status == self.success}

    @property
    def failed(self) -> list[Attempt]:
        with self._lock:
            return [attempt for attempt in self.attempts if attempt.status != self.success]

    @property
    def longest(self) -> float:
        with self._lock:
            return max((attempt.seconds for attempt in self.attempts), default=0.0)


class Reader(Writer):
    """Asks for a page that Odoo makes from its database."""

    success = 200

    def _ask(self, title: str) -> int:
        return requests.get(f"{self.url}/web/login", headers={"Host": self.host}, timeout=180).status_code
