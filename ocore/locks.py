"""One process at a time, on this machine; the kernel frees the lock of whoever dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ocore import waiting

FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.2


@contextmanager
def file_lock(path: Path, told: Callable[[], None] | None = None) -> Iterator[None]:
    """`told` is called several times a second while another has it, and may raise to give up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pause = FIRST_PAUSE
    with path.open("w") as file:
        while not _taken(file, fcntl.LOCK_EX):
            waiting.pulse()
            if told and pause == LONGEST_PAUSE:
                told()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        yield


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Held by any number at once, while nobody has it alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while not _taken(file, fcntl.LOCK_SH):
            waiting.pulse()
            time.sleep(LONGEST_PAUSE)
        yield


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Whether this one got it alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        yield _taken(file, fcntl.LOCK_EX)


def _taken(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
