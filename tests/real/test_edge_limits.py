"""Limits that protect, against real Caddy and real HAProxy: who asks too much is refused, and nobody else notices."""

import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests
from django.conf import settings

from instances import edge_limits
from instances.limiter import Limiter
from instances.runtimes.base import Colour, ContainerSpec, Limits, Upstream
from tests.real import test_edge
from tests.real.test_edge import HOST, ROUTE, Place, quiet, websocket

pytestmark = pytest.mark.real
shared = test_edge.shared
STRICT = replace(ROUTE, limits=Limits(requests_per_second=5, request_burst=20))
NEIGHBOUR = "live-other.localhost"
WINDOW_OVER = edge_limits.WINDOW + 1


@pytest.fixture(scope="module")
def limiter(shared: Place) -> Iterator[Limiter]:
    found = Limiter(shared.edge.spec, shared.containers, shared.edge.images)
    found.prepare(quiet)
    yield found
    shared.containers.remove(found.name)


def counts(place: Place, number: int, at_once: int = 8, **headers: str) -> Counter[int]:
    with ThreadPoolExecutor(at_once) as pool:
        asked = [pool.submit(place.get, "/?sleep=0", **headers) for _ in range(number)]
        return Counter(answer.result().status_code for answer in asked)


def test_who_asks_too_much_is_told_when_to_come_again_and_still_gets_what_is_allowed(
    shared: Place, limiter: Limiter
) -> None:
    shared.serve("new")
    shared.edge.apply([STRICT], quiet)
    time.sleep(WINDOW_OVER)
    first = counts(shared, 60)
    assert first[200] == pytest.approx(20, abs=2), "the burst"
    assert set(first) == {200, 429}
    page = shared.get(Accept="text/html")
    assert (page.status_code, page.headers["Retry-After"]) == (429, "5")
    assert "Too many requests" in page.text
    assert shared.get().json()["error"] == "too_many_requests"
    assert shared.edge.fetch(HOST, "/", past_the_door=Colour.BLUE).ok, "the portal's own look is never refused"
    end = time.monotonic() + 15
    later: Counter[int] = Counter()
    while time.monotonic() < end:
        later[shared.get("/?sleep=0").status_code] += 1
        time.sleep(0.02)
    assert 45 <= later[200] <= 130, f"about five a second, though it never stopped asking: {later}"


def test_the_body_of_a_request_that_was_asked_about_arrives_whole(shared: Place, limiter: Limiter) -> None:
    shared.serve("new")
    shared.edge.apply([STRICT], quiet)
    time.sleep(WINDOW_OVER)
    answer = shared.post("/body")
    assert answer.status_code == 200
    headers = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert headers["content-length"] == "3000"
    assert not [name for name in headers if name.startswith("x-ocore")]


@pytest.mark.parametrize("away", ["killed", "paused"])
def test_without_the_limiter_every_request_goes_on(shared: Place, limiter: Limiter, away: str) -> None:
    shared.serve("new")
    shared.edge.apply([STRICT], quiet)
    api = shared.containers.engine.api
    if away == "killed":
        shared.containers.stop(limiter.name, 0)
    else:
        api.pause(limiter.name)
    try:
        seen = counts(shared, 100)
        assert seen == {200: 100}
        assert shared.post("/written").status_code == 200
    finally:
        if away == "paused":
            api.unpause(limiter.name)
        limiter.prepare(quiet)
    time.sleep(edge_limits.AWAY_SECONDS + 0.5)
    assert counts(shared, 60)[429] > 0, "and with it they are counted again"


def test_it_stops_when_it_is_asked_to(shared: Place, limiter: Limiter) -> None:
    shared.get()  # the edge holds a connection to it
    shared.containers.stop(limiter.name)
    found = shared.containers.find(limiter.name)
    shared.containers.start(limiter.name)
    assert found is not None
    assert found.exit_code != 137, "nobody had to kill it"


