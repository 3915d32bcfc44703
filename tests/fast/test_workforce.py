"""Whether anybody takes what is queued, told honestly: workers that live, a Redis that answers, a portal that is up."""

import json
import os
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Worker as RQWorker
from rq import worker_registration

from deployments.worker import Worker
from deployments.workforce import trouble, unkept
from ocore.machine import signs
from ocore.machine.processes import Process
from ocore.machine.signs import CLOCK_SECONDS, FORGOTTEN, SIGN_OF_LIFE


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """When Redis last heard of each worker, and how many seconds ago of the clock; an error: it doesn't answer."""

    def install(*ago: timedelta | Exception, clock: float | None = 1.0, queues: tuple[str, ...] = ()) -> None:
        def everyone(queue: Any) -> list[Any]:
            if queues and queue.name not in queues:
                return []
            found = []
            for one in ago:
                if isinstance(one, Exception):
                    raise one
                found.append(SimpleNamespace(last_heartbeat=timezone.now() - one))
            return found

        clocks = [] if clock is None else [(b"one", time.time() - clock)]
        monkeypatch.setattr(signs.Worker, "all", everyone)
        monkeypatch.setattr(redis.Redis, "ping", lambda self: True)
        monkeypatch.setattr(redis.Redis, "zrange", lambda self, *_, **__: clocks)

    return install


@pytest.fixture
def up(tmp_path: Any) -> None:
    """A supervisor has written down that it runs: this process."""
    own = Process.of(os.getpid())
    assert own is not None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps([(own.pid, own.began)]))


def test_a_worker_that_was_heard_of_lately_is_enough(heard: Any) -> None:
    heard(FORGOTTEN * 2, timedelta(seconds=SIGN_OF_LIFE))

    assert trouble() is None


@pytest.mark.parametrize("ago", [(), (FORGOTTEN * 2,), (RedisConnectionError("no socket"),)])
def test_without_redis_or_worker_the_portal_isnt_running(heard: Any, ago: Any) -> None:
    heard(*ago)

    found = trouble()

    assert found is not None
    assert (str(found), found.advice) == ("The portal isn't running.", "Start it with: make up")


@pytest.mark.parametrize(
    ("ago", "words", "log"),
    [
        ((), "The portal is up, but no worker of it lives.", "worker.1.log"),
        ((RedisConnectionError("no socket"),), "The portal is up, but its Redis does not answer.", "redis.log"),
    ],
)
def test_where_the_portal_is_up_the_part_that_is_missing_is_named(
    heard: Any, up: None, ago: Any, words: str, log: str
) -> None:
    heard(*ago)

    found = trouble()

    assert found is not None
    assert str(found) == words
    assert found.advice.endswith(log)


@pytest.mark.parametrize("clock", [CLOCK_SECONDS + 1, None])
def test_a_clock_that_stands_still_is_said_though_workers_live(heard: Any, clock: float | None) -> None:
    heard(timedelta(0), clock=clock)

    found = unkept()

    assert trouble() is None
    assert found is not None
    assert str(found) == "The clock gives no sign of life."
    assert found.advice.endswith("clock.log")


def test_that_nobody_does_the_clocks_chores_is_said(heard: Any) -> None:
    heard(timedelta(0), queues=("deployments", "urgent", "slow"))

    found = unkept()

    assert found is not None
    assert str(found) == "Nobody does the clock's chores."


def test_while_all_are_heard_of_there_is_nothing_to_say(heard: Any) -> None:
    heard(timedelta(0))

    assert (trouble(), unkept(), signs.missing()) == (None, None, set())


def test_another_redis_that_doesnt_answer_is_named_and_not_the_portal(heard: Any, settings: Any) -> None:
    settings.REDIS_URL = "redis://queue.example.com/0"
    heard(RedisConnectionError("refused"))

    assert str(trouble()) == "The Redis that REDIS_URL names does not answer."


def test_an_idle_worker_gives_a_sign_of_life_before_it_is_forgotten() -> None:
    assert timedelta(seconds=Worker.dequeue_timeout.fget(None)) < FORGOTTEN  # type: ignore[attr-defined]


def test_each_sign_of_life_makes_a_worker_known_to_a_redis_that_forgot_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[Any] = []
    monkeypatch.setattr(RQWorker, "heartbeat", lambda *_: None)
    monkeypatch.setattr(worker_registration, "register", lambda worker, pipeline: known.append(worker))
    worker = Worker.__new__(Worker)

    worker.heartbeat()

    assert known == [worker]
