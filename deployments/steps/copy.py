"""Data goes from one version of an environment to the other: the copy that a second one begins with, and what takes the
first one's place. Each is taken while nobody writes to it."""

import logging
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from deployments import claims
from deployments.fence import fenced
from deployments.models import Step
from deployments.run import Run, Stage
from instances import doors
from instances.models import Instance
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour
from ocore import waiting
from projects.models import Environment, Split

logger = logging.getLogger(__name__)
CLAIM = timedelta(seconds=300)
"""On the first environment; longer than one act on the server takes."""
HOLDER = "copy for "
"""How the holder of a door begins that is closed for this; see `deployments.second.heal`."""


def take(stage: Stage, first: Environment) -> None:
    """Clients of the first one are held for as long as PostgreSQL copies: a second or two for a gigabyte. Its Odoo
    keeps running, and connects again. Raises `NotPossible` while anything is at work there."""
    run = stage.run
    environment, label = run.environment, label_of(run)
    stage.intend(copied_from=first.pk)
    # Before anybody waits.
    run.runtime.filestores.ensure(environment.volume, run.config.base_image)
    holder = f"{HOLDER}{environment.path}"[:100]
    with claims.claimed(first.pk, holder, CLAIM) as claim:

        def both() -> None:
            run.check()
            claim.check()

        runtime = fenced(run.runtime, both)
        left = doors.close(first, runtime, holder)
        try:
            if left:
                stage.log(
                    f"{left} requests to {first} did not end in {settings.OCORE_DRAIN_SECONDS} s; they are cut off."
                )
            at = timezone.now()
            runtime.filestores.snapshot(first.volume, first.database, label)
            runtime.databases.clone(first.database, environment.database)
        finally:
            with waiting.undisturbed():
                doors.open(first, run.runtime, holder)
    stage.log(f"Copied the database of {first} as of {at:%H:%M:%S} UTC; it goes on.")
    run.runtime.filestores.carry(first.volume, environment.volume, label)
    run.runtime.filestores.restore(environment.volume, environment.database, label)
    run.check()
    Split.objects.filter(environment=environment).update(copied_at=at)
    run.runtime.filestores.discard(environment.volume, label)
    run.runtime.filestores.discard(first.volume, label)


def label_of(run: Run) -> str:
    return f"c{run.deployment.pk}"


def undo(run: Run, step: Step) -> None:
    """What is left of it in the first one's volume; the rest goes with the new environment's own."""
    first = Environment.objects.filter(pk=step.facts.get("copied_from")).first()
    if first is not None:
        run.check()
        run.runtime.filestores.discard(first.volume, label_of(run))


def hold(stage: Stage, second: Environment) -> None:
    """The second version, whose place its environment takes, stands still: its clients wait from here on, until it is
    removed or this is taken back."""
    run = stage.run
    stage.intend(held=second.pk)
    left = doors.close(second, run.runtime, holder=str(run.deployment))
    if left:
        stage.log(f"{left} requests to {second} did not end in {settings.OCORE_DRAIN_SECONDS} s; they are cut off.")
    for instance in second.instances.exclude(container=""):
        run.check()
        run.runtime.containers.stop(instance.container, STOP_SECONDS)


def take_over(stage: Stage, second: Environment) -> None:
    """Its data becomes the environment's, whose own is in this deployment's snapshot."""
    run = stage.run
    environment, runtime, label = run.environment, run.runtime, label_of(run)
    stage.intend(database=True)
    runtime.filestores.snapshot(second.volume, second.database, label)
    run.check()
    runtime.databases.clone(second.database, environment.database)
    runtime.filestores.carry(second.volume, environment.volume, label)
    runtime.filestores.restore(environment.volume, environment.database, label)
    runtime.filestores.discard(environment.volume, label)
    stage.log(f"The data of {second} has taken the place of its own, which is kept.")


def give_back(run: Run, step: Step) -> None:
    """The second version serves again, with what it had."""
    second = Environment.objects.select_related("project", "server").filter(pk=step.facts.get("held")).first()
    if second is None:
        return
    for instance in second.instances.exclude(container="").exclude(state=Instance.State.STOPPED):
        run.check()
        run.runtime.containers.start(instance.container)
        run.runtime.containers.join_edge(instance.container, instance.name_at_edge(Colour(instance.colour)))
    if not second.shares_data:
        run.check()
        run.runtime.filestores.discard(run.environment.volume, label_of(run))
        run.runtime.filestores.discard(second.volume, label_of(run))
    doors.open(second, run.runtime, holder=str(run.deployment))
