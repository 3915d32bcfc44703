"""Programs that live and do nothing: nobody sees them end, so nobody starts them again.

A process that was stopped (SIGSTOP, a debugger that left it) is told by the kernel, and is never meant: ours don't stop
each other. What stands still within itself only its signs of life tell; the clock gives them, and has no other keeper.
"""

import time
from collections.abc import Mapping

from redis.exceptions import RedisError

from ocore.machine import signs
from ocore.machine.processes import Process, family


class Watch:
    """Remembers since when; looked at every few seconds."""

    def __init__(self, seconds: float) -> None:
        """So long it may stand still; 0: for ever."""
        self._seconds = seconds
        self._since: dict[Process, float] = {}

    def look(self, programs: Mapping[str, Process]) -> list[tuple[str, Process]]:
        """Whoever has stood still for too long, with the program whose it is: the program itself or one below it."""
        still = {process: name for name, leader in programs.items() for process in family([leader]) if process.stopped}
        if (clock := programs.get(signs.CLOCK)) and _silent():
            still.setdefault(clock, signs.CLOCK)
        now = time.monotonic()
        self._since = {process: self._since.get(process, now) for process in still}
        if not self._seconds:
            return []
        return [(name, process) for process, name in still.items() if now - self._since[process] > self._seconds]


def _silent() -> bool:
    """The clock; where Redis doesn't answer nobody can have heard of it."""
    try:
        return signs.CLOCK in signs.missing()
    except RedisError:
        return False
