"""What asking the limiter costs a request: the same one through the edge, with limits and without, in turns."""

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager

from instances import doors
from instances.runtimes import runtime_for
from projects.models import Environment
from tests.bench.cast import BenchFailed, Cast
from tests.bench.report import Figure
from tests.bench.surroundings import EDGE_PORT

COMMAND = ".venv/bin/python -m tests.bench limiter"
REQUESTS = 300
"""In a row, on one connection."""
PATH = "/web/database"
"""The edge answers it by itself, once the limiter has been asked: nothing else is measured."""
NEVER_REACHED = {"requests_per_second": 100_000, "request_burst": 1_000_000}
NONE = {"requests_per_second": 0}


def measure(cast: Cast, rounds: int) -> list[Figure]:
    asked: list[float] = []
    unasked: list[float] = []
    sides = [(NEVER_REACHED, asked), (NONE, unasked)]
    with _limits(cast):
        for number in range(rounds):
            for limits, samples in sides if number % 2 else reversed(sides):
                _limit(cast, limits)
                samples += _milliseconds(cast.environment.hostname)
    return [
        Figure("a request, with limits and without", "ms", tuple(asked), COMMAND, tuple(unasked), aim="+1 ms"),
    ]


def _limit(cast: Cast, limits: dict[str, int | None]) -> None:
    Environment.objects.filter(pk=cast.environment.pk).update(**limits)
    doors.ensure_routes(cast.environment.server, runtime_for(cast.environment.server), lambda _: None)


@contextmanager
def _limits(cast: Cast) -> Iterator[None]:
    before = {name: getattr(cast.environment, name) for name in NEVER_REACHED}
    try:
        yield
    finally:
        _limit(cast, before)


def _milliseconds(host: str) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", EDGE_PORT, timeout=10)
    samples = []
    try:
        for _ in range(REQUESTS):
            began = time.perf_counter()
            connection.request("GET", PATH, headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            samples.append(1000 * (time.perf_counter() - began))
            if answer.status != 404:
                raise BenchFailed(f"The edge answered {PATH} with {answer.status}.")
    finally:
        connection.close()
    return samples
