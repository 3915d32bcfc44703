"""What several servers run, all of them asked at once: one that does not answer keeps nobody waiting for long."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from functools import partial
from time import monotonic

from instances.runtimes import runtime_for
from instances.runtimes.base import Container, ServerUnreachable
from projects.models import Server

Seen = dict[str, Container]
"""A server's containers of ours, by name."""
Look = Callable[[], Seen]
SECONDS = 10.0
"""A server that lists its containers no sooner is looked at the next time, and the others are not kept waiting."""


def looks(servers: Sequence[Server]) -> list[tuple[Server, Look]]:
    """Each with what gives its containers, or raises why it can't (`ServerUnreachable`, `RunFailed`)."""
    pool = ThreadPoolExecutor(max_workers=max(1, len(servers)), thread_name_prefix="looks")
    asked = [(server, pool.submit(_containers, server)) for server in servers]
    pool.shutdown(wait=False)
    end = monotonic() + SECONDS
    return [(server, partial(_result, server, future, end)) for server, future in asked]


def _containers(server: Server) -> Seen:
    return {one.name: one for one in runtime_for(server).containers.list({})}


def _result(server: Server, asked: Future[Seen], end: float) -> Seen:
    try:
        return asked.result(timeout=max(0.0, end - monotonic()))
    except TookTooLong as error:
        raise ServerUnreachable(f"The engine of {server} did not list its containers for {SECONDS:.0f} s.") from error