def test_one_noisy_client_takes_nothing_from_the_servers_other_environments(shared: Place, limiter: Limiter) -> None:
    """Bounded: 16 connections, 6 seconds, this machine's loopback. Each of the noisy client's requests would keep the
    stand-in busy for 0.3 s, so that without limits all that its environment has is used up."""
    noisy_upstream = shared.serve("new")
    quiet_upstream = shared.stand_in("other")
    alias = Upstream("acme-other-1", max_requests=8)
    shared.containers.join_edge(noisy_upstream, ROUTE.upstreams[0].name(Colour.BLUE))
    shared.containers.join_edge(quiet_upstream, alias.name(Colour.BLUE))
    other = replace(STRICT, key="acme-other", hosts=(NEIGHBOUR,), upstreams=(alias,), limits=Limits(100, 300))
    shared.edge.apply([STRICT, other], quiet)
    shared.edge.open([alias], Colour.BLUE)
    deadline = time.monotonic() + 10
    while shared.get(host=NEIGHBOUR).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(WINDOW_OVER)
    alone = _latencies(shared, 40)
    stopped, seen = threading.Event(), Counter[int]()

    def hammer() -> None:
        with requests.Session() as session:
            for _ in range(3000):
                if stopped.is_set():
                    return
                answer = session.get(f"{shared.base}/?sleep=0.3", headers={"Host": HOST}, timeout=30)
                seen[answer.status_code] += 1

    with ThreadPoolExecutor(16) as pool:
        noise = [pool.submit(hammer) for _ in range(16)]
        time.sleep(0.5)
        beside = _latencies(shared, 60)
        stopped.set()
        for one in noise:
            one.result()
    assert seen[429] > 200, f"it was noisy: {seen}"
    assert seen[429] > 10 * seen[200]
    assert set(seen) == {200, 429}
    assert _p95(beside) < max(0.5, 10 * _p95(alone)), (_p95(alone), _p95(beside))


def _latencies(place: Place, number: int) -> list[float]:
    """Of a client of the other environment, ten a second; each of its requests must be answered."""
    times = []
    for _ in range(number):
        began = time.perf_counter()
        answer = place.get("/?sleep=0", host=NEIGHBOUR)
        assert answer.status_code == 200
        times.append(time.perf_counter() - began)
        time.sleep(0.1)
    return times


def _p95(times: list[float]) -> float:
    return sorted(times)[math.ceil(len(times) * 0.95) - 1]


@pytest.fixture
def impatient(shared: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An edge that wants a request within 2 s."""
    timeouts = {"read_header_timeout": "1s", "read_timeout": "2s", "idle_timeout": "1s"}
    monkeypatch.setattr(edge_limits, "TIMEOUTS", timeouts)
    shared.serve("new")
    yield shared
    monkeypatch.undo()
    shared.edge.apply([ROUTE], quiet)


def drip(place: Place, head: bytes, piece: Callable[[], bytes]) -> tuple[float, bytes]:
    """Sends a piece five times a second; when the edge has had enough, and what it said."""
    with socket.create_connection(("127.0.0.1", place.edge.spec.edge_port), timeout=10) as connection:
        connection.sendall(head)
        connection.settimeout(0.2)
        began = time.monotonic()
        while time.monotonic() - began < 8:
            try:
                connection.sendall(piece())
                return time.monotonic() - began, connection.recv(100)
            except TimeoutError:
                continue
            except OSError:
                break
        return time.monotonic() - began, b""


def test_who_sends_its_request_too_slowly_is_cut_off(impatient: Place) -> None:
    head = f"POST /slowly HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 600000\r\n\r\n".encode()
    for piece in (b"x", b"x" * 10_000):
        seconds, _said = drip(impatient, head, lambda piece=piece: piece)
        assert 1.5 < seconds < 4
    seconds, _said = drip(impatient, f"GET / HTTP/1.1\r\nHost: {HOST}\r\n".encode(), lambda: b"X-A: b\r\n")
    assert seconds < 3
    assert impatient.get().status_code == 200


def test_a_container_gets_its_share_of_the_processors_and_no_more_than_there_are(shared: Place) -> None:
    there = shared.containers.engine.api.info()["NCPU"]
    for cpus, nano in ((0.5, 500_000_000), (512.0, there * 10**9)):
        spec = ContainerSpec(f"{shared.edge.spec.namespace}-cpus", settings.OCORE_EDGE_IMAGE, cpus=cpus)
        shared.containers.create(spec)
        assert shared.containers.engine.api.inspect_container(spec.name)["HostConfig"]["NanoCpus"] == nano
        shared.containers.remove(spec.name)


def test_long_answers_and_websockets_outlive_these_deadlines(impatient: Place) -> None:
    assert impatient.get("/?sleep=4").status_code == 200
    assert impatient.post("/?sleep=4").status_code == 200
    connection = websocket(impatient)
    time.sleep(4)
    connection.sendall(b"still there\n")
    assert connection.recv(100).startswith(b"still there")
    connection.close()
