"""Start, stop, restart and remove an instance, outside of a deployment."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from redis.exceptions import RedisError

from deployments import queues, services
from deployments.services import NotPossible
from instances import doors
from instances.models import Door, Instance
from instances.odoo import readiness
from instances.processes import STOP_SECONDS
from instances.runtimes import runtime_for
from instances.runtimes.base import Runtime
from ocore.errors import ExpectedError
from ocore.machine.processes import own_name
from ocore.redaction import redact
from projects.models import Environment

logger = logging.getLogger(__name__)
READY_SECONDS = 120.0
CLAIM = timedelta(seconds=300)
"""Longer than any of the verbs takes: draining, stopping and getting ready have limits of their own."""
ALONE = "It is the only one that serves its environment. Remove the environment instead."
State = Instance.State


def request(instance: Instance, verb: str) -> None:
    """Check that it makes sense now, and hand it to a worker. Raises `NotPossible`."""
    if verb not in VERBS:
        raise NotPossible(f"“{verb}” is not something that can be done to an instance.")
    _require_possible(instance)
    before, since = State(instance.state), instance.state_since
    instance.become(State.RESTARTING, timezone.now())
    try:
        queues.enqueue_control(instance.pk, verb)
    except RedisError as error:
        instance.become(before, timezone.now(), state_since=since)
        raise NotPossible(
            f"{instance} was left as it is: Redis does not answer.", advice="Check the portal's Redis, then try again."
        ) from error


def removal_refusal(instance: Instance) -> str:
    """Why it may not be removed from its environment now; empty when it may."""
    if services.underway(instance.environment):
        return "A deployment of its environment is underway. Wait for its end."
    if not instance.container:
        return ""
    if _runs_the_schedule(instance):
        return "It runs the scheduled actions of its environment. Remove the others instead, or the environment."
    if _alone(instance):
        return ALONE
    if instance.environment.kind == Environment.Kind.PRODUCTION and instance.state != State.STOPPED:
        return "It is of production, and it is not stopped. Stop it first."
    return ""


def _require_possible(instance: Instance) -> None:
    if not instance.container:
        raise NotPossible(f"{instance} has not been deployed yet.", advice="Deploy its environment first.")
    environment = instance.environment
    at_work = services.underway(environment)
    if at_work:
        raise NotPossible(f"{at_work} is underway in {environment}.", advice="Wait until it has ended.")
    if environment.busy:
        raise NotPossible(f"{environment.busy_with} is at work in {environment}.", advice="Wait until it has ended.")
    door = Door.objects.filter(environment=environment).first()
    if door:
        raise NotPossible(
            f"The door of {environment} is closed by {door.holder}: starting anything could change data that is still "
            "to be put back.",
            advice="Look at that deployment first; docs/operations.md, “A rollback failed”.",
        )


@contextmanager
def _claimed(instance: Instance, what: str) -> Iterator[None]:
    """No deployment begins meanwhile; a claim whose holder dies ends by itself."""
    rows = Environment.objects.filter(pk=instance.environment_id)
    with transaction.atomic():
        instance.environment = rows.select_for_update().select_related("server", "project").get()
        _require_possible(instance)
        rows.update(busy_with=what[:200], busy_until=timezone.now() + CLAIM, busy_by=own_name())
    try:
        yield
    finally:
        rows.update(busy_with="", busy_until=None, busy_by="")
        services.enqueue_next(instance.environment_id)


def heal() -> None:
    """What a worker left that died while it controlled an instance: the rows say again what is true, the door opens."""
    over = timezone.now() - CLAIM
    restarting = Instance.objects.filter(state=State.RESTARTING)
    for instance in restarting.select_related("environment__server", "environment__project"):
        environment = instance.environment
        if environment.busy or services.underway(environment):
            continue
        if not environment.busy_with and instance.state_since and instance.state_since > over:
            continue  # its job has not begun yet
        try:
            doors.open(environment, runtime_for(environment.server), holder=_holder(instance))
            _record_truth(instance, "It was left in the middle of a restart.")
        except ExpectedError as error:
            logger.warning("%s could not be looked at: %s", instance, error)
            continue
        Environment.objects.filter(pk=environment.pk).update(busy_with="", busy_until=None, busy_by="")
    _forget_dead_claims()


def _forget_dead_claims() -> None:
    """Of one that died after its work was done: nothing is to be healed, only to be handed on."""
    for environment in Environment.objects.exclude(busy_with="").exclude(instances__state=State.RESTARTING):
        if not environment.busy:
            rows = Environment.objects.filter(pk=environment.pk, busy_until=environment.busy_until)
            rows.update(busy_with="", busy_until=None, busy_by="")
            services.enqueue_next(environment.pk)


def _record_truth(instance: Instance, problem: str) -> None:
    """What its container really is; failed where nobody can tell."""
    try:
        found = runtime_for(instance.environment.server).containers.find(instance.container)
    except ExpectedError:
        found = None
    state = State.RUNNING if found and found.running else State.FAILED
    instance.become(state, timezone.now(), problem=problem)


def _holder(instance: Instance) -> str:
    return f"restart of {instance}"


def carry_out(pk: int, verb: str) -> None:
    """In a worker. What went wrong is kept on the instance's row, and shown."""
    instance = Instance.objects.select_related("environment__server", "environment__project").filter(pk=pk).first()
    if instance is None:
        return
    try:
        with _claimed(instance, f"{verb} of {instance}"):
            _act(instance, VERBS[verb])
    except NotPossible as error:
        logger.warning("%s of %s was not done: %s", verb, instance, error)
        if not services.underway(instance.environment):  # else the deployment says what the instance becomes
            _record_truth(instance, error.message)


