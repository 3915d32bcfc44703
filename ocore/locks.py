"""One process at a time, on this machine; the kernel frees the lock of whoever dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

POLL_SECONDS = 0.2


@contextmanager
def file_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """`waiting` is called several times a second while another has it, and may raise to give up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        while waiting and not _taken(file):
            waiting()
            time.sleep(POLL_SECONDS)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
