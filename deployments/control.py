"""Start, stop, restart and remove an instance, outside of a deployment."""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from redis.exceptions import RedisError

from deployments import at_work, claims, queues, renewal, scaling, schedule, services, sight
from deployments.claims import Claim
from deployments.fence import fenced
from deployments.keeper import repairs
from deployments.services import NotPossible
from instances import doors, incidents
from instances.models import Door, Instance
from instances.processes import STOP_SECONDS
from instances.runtimes import runtime_for
from instances.runtimes.base import Runtime
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.models import Environment, Split

logger = logging.getLogger(__name__)
READY_SECONDS = 120.0
CLAIM = timedelta(seconds=300)
"""Longer than one act on the server takes; while a verb waits it stays."""
ALONE = "It is the only one that serves its environment. Remove the environment instead."
BEGIN = timedelta(seconds=20)
"""Longer than a worker takes from the queue to the claim; what is in neither after that was lost with Redis."""
State = Instance.State
Verb = Callable[[Instance, Runtime, Claim], State | None]
"""What it has become; None: it is gone."""


def request(instance: Instance, verb: str) -> None:
    """Check that it makes sense now, and hand it to a worker. Raises `NotPossible`."""
    if verb not in VERBS:
        raise NotPossible(f"“{verb}” is not something that can be done to an instance.")
    _require_deployed(instance)
    _require_nobody_led(instance, verb)
    claims.require_free(instance.environment)
    row = Instance.objects.filter(pk=instance.pk)
    before, free = row.values("state", "state_since", "problem").get(), row.exclude(state=State.RESTARTING)
    if not free.update(state=State.RESTARTING, state_since=timezone.now(), problem=""):
        raise NotPossible(
            f"{instance} is being started, stopped or restarted already.",
            advice="Wait until that is done. What became of it its page says within a minute, also if a worker died.",
        )
    instance.refresh_from_db(fields=["state", "state_since", "problem"])
    try:
        queues.enqueue_control(instance.pk, verb)
    except RedisError as error:
        row.filter(state=State.RESTARTING).update(**before)
        raise NotPossible(
            f"{instance} was left as it is: Redis does not answer.", advice="Check the portal's Redis, then try again."
        ) from error


def _require_nobody_led(instance: Instance, verb: str) -> None:
    """The last one of a second version isn't stopped while clients are led there."""
    environment = instance.environment
    split = Split.objects.filter(environment=environment).exclude(share=0).first() if environment.second_of_id else None
    if split and verb == "stop" and _serves_alone(instance):
        raise NotPossible(
            f"{split.share} % of the clients of {environment.second_of} are led to {instance}.",
            advice="Switch them back to the first version, then stop it.",
        )


def removal_refusal(instance: Instance) -> str:
    """Why it may not be removed from its environment now; empty when it may."""
    if at_work.underway(instance.environment):
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


def _require_deployed(instance: Instance) -> None:
    if not instance.container:
        raise NotPossible(f"{instance} has not been deployed yet.", advice="Deploy its environment first.")


def heal() -> None:
    """What a worker left that died while it controlled an instance: the rows say again what is true, the door opens.
    Where another container of it may be left, a worker is to look."""
    restarting = Instance.objects.filter(state=State.RESTARTING).exclude(container="")
    restarting = restarting.exclude(environment__server__in=incidents.engines_down())
    for instance in restarting.select_related("environment__server", "environment__project"):
        environment = instance.environment
        if at_work.hindrance(environment, behind_doors=True):
            continue
        if not environment.busy_with and _is_to_begin(instance):
            continue
        try:
            _heal(instance, asked=environment.busy_with)
        except NotPossible as error:
            logger.info("%s is not looked at: %s", instance, error)
    _forget_dead_claims()
    for pk in _untidy().values_list("pk", flat=True):
        queues.enqueue_tidying(pk)


def _untidy() -> QuerySet[Instance]:
    """Those where nobody is at work, and no person is to look first."""
    rows = Instance.objects.filter(untidy=True).exclude(container="").exclude(state=State.RESTARTING)
    rows = rows.exclude(environment__server__in=incidents.engines_down())
    return rows.exclude(environment__in=Environment.objects.filter(at_work.occupied()))