def _act(instance: Instance, verb: Callable[[Instance, Runtime], None]) -> None:
    try:
        verb(instance, runtime_for(instance.environment.server))
    except ExpectedError as error:
        _record_truth(instance, redact(error.message))


def _stop(instance: Instance, runtime: Runtime) -> None:
    """Once nobody is being served any more; the door stays open, so that clients read that it is not reachable."""
    doors.drain(instance.environment, runtime)
    runtime.containers.stop(instance.container, STOP_SECONDS)
    instance.become(State.STOPPED, timezone.now())


def _runs_the_schedule(instance: Instance) -> bool:
    """The first one of several has the cron threads."""
    first = instance.environment.instances.exclude(container="").order_by("pk").first()
    return first == instance and not _alone(instance)


def _alone(instance: Instance) -> bool:
    return not instance.environment.instances.exclude(pk=instance.pk).exclude(container="").exists()


def _remove(instance: Instance, runtime: Runtime) -> None:
    """Its container, its place behind the edge, its row. Database and filestore are its environment's and stay."""
    if _alone(instance):
        raise NotPossible(f"{instance} was not removed. {ALONE}")
    server = instance.environment.server
    doors.drain(instance.environment, runtime)
    runtime.containers.remove(instance.container)
    instance.delete()
    doors.ensure_routes(server, runtime, logger.info)


def _start(instance: Instance, runtime: Runtime) -> None:
    runtime.containers.start(instance.container)
    runtime.containers.join_edge(instance.container, instance.alias)
    _wait(instance, runtime)
    instance.become(State.RUNNING, timezone.now())


def _restart(instance: Instance, runtime: Runtime) -> None:
    """Behind a closed door: requests wait instead of failing."""
    environment = instance.environment
    doors.close(environment, runtime, holder=_holder(instance))
    try:
        runtime.containers.stop(instance.container, STOP_SECONDS)
        _start(instance, runtime)
    finally:
        doors.open(environment, runtime, holder=_holder(instance))


def _wait(instance: Instance, runtime: Runtime) -> None:
    deadline = time.monotonic() + READY_SECONDS
    pause = 0.1
    argv = readiness.probe(readiness.LOGIN_PATH, host=instance.environment.hostname)
    while True:
        (answer,) = readiness.parse_probe(runtime.containers.exec(instance.container, argv).output)
        problems = readiness.judge_login(answer)
        if not problems:
            return
        if time.monotonic() > deadline:
            raise NotPossible(f"{instance} was started, but did not become healthy: {problems[0]}")
        time.sleep(pause)
        pause = min(pause * 1.5, 2.0)


VERBS: dict[str, Callable[[Instance, Runtime], None]] = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "remove": _remove,
}
