"""Whoever waits, however deep down, can be called away: somebody cancelled, a deadline passed, another took over.

What is long or silent calls `pulse` about twice a second while it waits; if that raises, it ends what it has running
and lets the exception through. Who wants the work done says with `heeding` what `pulse` has to look at; where nobody
does, nobody is called away.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

from django.db import connections

T = TypeVar("T")
Check = Callable[[], None]
"""Raises what is to end the work. Called often: it must be cheap."""

PULSE_SECONDS = 0.5
THREADS = 4
_check: ContextVar[Check | None] = ContextVar("check", default=None)


class CalledAway(Exception):
    """To a thread of `beside`: what it works for has ended. Never seen outside of it."""


@contextmanager
def heeding(check: Check | None) -> Iterator[None]:
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """For cleaning up, and for what must not be left half done."""
    with heeding(None):
        yield


def heeded() -> bool:
    """Whether somebody can be called away here."""
    return _check.get() is not None


def pulse() -> None:
    check = _check.get()
    if check is not None:
        check()


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, PULSE_SECONDS))
        pulse()


@contextmanager
def beside(*acts: Callable[[], Any]) -> Iterator[list[Future[Any]]]:
    """All of these in threads, a few at a time, while this thread does the block; then it waits for them. When one of
    all fails, or this thread is called away, the others are called away too, the block with the failure itself. Left
    when all have ended."""
    over = threading.Event()
    futures: list[Future[Any]] = []
    asked = _check.get()

    def heed() -> None:
        if over.is_set():
            raise CalledAway

    def run(act: Callable[[], Any]) -> Any:
        try:
            with heeding(heed):
                pulse()
                return act()
        finally:
            connections.close_all()

    def heed_both() -> None:
        for one in futures:
            if one.done() and one.exception():
                one.result()
        if asked:
            asked()

    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        try:
            futures += [pool.submit(run, act) for act in acts]
            with heeding(heed_both) if asked else nullcontext():
                yield futures
            running = set(futures)
            while running:
                ended, running = wait(running, timeout=PULSE_SECONDS, return_when=FIRST_EXCEPTION)
                for one in ended:
                    one.result()
                pulse()
        finally:
            over.set()


def together(*acts: Callable[[], Any]) -> list[Any]:
    """What all of them gave, done at once as `beside`."""
    with beside(*acts) as futures:
        pass
    return [one.result() for one in futures]


def aside(act: Callable[[], T]) -> T:
    """In a thread of its own, which is left alone when this one is called away: only for what changes nothing and has
    an end of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # handed to the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="ocore-aside").start()
    return result_of(future)


def result_of(future: Future[T]) -> T:
    """What another thread gives, or raises; this one can be called away meanwhile."""
    while True:
        try:
            return future.result(timeout=PULSE_SECONDS)
        except TimeoutError:
            if future.done():
                raise
            pulse()
