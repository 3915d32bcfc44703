"""What the edge is told, as data; what Caddy makes of it is tried in tests/real/test_edge.py."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from instances.edge import SPEC_LABEL, CaddyEdge
from instances.edge_config import configuration, loaded_id
from instances.runtimes.base import Colour, Container, EdgeError, Exit, Route, RunFailed, ServerSpec, Upstream

STAGING = Route("acme-staging", ("staging.acme.test",), (Upstream("acme-staging-1", max_requests=8),), title="Acme")
SHOP = Route("acme-shop", ("shop.acme.test", "www.acme.test"), (Upstream("a"), Upstream("b")))
PASS = "0123456789abcdef"


def made(*routes: Route, hold: float = 30) -> dict[str, Any]:
    return configuration(routes, pass_key=PASS, hold_seconds=hold)


def handlers(data: Any, kind: str) -> Iterator[dict[str, Any]]:
    """All handlers of one kind, in order, however deep."""
    if isinstance(data, dict):
        if data.get("handler") == kind:
            yield data
        for value in data.values():
            yield from handlers(value, kind)
    elif isinstance(data, list):
        for value in data:
            yield from handlers(value, kind)


def dials(proxy: Mapping[str, Any]) -> list[str]:
    return [upstream["dial"] for upstream in proxy["upstreams"]]


def proxies(data: Any, server: str = "edge") -> list[dict[str, Any]]:
    return list(handlers(data["apps"]["http"]["servers"][server], "reverse_proxy"))


def test_only_clients_come_in_from_outside() -> None:
    data = made(STAGING)
    listening = {name: server["listen"] for name, server in data["apps"]["http"]["servers"].items()}
    assert data["admin"]["listen"].startswith("127.0.0.1:")
    assert listening == {
        "edge": [":8080"],
        "passing": ["127.0.0.1:2021"],
        "blue": ["unix//data/run/blue.sock"],
        "green": ["unix//data/run/green.sock"],
    }


def test_the_order_of_routes_makes_no_difference_and_their_content_does() -> None:
    assert made(STAGING, SHOP) == made(SHOP, STAGING)
    names = {loaded_id(made(*routes)) for routes in ([], [STAGING], [STAGING, SHOP], [replace(STAGING, title="B")])}
    assert len(names) == 4
    assert loaded_id(made(STAGING, hold=5)) != loaded_id(made(STAGING))


def test_past_the_door_by_colour_then_events_then_all_the_rest() -> None:
    blue, green, events, rest = proxies(made(STAGING))
    assert [dials(passing) for passing in (blue, green)] == [["acme-staging-1:8069"], ["acme-staging-1--g:8069"]]
    assert dials(events) == ["unix//data/doors/./acme-staging-1"]
    assert rest["upstreams"] == [{"dial": "unix//data/doors/acme-staging-1", "max_requests": 8}]
    for held in (events, rest):
        assert held["load_balancing"]["try_duration"] == "30000ms"


def test_behind_the_door_are_the_containers_of_its_colour() -> None:
    for colour, name in (("blue", "acme-staging-1"), ("green", "acme-staging-1--g")):
        events, rest = proxies(made(STAGING), colour)
        assert dials(events) == [f"tcp4/{name}:8072", f"tcp4/{name}:8069"]
        assert dials(rest) == [f"{name}:8069"]


def test_an_instance_that_accepts_no_connection_is_stood_in_for_by_the_others() -> None:
    data = made(SHOP)
    assert [dials(proxy) for proxy in proxies(data, "green") if not dials(proxy)[0].startswith("tcp4/")] == [
        ["a--g:8069", "b--g:8069"],
        ["b--g:8069", "a--g:8069"],  # where the first broke a reading request off
        ["b--g:8069", "a--g:8069"],
        ["a--g:8069", "b--g:8069"],
    ]
    assert dials(proxies(data)[-1]) == ["unix//data/doors/a", "unix//data/doors/b"]


def test_websockets_are_counted_apart_wherever_they_go() -> None:
    data = made(STAGING)
    for server in ("edge", "blue", "green"):
        events, rest = proxies(data, server)[-2:]
        assert not set(dials(rest)) & set(dials(events))


def test_no_connection_to_odoo_is_kept_and_nothing_is_sent_twice() -> None:
    for proxy in handlers(made(STAGING, SHOP), "reverse_proxy"):
        assert proxy["transport"]["keep_alive"] == {"enabled": False}
        if "load_balancing" in proxy:
            assert proxy["load_balancing"]["retry_match"] == [{"method": ["NEVER"]}]


def test_only_what_reads_is_asked_once_more_and_only_of_several() -> None:
    again = [each["errors"]["routes"] for each in handlers(made(SHOP), "subroute") if "errors" in each]
    assert len(again) == 4, "each instance, in each colour"
    for repeat, otherwise in again:
        (condition,) = repeat["match"]
        assert condition["method"] == ["GET", "HEAD"]
        assert condition["vars"] == {"{http.error.status_code}": ["502"]}
        assert otherwise["handle"] == [{"handler": "error", "status_code": "{http.error.status_code}"}]
    assert not [each for each in handlers(made(STAGING), "subroute") if "errors" in each]


def test_the_pass_and_what_clients_say_of_themselves_never_reach_odoo() -> None:
    data = made(STAGING)
    outer = data["apps"]["http"]["servers"]["edge"]
    deleted = [each["request"]["delete"] for each in handlers(outer, "headers") if "delete" in each.get("request", {})]
    assert deleted.pop(0) == ["X-Ocore-Look"]
    assert len(deleted) == 3
    assert all("X-Ocore-Pass" in names for names in deleted)
    secret = data["logging"]["logs"]["default"]["encoder"]["fields"]
    assert {"request>headers>X-Ocore-Pass", "request>headers>X-Ocore-Look"} <= set(secret)


def test_a_title_is_shown_and_never_evaluated() -> None:
    data = made(replace(STAGING, title="<b>{env.HOME}</b>"))
    found = {facts["ocore_title"] for facts in handlers(data, "vars") if "ocore_title" in facts}
    assert found == {"&lt;b&gt;&#123;env.HOME&#125;&lt;/b&gt;"}


def test_the_pages_take_nothing_from_elsewhere() -> None:
    pages = {each["body"] for each in handlers(made(), "static_response") if "<html" in each.get("body", "")}
    assert len(pages) == 2
    for page in pages:
        assert "http://" not in page
        assert "https://" not in page
        assert "src=" not in page
        assert "prefers-color-scheme: dark" in page
        assert 'http-equiv="refresh"' in page
        assert "@HEADLINE@" not in page
        assert "{http.vars.ocore_title}" in page


def test_an_environment_without_instances_is_unreachable() -> None:
    data = made(replace(STAGING, upstreams=()))
    assert [each["status_code"] for each in handlers(data["apps"]["http"]["servers"]["edge"], "error")] == [503]
    assert not list(handlers(data, "reverse_proxy"))


@pytest.mark.parametrize(
    "route",
    [
        replace(STAGING, key="../etc"),
        replace(STAGING, hosts=("acme test",)),
        replace(STAGING, hosts=("{env.HOME}",)),
        replace(STAGING, upstreams=(Upstream("a/b"),)),
    ],
)
def test_names_that_are_none_are_refused(route: Route) -> None:
    with pytest.raises(EdgeError):
        made(route)


def test_two_environments_cannot_have_one_host() -> None:
    with pytest.raises(EdgeError, match=r"staging\.acme\.test: acme-qa and acme-staging"):
        made(STAGING, replace(STAGING, key="acme-qa"))


class Containers:
    """Remembers what is executed and answers as told."""

    def __init__(self, output: str = "", code: int = 0) -> None:
        self.answer = Exit(code, output)
        self.seen: list[tuple[list[str], dict[str, str]]] = []
        self.spec_label = ""

    def find(self, name: str) -> Container:
        return Container(name, "1", "running", labels={SPEC_LABEL: self.spec_label})

    def exec(
        self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Exit:
        self.seen.append((list(argv), dict(environment or {})))
        if self.answer.code < 0:
            raise RunFailed("The container is not running.")
        return self.answer


def edge(containers: Containers, name: str = "here") -> CaddyEdge:
    """Made from today's settings."""
    found = CaddyEdge(ServerSpec(name, edge_port=1), containers, None)  # type: ignore[arg-type]
    containers.spec_label = found._container().labels[SPEC_LABEL]
    return found


