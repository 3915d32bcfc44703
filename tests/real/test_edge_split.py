"""Two versions behind one name, against real Caddy: who is led where, who stays, and what is counted."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from instances.runtimes.base import Colour, Route, Second, Upstream
from tests.real import test_edge
from tests.real.test_edge import HOST, ROUTE, Load, Place, quiet

pytestmark = pytest.mark.real
shared = test_edge.shared
place = test_edge.place
THERE = Upstream("acme-second-1", max_requests=8)
OWN = Route("acme-second", ("second-acme.localhost",), (THERE,), title="Second")
BROWSER = {"Host": HOST, "Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def two(place: Place) -> Iterator[Place]:
    """`new` as the first version, `other` as the second."""
    place.serve("new")
    other = place.stand_in("other")
    place.containers.join_edge(other, THERE.name(Colour.BLUE))
    yield place
    place.edge.close([THERE])
    place.edge.tell([], [])
    place.edge.apply([ROUTE], quiet)


def lead(place: Place, share: int, mark: str = "a1", *, own_data: bool = False) -> None:
    second = Second((THERE,), share % 100, mark, own_data=own_data)
    place.edge.tell([], [], [ROUTE.key] if share == 100 else [])
    place.edge.apply([replace(ROUTE, second=second), OWN], quiet)
    place.edge.open([THERE], Colour.BLUE)
    place.edge.open(ROUTE.upstreams, Colour.BLUE)
    time.sleep(0.3)


def ask(url: str, headers: dict[str, str], method: str = "GET") -> requests.Response:
    return requests.request(method, url, headers=headers, timeout=10)


def who(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["name"])


def test_all_are_led_to_the_one_or_the_other_which_keeps_its_own_address(two: Place) -> None:
    for share, expected in ((100, "other"), (0, "new"), (100, "other")):
        lead(two, share)
        assert {who(two.get("/?sleep=0")) for _ in range(6)} == {expected}
        assert who(two.post("/written")) == expected
        assert who(two.get(host=OWN.hosts[0])) == "other"
        assert "Set-Cookie" not in two.get().headers, "nobody is led by chance"


def test_switching_and_back_fails_no_request(two: Place) -> None:
    lead(two, 0)
    with Load(two) as load:
        for number in range(12):
            two.edge.tell([], [], [] if number % 2 else [ROUTE.key])
            time.sleep(0.2)
    assert [answer.result().status_code for _, answer in load.answers] == [200] * len(load.answers)
    assert {answer.result().json()["name"] for _, answer in load.answers} == {"new", "other"}


def test_browsers_are_led_by_chance_and_stay_and_programs_stay_with_the_first(two: Place) -> None:
    lead(two, 30)
    seen: Counter[str] = Counter()
    for _ in range(120):
        with requests.Session() as browser:
            browser.headers.update(BROWSER)
            first = who(browser.get(f"{two.base}/?sleep=0"))
            seen[first] += 1
            assert who(browser.get(f"{two.base}/?sleep=0")) == first
    assert 15 <= seen["other"] <= 60, seen
    assert {who(two.get("/?sleep=0")) for _ in range(30)} == {"new"}
    assert {who(two.post("/written")) for _ in range(10)} == {"new"}


def test_what_a_browser_sends_later_follows_its_page_whatever_it_is(two: Place) -> None:
    lead(two, 50)
    for _ in range(40):
        browser = requests.Session()
        page = browser.get(two.base, headers=BROWSER, timeout=10)
        if who(page) == "other":
            break
    cookie = f"ocore_version={browser.cookies['ocore_version']}"
    headers = {"Host": HOST, "Cookie": f"a=b; {cookie}; c=d"}
    assert ask(f"{two.base}/json", headers, "POST").json()["name"] == "other"
    assert "HttpOnly" in page.headers["Set-Cookie"]
    assert "SameSite=Lax" in page.headers["Set-Cookie"]
    lead(two, 60)
    assert ask(two.base, headers).json()["name"] == "other", "more are led there: it stays"
    lead(two, 50, mark="b2")
    assert ask(f"{two.base}/json", headers, "POST").json()["name"] == "new", "of another test"
    lead(two, 0)
    assert ask(two.base, headers).json()["name"] == "new"


def test_who_has_a_session_with_the_first_stays_where_the_data_differs(two: Place) -> None:
    lead(two, 99, mark="own", own_data=True)
    known = {**BROWSER, "Cookie": "session_id=1234"}
    assert {who(ask(two.base, known)) for _ in range(12)} == {"new"}
    assert "other" in {who(ask(two.base, BROWSER)) for _ in range(12)}
    lead(two, 99, mark="shared")
    assert "other" in {who(ask(two.base, known)) for _ in range(12)}


def test_requests_are_counted_by_version_with_errors_and_latency(two: Place) -> None:
    lead(two, 50, mark="counted")
    marks = {side: {**BROWSER, "Cookie": f"ocore_version=counted-{side}"} for side in ("first", "second")}
    for side, number, path in (("first", 10, "/?sleep=0"), ("second", 6, "/?sleep=0.2"), ("second", 3, "/?status=500")):
        for _ in range(number):
            ask(two.base + path, marks[side])
    time.sleep(0.3)
    after = two.edge.figures("counted")

    assert (after["first"].requests, after["second"].requests) == (10, 9)
    assert (after["first"].failed, after["second"].failed) == (0, 3)
    assert after["second"].p95 >= 0.2 > after["first"].median
    assert after["first"].since is not None
    kept = two.containers.exec(two.edge.name, ["cat", "/data/log/counted/requests.log"]).output
    assert "ocore_version" not in kept
    assert "127.0.0.1" not in kept, "nothing of who asked for what"
    lead(two, 0, mark="counted")
    assert two.edge.figures("counted") == after, "when it is over it can still be looked at"
    lead(two, 50, mark="next")
    assert two.edge.figures("counted") == {}


def test_long_polls_go_where_their_page_is(two: Place) -> None:
    lead(two, 50, mark="ws")
    for side, expected in (("first", "new"), ("second", "other")):
        headers = {"Host": HOST, "Cookie": f"ocore_version=ws-{side}"}
        assert ask(f"{two.base}/longpolling/poll", headers).json()["name"] == expected


def test_a_version_whose_door_is_closed_holds_its_own_clients_only(two: Place, settings) -> None:
    settings.OCORE_HOLD_SECONDS = 1
    lead(two, 50, mark="held")
    two.edge.close([THERE])
    marks = {side: {"Host": HOST, "Cookie": f"ocore_version=held-{side}"} for side in ("first", "second")}
    assert ask(two.base, marks["first"]).status_code == 200
    held = ask(two.base, marks["second"])
    assert (held.status_code, held.json()["error"]) == (503, "updating")
