"""Maintenance, testers' links and estimates as clients meet them: real Caddy, with a stand-in for Odoo behind it."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from instances.runtimes.base import Colour, Notice, Pass
from tests.real import test_edge
from tests.real.test_edge import ROUTE, Place

pytestmark = pytest.mark.real
shared = test_edge.shared
KEY = ROUTE.key
TOKEN = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def place(shared: Place, settings) -> Place:
    """The edge in front of a stand-in, the door open, no notice."""
    settings.OCORE_HOLD_SECONDS = 0.5
    shared.edge.tell([], [])
    shared.edge.expect(KEY, 0)
    shared.serve("new")
    return shared


def soon(seconds: float = 3600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_maintenance_answers_at_once_people_with_a_page_and_programs_with_json(place: Place) -> None:
    until = soon(600)
    assert place.edge.tell([Notice(KEY, "We <move>\n{env.PATH} {{now}}", until)], []) is True
    page = place.get(Accept="text/html,application/xhtml+xml")
    assert page.status_code == 503
    assert page.elapsed.total_seconds() < 0.4, "nobody is held"
    assert 590 <= int(page.headers["Retry-After"]) <= 600
    assert page.headers["Cache-Control"] == "no-store"
    assert "We &lt;move&gt;<br>{env.PATH} {{now}}" in page.text
    assert f"Expected to be back by <strong>{until.day} {until:%B %Y, %H:%M} UTC" in page.text
    assert "@" not in page.text.replace("@media", "")
    for program in (place.get(), place.post("/web/dataset/call_kw"), place.get("/websocket")):
        assert program.status_code == 503
        told = program.json()
        assert told["error"] == "maintenance"
        assert told["message"] == "We <move>\n{env.PATH} {{now}}"
        assert datetime.fromisoformat(told["until"]) == until
        assert told["retry_after"] == int(program.headers["Retry-After"])
    assert place.edge.fetch(ROUTE.hosts[0], "/web/health").status == 503
    assert place.edge.fetch(ROUTE.hosts[0], "/web/health", past_the_door=Colour.BLUE).ok
    place.edge.tell([], [])
    assert place.get().status_code == 200


def test_maintenance_without_text_and_end_still_says_when_to_come_again(place: Place) -> None:
    place.edge.tell([Notice(KEY)], [])
    page = place.get(Accept="text/html")
    assert (page.status_code, page.headers["Retry-After"]) == (503, "300")
    assert "Under maintenance" in page.text
    assert "Expected to be back" not in page.text
    assert place.get().json() == {
        "error": "maintenance",
        "message": "Under maintenance.",
        "until": None,
        "retry_after": 300,
    }


def test_the_same_is_not_told_twice_and_a_restart_keeps_it(place: Place) -> None:
    notice = Notice(KEY, "We move.", soon())
    assert place.edge.tell([notice], []) is True
    assert place.edge.tell([notice], []) is False
    place.containers.engine.api.restart(place.edge.name, timeout=5)
    place.edge.prepare(test_edge.quiet)
    assert place.get().status_code == 503


def test_setting_and_lifting_it_fails_nobody_who_is_being_held(place: Place, settings) -> None:
    settings.OCORE_HOLD_SECONDS = 15
    place.edge.apply([ROUTE], test_edge.quiet)
    place.edge.close(ROUTE.upstreams)
    with ThreadPoolExecutor(10) as pool:
        held = [pool.submit(place.post, f"/held/{number}") for number in range(10)]
        time.sleep(0.5)
        place.edge.tell([Notice(KEY, "x")], [Pass(KEY, TOKEN, soon())])
        assert place.get().status_code == 503
        place.edge.tell([], [])
        place.edge.open(ROUTE.upstreams, Colour.BLUE)
        assert {answer.result().status_code for answer in held} == {200}


def test_no_request_breaks_in_the_instant_in_which_it_is_set_or_lifted(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(place.get, "/?sleep=0") for _ in range(400)]
        for number in range(4):
            place.edge.tell([Notice(KEY, f"{number}")] if number % 2 == 0 else [], [])
        assert {answer.result().status_code for answer in answers} <= {200, 503}


def test_a_link_sets_a_cookie_that_passes_maintenance_and_never_reaches_odoo(place: Place) -> None:
    expires = soon(7200).replace(microsecond=0)
    place.edge.tell([Notice(KEY, "x")], [Pass(KEY, TOKEN, expires)])
    opened = place.get(f"/ocore-pass?t={TOKEN}")
    assert (opened.status_code, opened.headers["Location"]) == (302, "/")
    cookie = opened.headers["Set-Cookie"]
    assert cookie.startswith(f"ocore_pass={TOKEN}; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert f"Expires={expires:%a, %d %b %Y %H:%M:%S} GMT" in cookie
    passed = place.get(Cookie=f"session_id=1; ocore_pass={TOKEN}; lang=en")
    assert passed.status_code == 200
    seen = {name.lower(): value for name, value in passed.json()["headers"].items()}
    assert seen["cookie"] == "session_id=1; lang=en"
    assert place.get(Cookie="session_id=1").status_code == 503
    assert TOKEN not in place.containers.logs(place.edge.name, 1000)


def test_a_pass_opens_no_closed_door(place: Place) -> None:
    place.edge.tell([Notice(KEY, "x")], [Pass(KEY, TOKEN, soon())])
    place.edge.close(ROUTE.upstreams)
    assert place.get(Cookie=f"ocore_pass={TOKEN}").json()["error"] == "updating"


@pytest.mark.parametrize(
    "value",
    [
        OTHER,
        TOKEN.upper(),
        TOKEN[:-1],
        f"{TOKEN}0",
        "../../maintenance/acme-staging.json",
        f"../acme-staging/{TOKEN}",
        "*",
        "",
    ],
)
def test_what_is_no_valid_pass_passes_nowhere_and_says_so(place: Place, value: str) -> None:
    place.edge.tell([Notice(KEY, "x")], [Pass(KEY, TOKEN, soon()), Pass("acme-other", OTHER, soon())])
    assert place.get(Cookie=f"ocore_pass={value}").status_code == 503
    refused = place.get(f"/ocore-pass?{urlencode({'t': value})}")
    assert refused.status_code == 410
    assert "not valid any more" in refused.text
    assert "Set-Cookie" not in refused.headers


def test_a_pass_that_was_revoked_is_told_on_the_page(place: Place) -> None:
    place.edge.tell([Notice(KEY, "x")], [Pass(KEY, TOKEN, soon())])
    place.edge.tell([Notice(KEY, "x")], [])
    assert "pass is not valid any more" in place.get(Accept="text/html", Cookie=f"ocore_pass={TOKEN}").text
    assert "pass is not valid any more" not in place.get(Accept="text/html").text


def test_who_waits_too_long_at_a_door_reads_how_long_it_usually_takes(place: Place) -> None:
    place.edge.expect(KEY, 240)
    place.edge.close(ROUTE.upstreams)
    page = place.get(Accept="text/html")
    assert page.status_code == 503
    assert "about 4 minutes more" in page.text or "about 5 minutes more" in page.text
    assert 230 <= int(page.headers["Retry-After"]) <= 240
    assert 230 <= place.get().json()["retry_after"] <= 240
    place.edge.expect(KEY, 40)
    assert "about 40 seconds more" in place.get(Accept="text/html").text
    place.edge.expect(KEY, 0)
    late = place.get(Accept="text/html")
    assert "usually takes" not in late.text
    assert late.headers["Retry-After"] == "5"
