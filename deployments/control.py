"""Start, stop, restart and remove an instance, outside of a deployment."""

import logging
import time
from collections.abc import Callable

from django.utils import timezone
from redis.exceptions import RedisError

from deployments import queues, services
from deployments.services import NotPossible
from instances import doors
from instances.models import Instance
from instances.odoo import readiness
from instances.processes import STOP_SECONDS
from instances.runtimes import runtime_for
from instances.runtimes.base import Runtime
from ocore.errors import ExpectedError
from projects.models import Environment

logger = logging.getLogger(__name__)
READY_SECONDS = 120.0
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
    if not instance.container:
        return ""
    if services.underway(instance.environment):
        return "A deployment of its environment is underway. Wait for its end."
    if _alone(instance):
        return ALONE
    if instance.environment.kind == Environment.Kind.PRODUCTION and instance.state != State.STOPPED:
        return "It is of production, and it is not stopped. Stop it first."
    return ""


def _require_possible(instance: Instance) -> None:
    if not instance.container:
        raise NotPossible(f"{instance} has not been deployed yet.", advice="Deploy its environment first.")
    at_work = services.underway(instance.environment)
    if at_work:
        raise NotPossible(f"{at_work} is underway in {instance.environment}.", advice="Wait until it has ended.")


def carry_out(pk: int, verb: str) -> None:
    """In a worker. What went wrong is kept on the instance's row, and shown."""
    instance = Instance.objects.select_related("environment__server", "environment__project").filter(pk=pk).first()
    if instance is None:
        return
    runtime = runtime_for(instance.environment.server)
    try:
        _require_possible(instance)
        VERBS[verb](instance, runtime)
    except ExpectedError as error:
        found = runtime.containers.find(instance.container) if instance.container else None
        state = State.RUNNING if found and found.running else State.FAILED
        instance.become(state, timezone.now(), problem=error.message)


def _stop(instance: Instance, runtime: Runtime) -> None:
    """Once nobody is being served any more; the door stays open, so that clients read that it is not reachable."""
    doors.drain(instance.environment, runtime)
    runtime.containers.stop(instance.container, STOP_SECONDS)
    instance.become(State.STOPPED, timezone.now())


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
    doors.close(environment, runtime, holder=f"restart of {instance}")
    try:
        runtime.containers.stop(instance.container, STOP_SECONDS)
        _start(instance, runtime)
    finally:
        doors.open(environment, runtime)


def _wait(instance: Instance, runtime: Runtime) -> None:
    deadline = time.monotonic() + READY_SECONDS
    pause = 0.1
    argv = readiness.probe(readiness.LOGIN_PATH, host=instance.environment.hostname)
    while True:
        answer = readiness.parse_probe(runtime.containers.exec(instance.container, argv).output)
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
