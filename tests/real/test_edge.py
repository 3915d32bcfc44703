"""The edge against real Caddy, with a small stand-in for Odoo behind it."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import requests
from django.conf import settings

from instances import edge_config
from instances.edge import CaddyEdge
from instances.runtimes.base import Colour, ContainerSpec, EdgeError, File, Route, ServerSpec, Upstream
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.images import DockerImages

pytestmark = pytest.mark.real

HOST = "staging-acme.localhost"
UPSTREAM = Upstream("acme-staging-1", max_requests=8)
ROUTE = Route("acme-staging", (HOST,), (UPSTREAM,), title="Acme & Sons {env.PATH}")


def quiet(text: str) -> None:
    pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Place:
    """One server's edge, and what stands behind it."""

    edge: CaddyEdge
    containers: DockerContainers
    base: str

    def stand_in(self, name: str, *ports: int) -> str:
        """Runs, on no network of the edge's; one that an earlier test used is taken again."""
        ports = ports or (8069, 8072)
        full = f"{self.edge.spec.namespace}-{name}-{len(ports)}"
        spec = ContainerSpec(
            name=full,
            image=settings.OCORE_ODOO_IMAGE.format(version="19.0"),
            entrypoint=["python3", "/stand_in.py", *map(str, ports)],
            user="0",
            environment={"STAND_IN": name},
            files=[File("/stand_in.py", (Path(__file__).parent / "edge_stand_in.py").read_bytes())],
            volumes={f"{self.edge.spec.namespace}-journal": "/journal"},
            network=self.containers.edge_network,
            stop_seconds=1,
        )
        self.containers.create(spec)
        self.containers.leave_edge(full)
        self.containers.start(full)
        return full

    def stand_ins(self) -> list[str]:
        return [each.name for each in self.containers.list({}) if each.name != self.edge.name and each.running]

    def serve(self, name: str, *ports: int) -> str:
        """A stand-in under the upstream's alias, behind an open door, answering."""
        full = self.stand_in(name, *ports)
        for each in self.stand_ins():
            self.containers.leave_edge(each)
        self.containers.join_edge(full, UPSTREAM.name(Colour.BLUE))
        self.edge.apply([ROUTE], quiet)
        self.edge.open([UPSTREAM], Colour.BLUE)
        assert self.wait_for_200(), self.containers.logs(full)
        return full

    def wait_for_200(self, seconds: float = 10) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.edge.fetch(HOST, "/ready", past_the_door=Colour.BLUE).ok:
                return True
            time.sleep(0.05)
        return False

    def get(self, path: str = "/", *, host: str = HOST, timeout: float = 20, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.get(self.base + path, headers={"Host": host, **named}, timeout=timeout, allow_redirects=False)

    def post(self, path: str, timeout: float = 20) -> requests.Response:
        return requests.post(self.base + path, headers={"Host": HOST}, data=b"x" * 3000, timeout=timeout)

    def status_of_raw(self, target: str) -> int:
        """The target as it is, without a client that tidies it up."""
        with socket.create_connection(("127.0.0.1", self.edge.spec.edge_port), timeout=5) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            return int(connection.recv(100).split()[1])

    def journal(self, reader: str) -> list[list[str]]:
        lines = self.containers.exec(reader, ["cat", "/journal/lines"]).output.splitlines()
        return [line.split() for line in lines]


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    spec = ServerSpec(
        "edge-test",
        namespace=f"{settings.OCORE_NAMESPACE}-edgetest",
        edge_bind="127.0.0.1",
        edge_port=free_port(),
    )
    engine = Engine(spec)
    containers = DockerContainers(spec, engine)
    edge = CaddyEdge(spec, containers, DockerImages(spec, engine))

    def remove_all() -> None:
        for container in containers.list({}):
            containers.remove(container.name)
        for volume in (edge.name, f"{spec.namespace}-journal", f"{spec.namespace}-limiter"):
            containers.remove_volume(volume)
        if containers.find_network(edge.name):
            engine.api.remove_network(edge.name)

    remove_all()
    containers.ensure_network(edge.name)
    edge.prepare(quiet)
    yield Place(edge, containers, f"http://127.0.0.1:{spec.edge_port}")
    remove_all()


@pytest.fixture
def place(shared: Place, settings) -> Iterator[Place]:
    """The edge with no stand-in behind it, its routes to be applied by the test."""
    settings.OCORE_HOLD_SECONDS = 15
    yield shared
    for name in shared.stand_ins()[:1]:
        shared.containers.exec(name, ["rm", "-f", "/journal/lines"])


class Load:
    """40 requests a second, GET and POST by turns, from outside."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.answers: list[tuple[str, Future[requests.Response]]] = []
        self.stopped = threading.Event()
        self.pool = ThreadPoolExecutor(max_workers=200)
        self.thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Load":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self.thread.join()
        self.pool.shutdown()

    def _send(self) -> None:
        number = 0
        due = time.monotonic()
        while not self.stopped.is_set():
            path = f"/load/{number}"
            send = self.place.post if number % 2 else self.place.get
            self.answers.append((path, self.pool.submit(send, path)))
            number += 1
            due += 1 / 40
            time.sleep(max(0.0, due - time.monotonic()))


def test_a_swap_under_load_fails_no_request_and_repeats_none(place: Place) -> None:
    old = place.serve("old")
    new = place.stand_in("new")
    slow = ThreadPoolExecutor(1).submit(place.post, "/slow?sleep=1.2")
    with Load(place) as load:
        time.sleep(0.8)
        left = place.edge.close_and_drain([UPSTREAM], seconds=10)
        drained = time.time()
        assert left == 0
        assert slow.done() or slow.result(timeout=0.5)
        place.containers.leave_edge(old)
        place.containers.join_edge(new, UPSTREAM.name(Colour.BLUE))
        time.sleep(2)
        opening = time.time()
        place.edge.open([UPSTREAM], Colour.BLUE)
        time.sleep(2)

    failed = [
        (path, answer.result().status_code, answer.result().text[:90])
        for path, answer in load.answers
        if answer.result().status_code != 200
    ]
    assert failed == []
    assert slow.result().status_code == 200
    journal = place.journal(new)
    ended = [line for line in journal if line[2] == "answered" and line[4].startswith("/load/")]
    assert sorted(line[4] for line in ended) == sorted(path for path, _ in load.answers)
    while_closed = [line for line in journal if drained < float(line[0]) < opening]
    assert while_closed == []
    assert {line[1] for line in ended} == {"old", "new"}


def test_turning_the_door_over_fails_no_request_and_lets_those_in_flight_end(place: Place) -> None:
    old = place.serve("old")
    new = place.stand_in("new")
    place.containers.join_edge(new, UPSTREAM.name(Colour.GREEN))
    assert place.edge.fetch(HOST, "/ready", past_the_door=Colour.GREEN).ok
    with ThreadPoolExecutor(1) as pool, Load(place) as load:
        slow = pool.submit(place.post, "/slow?sleep=2")
        time.sleep(0.8)
        place.edge.open([UPSTREAM], Colour.GREEN)
        turned = time.time()
        assert place.edge.drain([UPSTREAM], Colour.BLUE, 0.3) == 1
        assert place.edge.drain([UPSTREAM], Colour.BLUE, 10) == 0
        assert slow.result().status_code == 200
        place.containers.stop(old, 1)
        time.sleep(1)

    assert [answer.result().status_code for _, answer in load.answers] == [200] * len(load.answers)
    waits = sorted(answer.result().elapsed.total_seconds() for _, answer in load.answers)
    assert waits[-1] < 1.5, waits[-5:]
    began = [line for line in place.journal(new) if line[2] == "began" and line[4].startswith("/load/")]
    assert {line[1] for line in began if float(line[0]) > turned + 0.2} == {"new"}
    assert {line[1] for line in began if float(line[0]) < turned - 0.2} == {"old"}


def test_what_was_held_comes_back_in_portions(place: Place) -> None:
    name = place.serve("new")
    place.edge.close([UPSTREAM])
    with ThreadPoolExecutor(40) as pool:
        held = [pool.submit(place.get, f"/held/{number}?sleep=0.1") for number in range(40)]
        time.sleep(0.5)
        place.edge.open([UPSTREAM], Colour.BLUE)
        assert [answer.result().status_code for answer in held] == [200] * 40
    at_once = most = 0
    for line in sorted(line for line in place.journal(name) if line[4].startswith("/held/")):
        at_once += 1 if line[2] == "began" else -1
        most = max(most, at_once)
    # Caddy chooses a door before it counts: of 40 that come at one instant a few may be chosen at once.
    assert 2 <= most <= UPSTREAM.max_requests + 2


def test_a_reload_waits_for_those_that_were_held(place: Place) -> None:
    """The door opens for forty at once, and another environment of the server is scaled in that instant."""
    place.serve("new")
    place.edge.close([UPSTREAM])
    with ThreadPoolExecutor(40) as pool:
        held = [pool.submit(place.get, f"/held/{number}?sleep=0.2") for number in range(40)]
        time.sleep(0.5)
        place.edge.open([UPSTREAM], Colour.BLUE)
        other = Route(
            "acme-other", ("other-acme.localhost",), (Upstream("acme-other-1", max_requests=8),), title="Other"
        )
        assert place.edge.apply([ROUTE, other], quiet) is True
        assert [answer.result().status_code for answer in held] == [200] * 40
    place.edge.apply([ROUTE], quiet)


def test_past_the_hold_limit_people_get_a_page_and_programs_get_json(place: Place, settings) -> None:
    settings.OCORE_HOLD_SECONDS = 0.5
    place.serve("new")
    place.edge.close([UPSTREAM])
    assert place.edge.doors() == {}

    page = place.get(Accept="text/html,application/xhtml+xml")
    assert page.status_code == 503
    assert 0.4 < page.elapsed.total_seconds() < 3
    assert page.headers["Retry-After"] == "5"
    assert page.headers["Content-Type"].startswith("text/html")
    assert "Acme &amp; Sons &#123;env.PATH&#125;" in page.text
    assert "being updated" in page.text
    assert "@" not in page.text.replace("@media", "")
    program = place.get(Accept="application/json")
    assert (program.status_code, program.json()["error"]) == (503, "updating")

    place.edge.open([UPSTREAM], Colour.BLUE)
    assert place.edge.doors() == {UPSTREAM.alias: Colour.BLUE}
    assert place.get().status_code == 200


def test_an_upstream_that_is_down_is_called_unreachable_and_not_being_updated(place: Place, settings) -> None:
    settings.OCORE_HOLD_SECONDS = 0.5
    name = place.serve("new")
    place.containers.stop(name, 1)
    page = place.get(Accept="text/html")
    assert page.status_code in {502, 503}
    assert "Not reachable at the moment" in page.text
    assert place.get().json()["error"] == "unreachable"


def test_a_request_that_odoo_breaks_off_is_never_sent_again(place: Place) -> None:
    name = place.serve("new")
    assert place.get("/breaks").status_code == 502
    assert place.post("/breaks").status_code == 502
    assert [line[3] for line in place.journal(name) if line[4] == "/breaks"] == ["GET", "POST"]


def test_of_several_another_is_asked_once_when_one_breaks_a_reading_request_off(place: Place) -> None:
    other = Upstream("acme-staging-2", max_requests=8)
    names = [place.serve("new"), place.stand_in("other")]
    place.containers.join_edge(names[1], other.name(Colour.BLUE))
    place.edge.apply([replace(ROUTE, upstreams=(UPSTREAM, other))], quiet)
    place.edge.open([UPSTREAM, other], Colour.BLUE)
    answer = place.get("/breaks")
    assert answer.status_code == 502
    assert answer.json()["error"] == "unreachable"
    assert len([line for line in place.journal(names[0]) if line[4] == "/breaks"]) == 2
    time.sleep(2.5)
    assert place.post("/breaks").status_code == 502
    asked = [line for line in place.journal(names[0]) if line[4] == "/breaks"]
    assert sorted((line[1], line[3]) for line in asked[:2]) == [("new", "GET"), ("other", "GET")]
    assert [line[3] for line in asked[2:]] == ["POST"], "it may have written"
    place.edge.close([other])
    place.containers.remove(names[1])


def test_the_portal_alone_passes_a_closed_door(place: Place) -> None:
    place.serve("new")
    place.edge.close([UPSTREAM])
    answer = place.edge.fetch(HOST, "/web/health", past_the_door=Colour.BLUE)
    assert answer.ok
    assert "X-Ocore-Pass" not in answer.body
    assert place.edge.fetch(HOST, "/web/health", timeout=0.5).status == 0
    with pytest.raises(requests.Timeout):
        place.get(X_Ocore_Pass="guessed", timeout=0.5)
    secret = place.edge._pass_key()
    assert secret not in place.containers.logs(place.edge.name, 1000)


def test_a_request_whose_client_gave_up_waiting_is_never_sent(place: Place) -> None:
    name = place.serve("new")
    place.edge.close([UPSTREAM])
    with pytest.raises(requests.Timeout):
        place.post("/given-up", timeout=0.5)
    with pytest.raises(requests.Timeout):
        place.get("/given-up", timeout=0.5)
    place.edge.open([UPSTREAM], Colour.BLUE)
    assert place.post("/afterwards").status_code == 200
    assert {(line[3], line[4]) for line in place.journal(name) if line[4] != "/ready"} == {("POST", "/afterwards")}


def test_the_edge_keeps_routes_and_doors_when_it_is_killed_or_restarted(place: Place, settings) -> None:
    settings.OCORE_HOLD_SECONDS = 0.5
    place.serve("new")
    api = place.containers.engine.api
    other = replace(ROUTE, key="acme-qa", hosts=("qa-acme.localhost",), upstreams=(Upstream("acme-qa-1"),))
    place.edge.apply([ROUTE, other], quiet)
    for end in (lambda: api.kill(place.edge.name, "KILL"), lambda: api.restart(place.edge.name, timeout=5)):
        end()
        place.edge.prepare(quiet)
        assert place.edge.apply([ROUTE, other], quiet) is False
        assert place.get().status_code == 200
        assert place.get(host="qa-acme.localhost").json()["error"] == "updating"
        assert place.edge.doors() == {UPSTREAM.alias: Colour.BLUE}


def test_the_same_routes_are_not_loaded_again(place: Place) -> None:
    place.edge.apply([], quiet)
    other = replace(ROUTE, key="acme-qa", hosts=("qa-acme.localhost",))
    assert place.edge.apply([ROUTE, other], quiet) is True
    assert place.edge.apply([other, ROUTE], quiet) is False
    assert place.edge.apply([ROUTE], quiet) is True


def test_a_configuration_that_caddy_refuses_changes_nothing(place: Place, monkeypatch) -> None:
    place.serve("new")
    monkeypatch.setattr(edge_config, "TRY_INTERVAL", float("1e300"))
    with pytest.raises(EdgeError) as refused:
        place.edge.apply([ROUTE], quiet)
    assert "try_interval" in refused.value.detail or "duration" in refused.value.detail
    assert place.get().status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/web/database/manager",
        "//web/database/manager",
        "/web//database",
        "/web/%64atabase/selector",
        "/web%2Fdatabase/create",
        "/WEB/Database/drop",
        "/web/./database/backup",
        "/shop/../web/database/restore",
        "/en/web/database/manager",
    ],
)
def test_the_database_manager_is_not_there(shared: Place, settings, target: str) -> None:
    settings.OCORE_HOLD_SECONDS = 15
    shared.edge.apply([ROUTE], quiet)
    assert shared.status_of_raw(target) == 404


def test_no_neighbour_reaches_the_admin_api(place: Place) -> None:
    name = place.serve("new")
    attempt = (
        "import socket, sys\n"
        "for port in map(int, sys.argv[2:]):\n"
        "    try: socket.create_connection((sys.argv[1], port), 2).close(); print(port, 'open')\n"
        "    except OSError as error: print(port, type(error).__name__)\n"
    )
    tried = place.containers.exec(name, ["python3", "-c", attempt, place.edge.name, "8080", "2019"])
    assert tried.output.split("\n")[:2] == ["8080 open", "2019 ConnectionRefusedError"]


def test_an_unknown_host_gets_a_bare_404(place: Place) -> None:
    place.edge.apply([ROUTE], quiet)
    answer = place.get(host="elsewhere.example")
    assert (answer.status_code, answer.text) == (404, "Not found\n")
    assert "Server" not in answer.headers


def test_odoo_hears_from_the_edge_who_asks_and_not_from_the_client(place: Place) -> None:
    place.serve("new")
    answer = place.get(
        host=f"{HOST}:8080", X_Forwarded_For="6.6.6.6", X_Forwarded_Proto="https", X_Forwarded_Host="evil.example"
    )
    seen = {name.lower(): value for name, value in answer.json()["headers"].items()}
    assert "6.6.6.6" not in seen["x-forwarded-for"]
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("http", f"{HOST}:8080")
    assert not {"Server", "Via"} & set(answer.headers)
    assert answer.headers["Content-Encoding"] == "gzip"


def websocket(place: Place) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", place.edge.spec.edge_port), timeout=10)
    key = base64.b64encode(b"0123456789abcdef").decode()
    connection.sendall(
        f"GET /websocket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert b" 101 " in head.split(b"\r\n")[0]
    return connection


def said(connection: socket.socket) -> str:
    connection.sendall(b"hello\n")
    with connection.makefile("rb") as answers:
        return answers.readline().decode(errors="replace").strip()


@pytest.mark.parametrize("ports", [(8069, 8072), (8069,)], ids=["event port", "http port only"])
def test_websockets_live_on_through_a_closed_door_and_hold_up_no_drain(place: Place, ports: tuple[int, ...]) -> None:
    place.serve("new", *ports)
    with websocket(place) as connection:
        assert said(connection) == f"hello {ports[-1]}"
        assert place.edge.in_flight([UPSTREAM]) == 0
        assert place.edge.close_and_drain([UPSTREAM], seconds=5) == 0
        assert said(connection) == f"hello {ports[-1]}"


def test_a_reload_cuts_neither_websockets_nor_requests_in_flight_and_waits_for_none(place: Place) -> None:
    place.serve("new")
    with websocket(place) as connection, ThreadPoolExecutor(1) as pool:
        before = said(connection)
        busy = pool.submit(place.get, "/busy?sleep=2.5")
        time.sleep(0.3)
        began = time.monotonic()
        assert place.edge.apply([replace(ROUTE, title="Other")], quiet) is True
        assert time.monotonic() - began < 2
        assert not busy.done()
        assert said(connection) == before
        assert busy.result().status_code == 200


def test_a_drain_gives_up_in_time_and_says_what_is_left(place: Place) -> None:
    place.serve("new")
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(place.get, "/busy?sleep=2.5") for _ in range(2)]
        time.sleep(0.4)
        assert place.edge.in_flight([UPSTREAM]) == 2
        began = time.monotonic()
        assert place.edge.close_and_drain([UPSTREAM], seconds=0.5) == 2
        assert time.monotonic() - began < 1.8
        assert [answer.result().status_code for answer in busy] == [200, 200]


def test_a_body_beyond_the_limit_is_refused(place: Place, monkeypatch) -> None:
    monkeypatch.setattr(edge_config, "MAX_BODY_BYTES", 2000)
    place.serve("new")
    assert place.post("/upload").status_code == 413


def test_an_edge_that_is_not_there_is_said_so(place: Place) -> None:
    place.containers.stop(place.edge.name, 5)
    try:
        with pytest.raises(EdgeError, match="could not close the door of acme-staging-1"):
            place.edge.close([UPSTREAM])
        answer = place.edge.fetch(HOST, "/")
        assert answer.status == 0
        assert answer.body
    finally:
        place.edge.prepare(quiet)


def test_an_edge_whose_settings_changed_is_made_anew_but_not_while_it_holds_requests(place: Place) -> None:
    place.serve("new")
    place.edge.close([UPSTREAM])
    moved = replace(place.edge.spec, edge_port=free_port())
    edge = CaddyEdge(moved, place.containers, place.edge.images)
    said: list[str] = []
    try:
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(place.get)
            time.sleep(0.3)
            edge.prepare(said.append)
            assert (said, edge.serves([ROUTE])) == ([], False)
            place.edge.open([UPSTREAM], Colour.BLUE)
            assert held.result().status_code == 200
        assert edge.apply([ROUTE], said.append)
        assert any("making" in line for line in said)
        assert edge.serves([ROUTE])
        assert edge.fetch(HOST, "/").status == 200
        assert json.loads(edge.fetch(HOST, "/").body.strip())["name"] == "new"
    finally:
        place.edge.apply([ROUTE], quiet)
