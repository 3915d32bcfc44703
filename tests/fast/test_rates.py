"""How often a webhook may be called: per address and per project, also while Redis does not answer."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import time_machine

from deployments import rates
from deployments.models import Delivery
from tests import factories
from tests.fast.test_webhook import push, push_to, send

pytestmark = pytest.mark.django_db
NOON = "2026-03-01 12:00:10Z"


@pytest.fixture
def acme(queues: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(rates, "counter", rates.Counter())
    return factories.project(repository_url="https://git.example.com/acme/addons.git")


class Redis:
    """As much of it as is needed, down when told so."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.down = False
        self.asked = 0

    def pipeline(self, transaction: bool) -> "Redis":
        self.asked += 1
        if self.down:
            raise redis.ConnectionError("Connection refused")
        return self

    def __enter__(self) -> "Redis":
        return self

    def __exit__(self, *_: object) -> None: ...

    def incr(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        self.last = name

    def expire(self, name: str, seconds: int) -> None: ...

    def execute(self) -> list[int]:
        return [self.counts[self.last]]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Redis:
    fake = Redis()
    monkeypatch.setattr(redis.Redis, "from_url", lambda *_, **__: fake)
    return fake


def test_an_address_that_calls_too_often_waits_for_the_next_minute(acme: Any, settings: Any, shared: Redis) -> None:
    settings.OCORE_WEBHOOKS_PER_ADDRESS = 2
    with time_machine.travel(NOON, tick=False):
        codes = [send(None, b"{}", slug=slug).status_code for slug in ("acme", "nobody")]
        late = push(acme)
    with time_machine.travel("2026-03-01 12:01:00Z", tick=False):
        again = push(acme)

    assert codes == [401, 401]
    assert (late.status_code, late.headers["Retry-After"]) == (429, "51")
    assert late.json() == {"status": "refused", "reason": "Too many calls. Come again later."}
    assert again.status_code == 200


def test_strangers_do_not_use_up_what_a_project_may_get(acme: Any, settings: Any, shared: Redis) -> None:
    settings.OCORE_WEBHOOKS_PER_PROJECT = 1
    other = factories.project(name="Beta", slug="beta")
    with time_machine.travel(NOON, tick=False):
        for _ in range(5):
            send(None, b"{}")
        first, second = push(acme, "d-1"), push(acme, "d-2")
        elsewhere = send(other, json.dumps(push_to()).encode(), slug="beta")

    assert (first.status_code, second.status_code, elsewhere.status_code) == (200, 429, 200)
    assert second.headers["Retry-After"] == "51"
    assert Delivery.objects.filter(project=acme).exclude(verdict="refused").count() == 1


def test_without_redis_each_process_counts_by_itself_and_does_not_ask_all_the_time(
    acme: Any, settings: Any, shared: Redis
) -> None:
    settings.OCORE_WEBHOOKS_PER_PROJECT = 2
    shared.down = True
    with time_machine.travel(NOON, tick=False):
        codes = [push(acme, f"d-{number}").status_code for number in range(3)]

    assert codes == [200, 200, 429]
    assert shared.asked == 1


def test_no_limit_asks_nobody(acme: Any, shared: Redis) -> None:
    assert push(acme).status_code == 200
    assert shared.asked == 0


def test_threads_that_count_at_once_at_the_start_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Redis] = []

    def slowly(*_: object, **__: object) -> Redis:
        fake = Redis()
        time.sleep(0.05)
        made.append(fake)
        return fake

    monkeypatch.setattr(redis.Redis, "from_url", slowly)
    counter, together = rates.Counter(), threading.Barrier(4)

    def count(_: int) -> int:
        together.wait(timeout=5)
        return counter.add("address:192.0.2.1", 1)

    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(count, range(4)))

    assert len(made) == 1
    assert max(counts) == 4


def test_behind_the_proxy_its_own_word_of_the_address_counts(acme: Any, settings: Any, shared: Redis) -> None:
    settings.OCORE_BEHIND_TLS_PROXY = True
    settings.OCORE_WEBHOOKS_PER_ADDRESS = 1
    with time_machine.travel(NOON, tick=False):
        codes = [
            send(acme, json.dumps(push_to()).encode(), **{"x-forwarded-for": told}).status_code
            for told in ("6.6.6.6, 192.0.2.1", "7.7.7.7, 192.0.2.1", "192.0.2.2")
        ]

    assert codes == [200, 429, 200]
    assert set(Delivery.objects.values_list("remote_address", flat=True)) == {"192.0.2.1", "192.0.2.2"}
