"""How long a door will stay closed, as earlier deployments tell, and that those who wait are told."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from deployments.estimates import closed_seconds
from deployments.models import Deployment, Snapshot, Step
from deployments.states import Status, StepKind, StepStatus
from deployments.steps.base import NO_UPDATE
from instances.runtimes.base import EdgeError
from projects.models import Environment
from tests import factories
from tests.acme import addon

pytestmark = pytest.mark.django_db(transaction=True)


def ran(
    environment: Environment, seconds: float, *, outcome: str = "Updated acme", status: str = Status.SUCCEEDED
) -> None:
    """An earlier deployment whose door was closed for so long."""
    now = timezone.now()
    made = factories.deployment(environment, status=status, switched_at=now)
    Snapshot.objects.create(
        environment=environment, deployment=made, taken_at=now - timedelta(seconds=seconds), database="d", label="s"
    )
    Step.objects.create(deployment=made, kind=StepKind.DEPLOY, status=StepStatus.SUCCEEDED, outcome=outcome)


def told(environment: Environment) -> float | None:
    server = json.loads((settings.STATE_DIR / "simulated" / f"{environment.server.slug}.json").read_text())
    return server.get("estimates", {}).get(environment.key)


def test_without_an_earlier_run_nothing_is_known(production: Environment) -> None:
    ran(factories.environment(name="Other", slug="other"), 99)
    ran(production, 77, status=Status.ROLLED_BACK)
    assert closed_seconds(production) == 0


def test_it_is_the_median_of_the_last_five(production: Environment) -> None:
    for seconds in (1000, 1000, 1000, 1000, 1000, 40, 30, 50, 20, 600):
        ran(production, seconds)
    assert closed_seconds(production, updating=True) == pytest.approx(40)


def test_an_update_is_judged_by_updates_and_the_rest_by_the_rest(production: Environment) -> None:
    ran(production, 300)
    ran(production, 4, outcome=NO_UPDATE)
    assert closed_seconds(production, updating=True) == pytest.approx(300)
    assert closed_seconds(production, updating=False) == pytest.approx(4)
    Step.objects.all().delete()
    assert closed_seconds(production, updating=True) == pytest.approx(152)


def test_a_deployment_tells_the_edge_before_it_closes_the_door(
    production: Environment, deploy: Any, remote: Any, faults: Any
) -> None:
    Environment.objects.update(strategy="recreate")
    deploy()
    assert not [call for call in faults.calls if call.startswith("edge.expect")], "the first one lets nobody wait"
    ran(production, 120)
    remote.commit("Second", addon("2.0"))
    assert deploy().status == Status.SUCCEEDED
    assert told(production) == pytest.approx(120)
    calls = [call.split()[0] for call in faults.calls]
    assert calls.index("edge.expect") < len(calls) - 1 - calls[::-1].index("edge.close")
    assert deploy(forced=True).status == Status.SUCCEEDED
    assert told(production) < 120, "the new code was not updated again: by the run that took as little"


def test_nothing_fails_where_the_edge_cannot_be_told(
    deployed: Deployment, deploy: Any, remote: Any, faults: Any
) -> None:
    faults.raised["edge.expect"] = EdgeError("No.")
    remote.commit("Second", addon("2.0"))
    assert deploy().status == Status.SUCCEEDED
    assert Deployment.objects.filter(live=True).count() == 1
