"""Schemathesis calls every operation of the API by its own description, as every kind of caller: no 5xx, and no answer
that is not described. `OCORE_API_EXAMPLES=200 pytest tests/fast/test_api_schema.py` looks longer."""

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.utils import timezone
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from deployments.api import api
from deployments.models import ApiToken, Deployment, KeptAnswer, Lock
from deployments.tokens import digest_of
from projects.models import Environment
from tests import factories
from tests.api import secret, user
from tests.fast.test_api import everything

pytestmark = pytest.mark.django_db
EXAMPLES = int(os.environ.get("OCORE_API_EXAMPLES", "3"))
FEW = max(1, EXAMPLES // 3)
"""Of callers who get everywhere the same answer."""


@pytest.fixture(scope="module")
def schema() -> Any:
    made = schemathesis.openapi.from_dict(api.get_openapi_schema())
    made.app = WSGIHandler()
    return made


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """As Django's own test client has it: the test's transaction lasts longer than a request."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def production(queues: Any) -> Environment:
    return factories.environment(branch="")


def full(environment: Environment) -> str:
    return secret(user(), environment.project)


def read_only(environment: Environment) -> str:
    return secret(user(), environment.project, verbs=["read"])


def of_another_project(_: Environment) -> str:
    return secret(user(), factories.project(name="Beta", slug="beta"))


def expired(environment: Environment) -> str:
    whole = full(environment)
    ApiToken.objects.filter(digest=digest_of(whole)).update(expires_at=timezone.now() - timedelta(days=1))
    return whole


def without_permissions(environment: Environment) -> str:
    return secret(user("nobody", "view_logentry"), environment.project)


def nobody(_: Environment) -> None:
    return None


def beside_the_point(case: Any) -> list[Any]:
    """An empty list in a query is nothing on the wire, so nothing in it can be refused."""
    vanishes = any(value is None or value in ([], {}) for value in (case.query or {}).values())
    return [negative_data_rejection] if vanishes else []


def calls(schema: Any, paths: list[dict[str, Any] | None], token: str | None, examples: int, check: Any) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            for there in paths if "{" in operation.path else [None]:
                needed = {name: there[name] for name in there if f"{{{name}}}" in operation.path} if there else None

                @seed(20260301)
                @hypothesis_settings(
                    max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck)
                )
                @given(case=operation.as_strategy(mode, path_parameters=needed))
                def run(case: Any) -> None:
                    KeptAnswer.objects.all().delete()  # a key that was used is not a new one
                    check(case, case.call_and_validate(headers=headers, excluded_checks=beside_the_point(case)))

                run()


@pytest.mark.parametrize("role", [full, read_only, of_another_project, expired, without_permissions, nobody])
def test_every_operation_answers_as_it_is_described(production: Environment, schema: Any, role: Any) -> None:
    made = everything(production)
    statuses: dict[str, set[int]] = {}

    def check(case: Any, answer: Any) -> None:
        statuses.setdefault(case.method, set()).add(answer.status_code)
        if role is not full and case.method != "GET":
            assert answer.status_code >= 400
        if role in (expired, nobody):
            assert answer.status_code in (401, 404, 405)

    names = {"project": "acme", "environment": "production", "instance": "main", "server": "sim"}
    there = {**names, "id": made["deployment"]}
    paths = [there, None] if role is full else [there]
    calls(schema, paths, role(production), EXAMPLES if role is full else FEW, check)
    if role is full:
        assert {200, 422} <= statuses["GET"]
        assert {201, 422} <= statuses["POST"]
        assert Deployment.objects.filter(trigger="api").exists()
        assert Lock.objects.exists()
