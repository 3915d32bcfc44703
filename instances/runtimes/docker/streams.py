"""Reading what an engine streams, under deadlines of our own: the SDK's do not bound logs, exec, build or pull."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

import requests

from ocore import waiting
from ocore.waiting import PULSE_SECONDS

T = TypeVar("T")

QUEUED = 1000


class DeadlinePassed(Exception):
    """The message says which deadline, in words that end a sentence: “took longer than 60 seconds”."""


class _Relay(Generic[T]):
    """A thread that reads, since nothing else can be interrupted; items and its end arrive in a queue."""

    def __init__(self, produce: Callable[[], Iterable[T]]) -> None:
        self.queue: Queue[tuple[str, T | BaseException | None]] = Queue(QUEUED)
        self.abandoned = threading.Event()
        self._produce = produce
        threading.Thread(target=self._read, daemon=True, name="ocore-stream").start()

    def _read(self) -> None:
        try:
            for item in self._produce():
                if not self._hand_over(("item", item)):
                    return
        except BaseException as error:  # handed to the thread that waits, which raises it there
            self._hand_over(("error", error))
        else:
            self._hand_over(("end", None))

    def _hand_over(self, message: tuple[str, T | BaseException | None]) -> bool:
        while not self.abandoned.is_set():
            try:
                self.queue.put(message, timeout=1)
            except Full:
                continue
            return True
        return False


def watched(
    produce: Callable[[], Iterable[T]],
    cut: Callable[[], None],
    *,
    timeout: float,
    silence: float,
    first: float | None = None,
    pulse: Callable[[float], None] = lambda _: None,
) -> Iterator[T]:
    """The items of `produce`, read in a thread. Raises `DeadlinePassed` after `timeout` seconds in all, or `silence`
    seconds without an item (`first`, where given, for the first one). However it ends, `cut` is called, which must
    end the reading. `pulse` gets the seconds of silence so far, about twice a second while it lasts; what it raises
    ends it too, and so does what calls the waiting thread away (`ocore.waiting`).

    Close the iterator (`contextlib.closing`) so that `cut` is called at once when the consumer raises.
    """
    relay: _Relay[T] = _Relay(produce)
    began = heard = time.monotonic()
    patience = silence if first is None else first
    try:
        while True:
            waiting.pulse()
            now = time.monotonic()
            if now - began >= timeout:
                raise DeadlinePassed(f"took longer than {timeout:g} seconds")
            if now - heard >= patience:
                raise DeadlinePassed(f"said nothing for {patience:g} seconds")
            wait = min(PULSE_SECONDS, timeout - (now - began), patience - (now - heard))
            try:
                kind, value = relay.queue.get(timeout=max(wait, 0.001))
            except Empty:
                pulse(time.monotonic() - heard)
                continue
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)  # noqa: S101 - tells the type checker
                raise value
            yield value  # type: ignore[misc]
            heard, patience = time.monotonic(), silence
    finally:
        relay.abandoned.set()
        cut()


def cut_response(response: requests.Response | None) -> None:
    """End a streaming response although another thread is reading it: the socket is shut down below it."""
    if response is None:
        return
    connection = getattr(getattr(response.raw, "_connection", None), "sock", None)
    if connection is None:
        raw = getattr(getattr(getattr(response.raw, "_fp", None), "fp", None), "raw", None)
        connection = getattr(raw, "_sock", None)
    if connection is not None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended by itself
            return


class Lines:
    """Bytes as they come -> whole lines of text for a log; keeps the last `keep` bytes."""

    def __init__(self, log: Callable[[str], None], keep: int = 64 * 1024) -> None:
        self._log = log
        self._keep = keep
        self._kept = bytearray()
        self._partial = b""

    def feed(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * self._keep:
            del self._kept[: -self._keep]
        whole, newline, rest = (self._partial + data).rpartition(b"\n")
        self._partial = rest
        if newline:
            self._log((whole + newline).decode("utf-8", "replace"))

    def end(self) -> None:
        if self._partial:
            partial, self._partial = self._partial, b""
            self._log(partial.decode("utf-8", "replace") + "\n")

    @property
    def kept(self) -> str:
        return bytes(self._kept[-self._keep :]).decode("utf-8", "replace")
