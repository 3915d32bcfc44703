"""How many instances an environment has, as a number that a person wants: containers of what is live are made or taken
away, without a deployment. The number stands on the row until it is so, whoever dies in between."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.utils import timezone
from django.utils.text import slugify

from deployments import claims, queues, serving, sight
from deployments.configuration import thaw
from deployments.fence import fenced
from deployments.models import Deployment
from deployments.services import NotPossible, Who
from instances import doors
from instances.models import Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Colour, Runtime
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.models import Environment

logger = logging.getLogger(__name__)
MOST = 16
"""Instances of one environment; more is a slip of the finger, or wants another server."""
CLAIM = timedelta(seconds=300)
READY_SECONDS = 120.0


class NothingServes(ExpectedError):
    default_advice = "Start the first instance, then scale."


def request(environment: Environment, count: int, who: Who) -> None:
    """From now on it is to have so many. Raises `NotPossible`."""
    if not 1 <= count <= MOST:
        raise NotPossible(f"An environment has 1 to {MOST} instances, not {count}.")
    if environment.removing_since:
        raise NotPossible(f"{environment} is being removed.")
    if not Deployment.objects.filter(environment=environment, live=True).exists():
        raise NotPossible(
            f"{environment} has not been deployed yet.", advice="Add instances to it below; its deployment starts them."
        )
    rows = Environment.objects.filter(pk=environment.pk, removing_since=None)
    rows.update(scale_to=count, scale_asked_by=who.name, scale_problem="")
    queues.enqueue_scaling(environment.pk)


def unscaled() -> list[int]:
    """Those that have not as many as somebody wants, with nobody at work in them: the job was lost, or had to wait."""
    left = Environment.objects.filter(scale_to__isnull=False, removing_since=None)
    return [environment.pk for environment in left if not environment.busy]


def carry_out(pk: int) -> None:
    """In a worker. What went wrong is kept on the environment's row, and shown."""
    wanted = Environment.objects.filter(pk=pk).values_list("scale_to", flat=True).first()
    if wanted is None:
        return
    try:
        with claims.claimed(pk, f"scaling to {wanted} instances", CLAIM) as claim:
            _scale(claim.environment, fenced(runtime_for(claim.environment.server), claim.check), wanted)
            claim.check()
            _end(pk, wanted)
    except NotPossible as error:
        logger.info("Scaling of environment %s waits: %s", pk, error)  # the clock asks again
    except ExpectedError as error:
        logger.warning("Scaling of environment %s failed: %s %s", pk, error.message, error.detail)
        _end(pk, wanted, redact(f"{error.message} {error.advice}".strip()))


def _end(pk: int, wanted: int, problem: str = "") -> None:
    """Unless another number is wanted by now."""
    Environment.objects.filter(pk=pk, scale_to=wanted).update(scale_to=None, scale_problem=problem)


def _scale(environment: Environment, runtime: Runtime, wanted: int) -> None:
    live = Deployment.objects.get(environment=environment, live=True)
    _forget_unfinished(environment, live, runtime)
    deployed = list(environment.instances.exclude(container="").order_by("pk"))
    if len(deployed) < wanted:
        _add(environment, live, runtime, wanted - len(deployed))
    going = _superfluous(deployed, wanted)
    environment.instances.filter(pk__in=[one.pk for one in going]).update(leaving=True)  # one reload for all
    environment.instances.exclude(pk__in=[one.pk for one in going]).update(leaving=False)
    for instance in going:
        take_away(instance, runtime)
    doors.ensure_routes(environment.server, runtime, logger.info)
    doors.lead(environment, runtime)


def _forget_unfinished(environment: Environment, live: Deployment, runtime: Runtime) -> None:
    """What one who died had begun to add: fewer may be wanted by now."""
    for instance in environment.instances.filter(container="", state=Instance.State.CREATING):
        runtime.containers.remove(instance.container_for(live.pk))
        instance.delete()


def _superfluous(deployed: list[Instance], wanted: int) -> list[Instance]:
    """The first one runs the scheduled actions and stays; of the others those that are stopped go first, then the
    newest. Raises `NothingServes`."""
    first, *others = deployed
    others.sort(key=lambda one: (one.leaving, one.state == Instance.State.STOPPED, one.pk), reverse=True)
    going = others[: max(0, len(deployed) - wanted)]
    serving = [one for one in deployed if one.state != Instance.State.STOPPED and not one.leaving]
    if serving and all(one in going for one in serving):
        raise NothingServes(f"{first} is stopped, and only what would be taken away serves.")
    return going


def _add(environment: Environment, live: Deployment, runtime: Runtime, count: int) -> None:
    """All at once; where one does not become healthy, none stays."""
    first = environment.instances.exclude(container="").order_by("pk").first()
    if first is None:
        raise NotPossible(f"{environment} has nothing deployed.")
    new = list(environment.instances.filter(container="").order_by("pk")[:count])
    made: list[Instance] = []
    names = _names(environment)
    while len(new) < count:
        name = next(names)
        row = Instance(environment=environment, name=name, slug=slugify(name), state=Instance.State.CREATING)
        row.save(force_insert=True)
        made.append(row)
        new.append(made[-1])
    try:
        waiting.together(*[partial(_bring_up, one, live, Colour(first.colour), runtime) for one in new])
    except ExpectedError:
        for instance in new:
            runtime.containers.remove(instance.container_for(live.pk))
        for instance in made:
            instance.delete()
        raise
    for instance in new:
        instance.become(
            Instance.State.RUNNING, timezone.now(), container=instance.container_for(live.pk), colour=first.colour
        )


def _names(environment: Environment) -> Iterator[str]:
    """`main-2`, `main-3`, and so on: those that are free."""
    taken = set(environment.instances.values_list("slug", flat=True))
    return (name for number in range(2, 10 * MOST) if (name := f"main-{number}") not in taken)


def _bring_up(instance: Instance, live: Deployment, colour: Colour, runtime: Runtime) -> None:
    spec = serving.container(live, thaw(live), instance, runtime, cron=False)
    # Whoever died over it may have left one, with another password in its configuration; nobody is led there.
    runtime.containers.remove(spec.name)
    runtime.containers.create(spec)
    runtime.containers.start(spec.name)
    sight.wait_until_it_answers(instance, spec.name, runtime, READY_SECONDS)
    runtime.containers.join_edge(spec.name, instance.name_at_edge(colour))


def take_away(instance: Instance, runtime: Runtime) -> None:
    """Its clients go to the others, what it is answering gets its time, then it goes, with its row. Database and
    filestore are its environment's and stay."""
    upstream = doors.upstream(instance)
    Instance.objects.filter(pk=instance.pk).update(leaving=True)
    # First no request comes any more: one that waits at a closed door would not outlive the edge's reload.
    doors.ensure_routes(instance.environment.server, runtime, logger.info)
    left = runtime.edge.close_and_drain([upstream], settings.OCORE_DRAIN_SECONDS)
    if left:
        logger.warning("%s requests to %s did not end in time; they are cut off, unanswered", left, instance)
    runtime.containers.remove(instance.container)
    instance.delete()
