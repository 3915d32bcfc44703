"""`/healthz`: whether the portal can do its work, told to anybody, and no more than that."""

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from redis.exceptions import ConnectionError as RedisConnectionError

pytestmark = pytest.mark.django_db


class Redis:
    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def ping(self) -> bool:
        if self._error:
            raise self._error
        return True


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Any:
    def answers(error: Exception | None = None) -> None:
        monkeypatch.setattr("django_rq.get_connection", lambda name: Redis(error))

    answers()
    return answers


def test_it_is_well_when_database_and_redis_answer(redis: Any) -> None:
    answer = Client().get("/healthz")

    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    assert answer.json() == {"status": "pass", "database": "pass", "redis": "pass"}
    assert not answer.cookies


@pytest.mark.parametrize("error", [RedisConnectionError("secret-host:6379 refused"), OSError("no socket")])
def test_without_redis_it_says_which_part_fails_and_not_why(redis: Any, error: Exception) -> None:
    redis(error)

    answer = Client().get("/healthz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "fail", "database": "pass", "redis": "fail"}


def test_without_its_database_it_is_not_well(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def cursor(self) -> Any:
            raise OperationalError("could not connect to secret-host")

    monkeypatch.setattr("ocore.health.connection", Broken())

    answer = Client().get("/healthz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "fail", "database": "fail", "redis": "pass"}


def test_it_may_only_be_read(redis: Any) -> None:
    assert Client().head("/healthz").status_code == 200
    assert Client().post("/healthz").status_code == 405