def quiet(line: str) -> None:
    pass


def test_apply_says_whether_it_took_a_reload_and_shows_no_secret_in_argv() -> None:
    containers = Containers("loaded\n")
    assert edge(containers).apply([STAGING], quiet) is True
    containers.answer = Exit(0, "same\n")
    assert edge(containers).apply([STAGING], quiet) is False
    secret = edge(containers)._pass_key()
    assert secret not in json.dumps([argv for argv, _ in containers.seen])


def test_an_edge_that_runs_is_not_made_anew_by_who_prepares_it_and_does_not_count_as_right() -> None:
    containers = Containers("same\n")
    old = edge(containers)
    assert old.serves([STAGING])
    containers.spec_label = "made by an earlier version"
    old.prepare(quiet)  # which has no way of stopping a container here
    assert not old.serves([STAGING])


def test_each_server_has_its_own_pass() -> None:
    one, other = edge(Containers(), "one")._pass_key(), edge(Containers(), "two")._pass_key()
    assert one == edge(Containers(), "one")._pass_key()
    assert one != other


def test_a_drain_that_cannot_count_is_an_error_and_not_an_empty_edge() -> None:
    with pytest.raises(EdgeError):
        edge(Containers("", code=9)).close_and_drain(STAGING.upstreams, 5)
    with pytest.raises(EdgeError):
        edge(Containers("")).in_flight(STAGING.upstreams)
    assert edge(Containers("3\n")).in_flight(STAGING.upstreams) == 3


def test_an_edge_that_does_not_run_is_an_edge_error() -> None:
    with pytest.raises(EdgeError, match="could not open the door"):
        edge(Containers(code=-1)).open(STAGING.upstreams, Colour.BLUE)


def test_a_name_that_is_a_path_is_refused_before_anything_is_executed() -> None:
    containers = Containers()
    with pytest.raises(EdgeError):
        edge(containers).close([Upstream("../../etc/passwd")])
    assert containers.seen == []


def test_what_the_edge_says_of_its_doors_is_read() -> None:
    said = "acme-staging-1 /data/run/blue.sock\nacme-shop--main /data/run/green.sock\n"
    assert edge(Containers(said)).doors() == {"acme-staging-1": Colour.BLUE, "acme-shop--main": Colour.GREEN}
    assert edge(Containers("")).doors() == {}


def test_fetch_says_why_nothing_answered() -> None:
    answer = edge(Containers()).fetch("acme.test", "/")
    assert answer.status == 0
    assert answer.body
