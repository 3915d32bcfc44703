"""Complete: past the point of no return. The new version is live, the door opens, the old version goes.

From here on nothing restores data by itself: whoever finds this step interrupted runs it again, to its end.
"""

import logging
import time
from collections.abc import Set
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from deployments.models import Deployment, Step
from deployments.run import Lost, Run, Stage
from deployments.states import Status, StepKind, StepStatus, Way
from deployments.steps import copy, gentle
from deployments.steps.health_check import serving_containers
from instances import doors, maintenance
from instances.models import Instance
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour, ServerUnreachable
from ocore import waiting
from ocore.errors import ExpectedError
from projects.models import Environment, Split

logger = logging.getLogger(__name__)

EDGE_SECONDS = 10.0
LOOK_SECONDS = 3.0
"""Who asks stands in line with all who were held."""


def perform(stage: Stage) -> str:
    run = stage.run
    _pass_the_point(run)
    run.check()
    _record(run)
    doors.open(run.environment, run.runtime, holder=str(run.deployment))
    copy.lead_back(run)
    deployed = run.step(StepKind.DEPLOY)
    if deployed:
        gentle.remember(run, deployed)
    # The old goes before the end: who dies in between is followed by one who does it again.
    with waiting.beside(partial(_remove_the_old, stage, set(serving_containers(run)))):
        outcome = _look_from_outside(run)
    stage.log(outcome)
    stage.flush()
    run.check()
    _finish(stage, outcome)
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


def _record(run: Run) -> None:
    now = timezone.now()
    by_slug = {slug: container for container, slug in serving_containers(run).items()}
    for instance in run.instances:
        container = by_slug[instance.slug]
        since = instance.state_since if container == instance.container else now
        colour = instance.colour_of(container)
        instance.become(Instance.State.RUNNING, now, container=container, colour=colour, state_since=since)


def _look_from_outside(run: Run) -> str:
    """As a client, through the open door; where a person keeps the clients out, past that. What it sees is told; it no
    longer changes what is live."""
    path = run.config.environment["health_path"]
    deadline = time.monotonic() + EDGE_SECONDS
    while True:
        kept_out = maintenance.current(run.environment) is not None
        away = Split.objects.filter(environment__second_of=run.environment).exclude(share=0).exists()
        colour = Colour(run.instances[0].colour) if kept_out or away else None
        answer = run.runtime.edge.fetch(run.environment.hostname, path, past_the_door=colour, timeout=LOOK_SECONDS)
        if answer.ok:
            return f"Live at {run.environment.url}{', still in maintenance' if kept_out else ''}"
        if not answer.status and _serves_past_the_queue(run, path):
            return f"Live at {run.environment.url}, and busy with the requests that had waited"
        if time.monotonic() > deadline:
            seen = answer.status or "nothing"
            return f"Live, but from outside {run.environment.url}{path} answers {seen}: look at the edge."
        waiting.pause(0.1)


def _serves_past_the_queue(run: Run, path: str) -> bool:
    """The door is open, and Odoo answers who doesn't stand in line there."""
    environment = Environment.objects.select_related("project").get(pk=run.environment.pk)
    if doors.astray([environment], run.runtime):
        return False
    colour = Colour(run.instances[0].colour)
    return run.runtime.edge.fetch(environment.hostname, path, past_the_door=colour, timeout=EDGE_SECONDS).ok


def _remove_the_old(stage: Stage, serving: Set[str]) -> None:
    """Every other Odoo of the environment. One that can't be removed now is swept at the next deployment; where the
    server doesn't answer, the reconciler completes it."""
    run = stage.run
    try:
        if run.deployment.way == Way.BLUE_GREEN:
            _let_the_old_end(stage)
        own = {"io.ocore.environment": run.environment.key, "io.ocore.role": "odoo"}
        for found in run.runtime.containers.list(own):
            if found.name not in serving:
                # With its time to end: a scheduled action may be in the middle.
                run.runtime.containers.stop(found.name, STOP_SECONDS)
                run.runtime.containers.remove(found.name)
                stage.write(f"Removed {found.name}")
    except ServerUnreachable:
        raise
    except ExpectedError as error:
        stage.write(f"An old container could not be removed: {error.message}")


def _let_the_old_end(stage: Stage) -> None:
    """No door leads there any more; what it is answering gets its time."""
    run = stage.run
    colour = Colour(run.instances[0].colour).other
    left = run.runtime.edge.drain(doors.upstreams(run.environment), colour, settings.OCORE_DRAIN_SECONDS)
    if left:
        stage.write(f"{left} requests to the old version did not end in time; they are cut off, unanswered.")


def _finish(stage: Stage, outcome: str) -> None:
    """The step ends with its deployment, in one: past that nobody comes to close it."""
    run, deployment = stage.run, stage.run.deployment
    now = timezone.now()
    with transaction.atomic():
        Deployment.objects.filter(environment=run.environment, live=True).exclude(pk=deployment.pk).update(live=False)
        said: dict[str, Any] = {"error": "", "detail": "", "advice": ""}  # of an earlier attempt to complete it
        deployment.move(Status.SUCCEEDED, token=run.token, finished_at=now, live=True, live_at=now, **said)
        ended = {"status": StepStatus.SUCCEEDED, "outcome": run.redact(outcome), "finished_at": now}
        Step.objects.filter(pk=stage.row.pk).update(**ended)
    logger.info("%s: %s is live after %.1f s", deployment, deployment.short_commit, deployment.seconds or 0)