def tidy(pk: int) -> None:
    """In a worker: what a restart has left, and could not end itself."""
    rows = Instance.objects.filter(untidy=True).exclude(state=State.RESTARTING)
    instance = rows.select_related("environment").filter(pk=pk).first()
    if instance is None or services.broken_by(instance.environment):
        return
    try:
        with claims.claimed(instance.environment_id, f"tidying up after a restart of {instance}", CLAIM) as claim:
            instance = rows.filter(pk=pk).first()
            if instance is not None:
                instance.environment = claim.environment
                renewal.tidy(instance, fenced(runtime_for(claim.environment.server), claim.check))
    except NotPossible as error:
        logger.info("Instance %s is not tidied up now: %s", pk, error)
    except ExpectedError as error:
        logger.warning("Instance %s is not tidied up yet: %s", pk, error)


def _is_to_begin(instance: Instance) -> bool:
    """Its job waits in the queue, or a worker has just taken it."""
    young = instance.state_since is not None and timezone.now() - instance.state_since < BEGIN
    return young or queues.control_waits(instance.pk)


def _heal(instance: Instance, asked: str) -> None:
    """Raises `NotPossible` where somebody is at work by now."""
    # Under the words of who died: whoever comes after another death still knows what was asked.
    what, key = asked or f"a look at {instance}", instance.environment_id
    with claims.claimed(key, what, CLAIM, behind_doors=True) as claim:
        instance.refresh_from_db(fields=["state", "problem", "container"])
        if instance.state != State.RESTARTING:
            return
        environment = claim.environment
        try:
            doors.open(environment, fenced(runtime_for(environment.server), claim.check), holder=_holder(instance))
            claim.check()
            _record_truth(instance, instance.problem or _left(asked), asked=asked)
            return
        except claims.Lapsed:
            raise
        except ExpectedError as error:
            logger.warning("%s could not be looked at: %s", instance, error)
    Environment.objects.filter(pk=key, busy_with="").update(busy_with=asked)


def _left(asked: str) -> str:
    what = next((verb for verb in VERBS if asked.startswith(f"{verb} of ")), "change")
    return f"Its {what} was left in the middle, by a worker that died. If it is still wanted, ask for it again."


def _forget_dead_claims() -> None:
    """Of one that died after its work was done: nothing is to be healed, only to be handed on."""
    for environment in Environment.objects.exclude(busy_with="").exclude(instances__state=State.RESTARTING):
        if not environment.busy:
            rows = Environment.objects.filter(pk=environment.pk, busy_until=environment.busy_until)
            rows.update(busy_with="", busy_until=None, busy_by="")
            schedule.hand_out(environment.server_id)


def _record_truth(instance: Instance, problem: str, *, asked: str = "") -> None:
    """What its container really is; failed where nobody can tell. `asked`: what a worker died over."""
    try:
        found = runtime_for(instance.environment.server).containers.find(instance.container)
    except ExpectedError:
        found = None
    Instance.objects.filter(pk=instance.pk).update(leaving=False)  # its removal did not come to its end
    if found and not found.running and asked == _name("stop", instance):
        instance.become(State.STOPPED, timezone.now())
        return
    if found and found.running:
        instance.become(State.RUNNING, found.started_at or timezone.now(), problem=problem)
    else:
        instance.become(State.FAILED, timezone.now(), problem=problem)


def _holder(instance: Instance) -> str:
    return _name("restart", instance)


def _name(verb: str, instance: Instance) -> str:
    return f"{verb} of {instance}"[:200]


def carry_out(pk: int, verb: str) -> None:
    """In a worker. What went wrong is kept on the instance's row, and shown."""
    rows = Instance.objects.select_related("environment__server", "environment__project").filter(pk=pk)
    instance = rows.first()
    if instance is None:
        return
    try:
        with claims.claimed(instance.environment_id, _name(verb, instance), CLAIM) as claim:
            instance = rows.filter(state=State.RESTARTING).first()  # as it is now that nobody else is at work
            if instance is not None:
                instance.environment = claim.environment
                _require_deployed(instance)
                _act(claim, instance, VERBS[verb])
    except claims.Lapsed as error:
        logger.warning("%s of %s was left: %s", verb, instance, error)  # as it is, for `heal`
    except NotPossible as error:
        logger.warning("%s of %s was not done: %s", verb, instance, error)
        Instance.objects.filter(pk=pk, state=State.RESTARTING).update(problem=error.message)
        _look_at_once(pk)


