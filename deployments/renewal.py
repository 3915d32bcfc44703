"""The only instance that serves is started again without being missed: another of the same version starts beside it,
and takes its clients once it answers."""

import logging
from collections.abc import Callable
from dataclasses import replace

from django.conf import settings

from deployments import claims, sight, ways
from deployments.configuration import thaw
from deployments.keeper import repairs
from deployments.models import Deployment
from instances import doors
from instances.models import Instance
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour, ContainerSpec, RunFailed, Runtime, ServerUnreachable
from ocore.errors import ExpectedError

logger = logging.getLogger(__name__)
READY_SECONDS = 120.0
PROBE_SECONDS = 3.0


class Alone(Exception):
    """Two can't run for a moment: clients have to wait at a closed door instead."""


def _beside(instance: Instance, runtime: Runtime) -> ContainerSpec:
    """Another of the same version, under a name and colour that are free. Raises `Alone`."""
    others = Instance.objects.filter(environment=instance.environment_id).exclude(pk=instance.pk)
    if others.exclude(container="").exists():
        raise Alone("its environment has other instances, and all of them go by one colour")
    live = Deployment.objects.filter(environment=instance.environment_id, live=True).first()
    if live is None:
        raise Alone("nothing is live")
    try:
        if short := ways.short_of_memory(runtime.memory_free(), [thaw(live).instance(instance.slug)]):
            raise Alone(short)
        problem = sight.unanswered(instance, runtime, PROBE_SECONDS)
        spec = repairs.as_deployed(instance, runtime)
    except ServerUnreachable:
        raise
    except ExpectedError as error:
        raise Alone(error.message) from error
    if problem:
        raise Alone(problem)
    plain = instance.container_for(live.pk)
    return replace(spec, name=plain if instance.container != plain else f"{plain}-again")


def renew(instance: Instance, runtime: Runtime, check: Callable[[], None]) -> None:
    """Raises `Alone` before anything is done; else what went wrong, and then one of the two serves, and the clock
    tidies up. `check`: it is still ours to do."""
    spec = _beside(instance, runtime)
    name, colour = spec.name, instance.colour_of(spec.name)
    Instance.objects.filter(pk=instance.pk).update(untidy=True)
    try:
        _forget_others(instance, runtime)
        runtime.containers.create(spec)
        runtime.containers.start(name)
        sight.wait_until_it_answers(instance, name, runtime, READY_SECONDS)
        runtime.containers.join_edge(name, instance.name_at_edge(colour))
    except claims.Lapsed:
        raise
    except ExpectedError:
        _try_to_tidy(instance, runtime)
        raise
    check()
    _take_the_place(instance, name, colour)
    tidy(instance, runtime)


def _take_the_place(instance: Instance, name: str, colour: Colour) -> None:
    """Unless somebody has been at work there: `Lapsed`."""
    same = Instance.objects.filter(pk=instance.pk, container=instance.container, state=instance.state)
    if not same.update(container=name, colour=colour):
        raise claims.Lapsed(f"{instance} has become something else meanwhile.")
    instance.container, instance.colour = name, colour


def tidy(instance: Instance, runtime: Runtime) -> None:
    """Its clients are led to its container, and any other of it ends and goes. What fails is raised, but for a removal:
    that is left to the clock, to which the row says that something may be there."""
    doors.lead(instance.environment, runtime)
    other = Colour(instance.colour).other
    left = runtime.edge.drain([doors.upstream(instance)], other, settings.OCORE_DRAIN_SECONDS)
    if left:
        logger.warning("%s requests to %s did not end in time; they are cut off, unanswered", left, instance)
    if _forget_others(instance, runtime):
        Instance.objects.filter(pk=instance.pk).update(untidy=False)


def _try_to_tidy(instance: Instance, runtime: Runtime) -> None:
    try:
        tidy(instance, runtime)
    except claims.Lapsed:
        raise
    except ExpectedError as error:
        logger.warning("%s is tidied up later: %s", instance, error)


def _forget_others(instance: Instance, runtime: Runtime) -> bool:
    """One that was to take its place, or whose place it took. False: it is stopped, and could not be removed."""
    labels = {"io.ocore.environment": instance.environment.key, "io.ocore.instance": instance.slug}
    others = [one.name for one in runtime.containers.list({**labels, "io.ocore.role": "odoo"})]
    others = [name for name in others if name != instance.container]
    for name in others:
        runtime.containers.stop(name, STOP_SECONDS)  # with its time to end: a scheduled action may be in the middle
    try:
        for name in others:
            runtime.containers.remove(name)
    except RunFailed as error:
        logger.warning("%s is stopped, and removed later: %s %s", ", ".join(others), error.message, error.detail)
        return False
    return True
