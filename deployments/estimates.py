"""How long a door will probably stay closed, from earlier deployments of the environment."""

import logging
from collections.abc import Iterable
from statistics import median

from deployments.models import Snapshot, Step
from deployments.run import Run
from deployments.states import Status, StepKind, StepStatus
from deployments.steps.base import NO_UPDATE
from instances.runtimes.base import EdgeError
from projects.models import Environment

logger = logging.getLogger(__name__)
RUNS = 5
"""So many, the newest that went through; their median."""


def _updated(deployments: Iterable[int]) -> dict[int, bool]:
    """Whether each changed modules."""
    steps = Step.objects.filter(deployment__in=list(deployments), kind=StepKind.DEPLOY, status=StepStatus.SUCCEEDED)
    return {pk: outcome != NO_UPDATE for pk, outcome in steps.values_list("deployment", "outcome")}


def closed_seconds(environment: Environment, *, updating: bool | None = None) -> float:
    """From the snapshot, before which the old version stops, to the opening; 0 where nothing is known. `updating`: of
    those that did, or didn't, change modules, if there was one; what an update takes tells little of a restart."""
    rows = (
        Snapshot.objects.filter(environment=environment, deployment__status=Status.SUCCEEDED)
        .filter(taken_at__isnull=False, deployment__switched_at__isnull=False)
        .order_by("-deployment")
        .values_list("deployment", "taken_at", "deployment__switched_at")
    )
    runs = [(pk, (opened - closed).total_seconds()) for pk, closed, opened in rows[: RUNS * 2] if opened and closed]
    updated = _updated(pk for pk, _ in runs)
    alike = [seconds for pk, seconds in runs if updated.get(pk) == updating]
    chosen = alike or [seconds for _, seconds in runs]
    return median(chosen[:RUNS]) if chosen else 0.0


def announce(run: Run) -> None:
    """To those who will wait at the edge, before the door closes. Nothing fails for it."""
    plan = run.plan
    seconds = closed_seconds(run.environment, updating=plan.changes_database if plan else None)
    try:
        run.runtime.edge.expect(run.environment.key, seconds)
    except EdgeError as error:
        logger.warning("%s goes on without an estimate for its clients: %s", run.deployment, error)
