"""Data goes from one version of an environment to the other: the copy that a second one begins with, and what takes the
first one's place. Each is taken while nobody writes to it."""

import logging
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from deployments import claims, queues, sight
from deployments.fence import fenced
from deployments.models import Step
from deployments.run import Run, Stage
from deployments.steps import planning
from instances import doors, notices
from instances.models import Door, Instance
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour, Runtime, ServerUnreachable
from ocore import waiting
from ocore.errors import ExpectedError
from projects.models import Environment, Server, Split

logger = logging.getLogger(__name__)
READY_SECONDS = 120.0
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
            # The files after the rows that name them: what is stored between the two is only one file more.
            runtime.databases.clone(first.database, environment.database)
            runtime.filestores.snapshot(first.volume, first.database, label)
        finally:
            with waiting.undisturbed():
                doors.open(first, run.runtime, holder)
    stage.log(f"Copied the database of {first} as of {at:%H:%M:%S} UTC; it goes on.")
    run.runtime.filestores.carry(first.volume, environment.volume, label)
    run.runtime.filestores.restore(environment.volume, environment.database, label)
    run.check()
    planning.plan_again(run, environment.database)
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
    for found in run.runtime.containers.list({"io.ocore.environment": second.key, "io.ocore.role": "odoo"}):
        run.check()
        run.runtime.containers.stop(found.name, STOP_SECONDS)


def take_over(stage: Stage, second: Environment) -> None:
    """Its data becomes the environment's, whose own is in this deployment's snapshot."""
    run = stage.run
    environment, runtime, label = run.environment, run.runtime, label_of(run)
    stage.intend(database=True)
    runtime.filestores.snapshot(second.volume, second.database, label)
    run.check()
    runtime.databases.clone(second.database, environment.database)
    planning.plan_again(run, environment.database)
    runtime.filestores.carry(second.volume, environment.volume, label)
    runtime.filestores.restore(environment.volume, environment.database, label)
    runtime.filestores.discard(environment.volume, label)
    stage.log(f"The data of {second} has taken the place of its own, which is kept.")


def serve_again(second: Environment, runtime: Runtime) -> None:
    """What stood still runs and answers. What is not there any more is the keeper's to make anew."""
    for instance in second.instances.exclude(container="").exclude(state=Instance.State.STOPPED):
        try:
            runtime.containers.start(instance.container)
            runtime.containers.join_edge(instance.container, instance.name_at_edge(Colour(instance.colour)))
            sight.wait_until_it_answers(instance, instance.container, runtime, READY_SECONDS)
        except ServerUnreachable:
            raise
        except ExpectedError as error:
            logger.warning("%s does not serve again yet: %s", instance, error.message)


def lead_back(run: Run) -> None:
    """The environment has taken the second one's place: whoever was led there comes here."""
    second = run.deployment.takes_from
    if second is None:
        return
    with transaction.atomic():
        Split.objects.filter(environment=second).update(share=0, since=timezone.now())
        Door.objects.filter(environment=second).update(at_work=False)
        Server.objects.filter(pk=second.server_id).update(edge_due_at=timezone.now())
        transaction.on_commit(partial(queues.enqueue_edge, second.server_id), robust=True)
    notices.ensure(run.environment.server, run.runtime)


def give_back(run: Run, step: Step) -> None:
    """The second version serves again, with what it had."""
    second = Environment.objects.select_related("project", "server").filter(pk=step.facts.get("held")).first()
    if second is None:
        return
    serve_again(second, run.runtime)
    if not second.shares_data:
        run.check()
        run.runtime.filestores.discard(run.environment.volume, label_of(run))
        run.runtime.filestores.discard(second.volume, label_of(run))
    doors.open(second, run.runtime, holder=str(run.deployment))
