"""Complete: past the point of no return. The new version is live, the door opens, the old version goes.

From here on nothing restores data by itself: whoever finds this step interrupted runs it again, to its end.
"""

import logging
import time
from typing import Any

from django.db import transaction
from django.utils import timezone

from deployments.models import Deployment
from deployments.run import Lost, Run, Stage
from deployments.states import Status, StepKind
from deployments.steps.health_check import serving_containers, stays
from instances import doors
from instances.models import Instance
from projects.models import Environment

logger = logging.getLogger(__name__)

EDGE_SECONDS = 10.0


def perform(stage: Stage) -> str:
    run = stage.run
    _pass_the_point(run)
    kept = stays(run)
    _record(run, kept)
    doors.open(run.environment, run.runtime)
    outcome = _look_from_outside(run)
    stage.log(outcome)
    if not kept:
        for name in _old_containers(run):
            run.runtime.containers.remove(name)
            stage.log(f"Removed {name}")
    _finish(run)
    return outcome


def _pass_the_point(run: Run) -> None:
    """One UPDATE decides between this and a cancellation at the same instant."""
    passed = Deployment.objects.filter(
        pk=run.deployment.pk, token=run.token, status=Status.RUNNING, switched_at=None
    ).update(switched_at=timezone.now())
    if passed or Deployment.objects.filter(pk=run.deployment.pk, token=run.token).exclude(switched_at=None).exists():
        return
    run.check()
    raise Lost(f"{run.deployment} is not running any more")


def _record(run: Run, kept: bool) -> None:
    now = timezone.now()
    for instance, container in zip(run.instances, serving_containers(run), strict=True):
        if kept:
            instance.become(Instance.State.RUNNING, now)
        else:
            instance.become(Instance.State.RUNNING, now, container=container, state_since=now)


def _look_from_outside(run: Run) -> str:
    """As a client, through the open door. What it sees is told; it no longer changes what is live."""
    path = run.config.environment["health_path"]
    deadline = time.monotonic() + EDGE_SECONDS
    while True:
        answer = run.runtime.edge.fetch(run.environment.hostname, path)
        if answer.ok:
            return f"Live at {run.environment.url}"
        if time.monotonic() > deadline:
            seen = answer.status or "nothing"
            return f"Live, but from outside {run.environment.url}{path} answers {seen}: look at the edge."
        time.sleep(0.1)


def _old_containers(run: Run) -> list[str]:
    step = run.step(StepKind.SNAPSHOT)
    return [one["container"] for one in (step.facts.get("old", []) if step else [])]


def _finish(run: Run) -> None:
    deployment = run.deployment
    now = timezone.now()
    with transaction.atomic():
        Deployment.objects.filter(environment=run.environment, live=True).exclude(pk=deployment.pk).update(live=False)
        said: dict[str, Any] = {"error": "", "detail": "", "advice": ""}  # of an earlier attempt to complete it
        deployment.move(Status.SUCCEEDED, token=run.token, finished_at=now, live=True, live_at=now, **said)
        pending: dict[str, Any] = {}
        Environment.objects.filter(pk=run.environment.pk).update(pending=pending)
    logger.info("%s: %s is live after %.1f s", deployment, deployment.short_commit, deployment.seconds or 0)