def _look_at_once(pk: int) -> None:
    """Unless somebody is at work there: that one says what it becomes, or the clock."""
    instance = Instance.objects.select_related("environment__server").filter(pk=pk, state=State.RESTARTING).first()
    if instance is not None:
        with suppress(NotPossible):
            _heal(instance, asked="")


def _act(claim: Claim, instance: Instance, verb: Verb) -> None:
    runtime = fenced(runtime_for(instance.environment.server), claim.check)
    try:
        if instance.untidy:
            renewal.tidy(instance, runtime)
        became = verb(instance, runtime, claim)
    except claims.Lapsed:
        raise
    except ExpectedError as error:
        claim.check()  # else whoever is at work there now says what it is
        if Door.objects.filter(environment=instance.environment, holder=_holder(instance)).exists():
            # As it is, for `heal`, which opens it.
            Instance.objects.filter(pk=instance.pk, state=State.RESTARTING).update(problem=redact(error.message))
        else:
            _record_truth(instance, redact(error.message))
        return
    if became:
        claim.check()
        instance.become(became, timezone.now())
        if not _alone(instance):
            _lead(instance, runtime)


def _lead(instance: Instance, runtime: Runtime) -> None:
    """The doors of its environment lead to those that serve now; what fails is seen and mended by the clock."""
    try:
        doors.lead(instance.environment, runtime)
    except claims.Lapsed:
        raise
    except ExpectedError as error:
        logger.warning("The doors of %s could not be led: %s", instance.environment, error)


def _stop(instance: Instance, runtime: Runtime, _: Claim) -> State:
    """Once nobody is being served by it any more. Where it is the only one the door stays open, so that clients read
    that it is not reachable."""
    if _serves_alone(instance):
        doors.drain(instance.environment, runtime)
    else:
        _take_out(instance, runtime)
    runtime.containers.stop(instance.container, STOP_SECONDS)
    return State.STOPPED


def _take_out(instance: Instance, runtime: Runtime) -> None:
    """The others serve its clients from now on."""
    runtime.edge.close_and_drain([doors.upstream(instance)], settings.OCORE_DRAIN_SECONDS)


def _runs_the_schedule(instance: Instance) -> bool:
    """The first one of several has the cron threads."""
    first = instance.environment.instances.exclude(container="").order_by("pk").first()
    return first == instance and not _alone(instance)


def _serves_alone(instance: Instance) -> bool:
    """Nobody else could take its clients."""
    others = instance.environment.instances.exclude(pk=instance.pk).exclude(container="")
    return not others.filter(state=State.RUNNING).exists()


def _alone(instance: Instance) -> bool:
    return not instance.environment.instances.exclude(pk=instance.pk).exclude(container="").exists()


def _remove(instance: Instance, runtime: Runtime, _: Claim) -> None:
    """Its container, its place behind the edge, its row. Database and filestore are its environment's and stay."""
    if _alone(instance):
        raise NotPossible(f"{instance} was not removed. {ALONE}")
    server = instance.environment.server
    scaling.take_away(instance, runtime)
    doors.ensure_routes(server, runtime, logger.info)


def _start(instance: Instance, runtime: Runtime, _: Claim) -> State:
    repairs.bring_up(instance, runtime, runtime.containers.find(instance.container))
    sight.wait_until_it_answers(instance, instance.container, runtime, READY_SECONDS)
    return State.RUNNING


def _restart(instance: Instance, runtime: Runtime, claim: Claim) -> State:
    """Where others serve, they get its clients meanwhile; else another takes them before it goes. Where neither can be,
    requests wait behind a closed door instead of failing."""
    environment = instance.environment
    if not _serves_alone(instance):
        _take_out(instance, runtime)
        runtime.containers.stop(instance.container, STOP_SECONDS)
        return _start(instance, runtime, claim)
    try:
        renewal.renew(instance, runtime, claim.check)
        return State.RUNNING
    except renewal.Alone as reason:
        logger.info("%s is restarted behind a closed door: %s", instance, reason)
    runtime.edge.expect(environment.key, 0)  # what a deployment has said of itself holds no more
    try:
        doors.close(environment, runtime, holder=_holder(instance))
        runtime.containers.stop(instance.container, STOP_SECONDS)
        return _start(instance, runtime, claim)
    finally:
        doors.open(environment, runtime, holder=_holder(instance))


VERBS: dict[str, Verb] = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "remove": _remove,
}
