"""`/healthz`: whether the portal can do its work, told to anybody, and no more than that."""

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from redis.exceptions import ConnectionError as RedisConnectionError

from ocore.machine import signs
from ocore.machine.web import keep_connections

pytestmark = pytest.mark.django_db


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of whom Redis has not heard lately; an error: it doesn't answer."""

    def install(*missing: str | Exception) -> None:
        def ask() -> set[str]:
            for one in missing:
                if isinstance(one, Exception):
                    raise one
            return {str(one) for one in missing}

        monkeypatch.setattr(signs, "missing", ask)

    install()
    return install


def test_it_is_well_when_database_and_redis_answer(heard: Any) -> None:
    answer = Client().get("/healthz")

    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    assert answer.json() == {"status": "pass", "database": "pass", "redis": "pass", "workers": "pass", "clock": "pass"}
    assert not answer.cookies


@pytest.mark.parametrize("error", [RedisConnectionError("secret-host:6379 refused"), OSError("no socket")])
def test_without_redis_it_says_which_part_fails_and_not_why(heard: Any, error: Exception) -> None:
    heard(error)

    answer = Client().get("/healthz")

    assert answer.status_code == 503
    parts = {"database": "pass", "redis": "fail", "workers": "fail", "clock": "fail"}
    assert answer.json() == {"status": "fail"} | parts


@pytest.mark.parametrize(
    ("missing", "workers", "clock"),
    [("deployments", "fail", "pass"), ("chores", "fail", "pass"), ("clock", "pass", "fail")],
)
def test_without_a_clock_or_a_queues_workers_it_is_not_well(heard: Any, missing: str, workers: str, clock: str) -> None:
    heard(missing)

    answer = Client().get("/healthz")

    assert answer.status_code == 503
    parts = {"database": "pass", "redis": "pass", "workers": workers, "clock": clock}
    assert answer.json() == {"status": "fail"} | parts


def test_the_webs_threads_keep_their_connections_and_look_whether_they_are_still_good() -> None:
    databases: list[dict[str, Any]] = [{"ENGINE": "x", "CONN_MAX_AGE": 0}]

    keep_connections(databases)

    assert databases[0] == {"ENGINE": "x", "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}


def test_without_its_database_it_is_not_well(heard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def cursor(self) -> Any:
            raise OperationalError("could not connect to secret-host")

    monkeypatch.setattr("ocore.health.connection", Broken())

    answer = Client().get("/healthz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "fail", "database": "fail"} | dict.fromkeys(
        ("redis", "workers", "clock"), "pass"
    )


def test_it_may_only_be_read(heard: Any) -> None:
    assert Client().head("/healthz").status_code == 200
    assert Client().post("/healthz").status_code == 405
