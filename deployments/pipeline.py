"""The engine: run a deployment's steps, record them, and undo them when one fails.

It knows no step by name except for the order in `STEPS`. A step is a module with `perform(stage)` and, if it
changes anything, `undo(stage)`; what `perform` is about to do it writes down first (`stage.intend`), and `undo`
works from those facts alone, so that another process can do it after a crash.
"""

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from deployments import fallen, schedule, serving
from deployments.at_work import underway_on
from deployments.models import Deployment, StaleTransition, Step
from deployments.run import Busy, Cancelled, Lost, Run, Stage, claim, take_over
from deployments.services import THEN_FAILED
from deployments.states import FORWARD, Status, StepKind, StepStatus
from deployments.steps import build, complete, deploy, health_check, snapshot
from deployments.steps.base import Nothing, NothingNew
from instances import clusters, templates
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import RunFailed, ServerUnreachable
from ocore import waiting
from ocore.errors import ExpectedError

logger = logging.getLogger(__name__)

STEPS: dict[StepKind, ModuleType] = {
    StepKind.BUILD: build,
    StepKind.SNAPSHOT: snapshot,
    StepKind.DEPLOY: deploy,
    StepKind.HEALTH_CHECK: health_check,
    StepKind.COMPLETE: complete,
}
BUG_ADVICE = "This is a defect of oCore, not of your repository. The traceback is in the step's log; please report it."

HOPELESS = (snapshot.RestoreFailed, snapshot.OldVersionGone)
"""What another attempt of a rollback can't change."""
CUT_OFF = (ServerUnreachable, RunFailed)
"""Containers outlive their engine: what was asked of the server may be going on there, or have left something."""
RUNBOOK = (
    "Look at the rollback's log; docs/operations.md, “A rollback failed”, tells what to do. "
    "Once the cause is gone, “Try the rollback again” finishes it."
)
UNFINISHED_ADVICE = "oCore goes on trying. If this stays, what the message names needs a person."
LOST = ExpectedError("The worker was lost.")


def run(pk: int) -> Deployment:
    """Bring a queued deployment to a final status. Raises `Busy` if it isn't this caller's to run."""
    with Run(claim(pk)) as held, _unless_lost(held):
        try:
            for kind in FORWARD:
                _perform(held, kind)
                _make_room(held, kind)
        except (Lost, StaleTransition):
            raise
        except NothingNew as error:
            _supersede(held, error)
        except ExpectedError as error:
            _settle(held, error)
        except Exception as error:
            _settle(held, _as_bug(error))
            raise
    return _reload(held)


def _make_room(held: Run, ended: StepKind) -> None:
    """A build has ended: there is room for the next. What goes wrong with that is no failure of this deployment; the
    clock hands out too."""
    if ended == StepKind.BUILD:
        try:
            schedule.hand_out(held.environment.server_id)
        except DatabaseError:
            logger.exception("The next deployments on %s wait for the clock", held.environment.server)


def recover(pk: int) -> Deployment:
    """Finish what a dead worker left: complete it past the point of no return, take it back before. Raises `Busy`."""
    with Run(take_over(pk)) as held, _unless_lost(held):
        deployment = held.deployment
        held.inherited = held.goes_on = True
        logger.warning("%s is held by nobody; taking over", deployment)
        try:
            if deployment.switched_at:
                held.runtime.prepare(logger.info)
                _end_what_goes_on(held)
                _perform(held, StepKind.COMPLETE)
            else:
                _take_back(held, LOST)
        except (Lost, StaleTransition):
            raise
        except ExpectedError as error:
            _settle(held, error)
        except Exception as error:
            _settle(held, _as_bug(error))
            raise
        _tidy_after_the_dead(held)
    return _reload(held)


def _tidy_after_the_dead(held: Run) -> None:
    """What it has left beside its steps; what can't be removed now is in nobody's way."""
    build.forget(held.deployment.pk)
    server = held.environment.server
    others = partial(underway_on, clusters.sharing(server), besides=held.deployment.pk)
    runtime = runtime_for(server)
    for what, act in (
        ("a template", partial(templates.forget_drafts, runtime, logger.info, others)),
        ("a build", runtime.images.tidy),
        ("a look at its code", partial(runtime.containers.remove, serving.look_name(held.deployment))),
    ):
        try:
            act()
        except ExpectedError as error:
            logger.warning("What was left of %s could not be removed: %s", what, error)


@contextmanager
def _unless_lost(held: Run) -> Iterator[None]:
    """Whoever finds that another worker has taken over stops, and leaves everything to that one."""
    try:
        yield
    except (Lost, StaleTransition) as error:
        logger.warning("%s was taken over by another worker: %s", held.deployment, error)


def _supersede(held: Run, error: NothingNew) -> None:
    """It ends before it has begun, beside what makes it superfluous; unless somebody has just cancelled it."""
    held.say(error)
    try:
        _finish(held, Status.SUPERSEDED, superseded_by=error.instead)
    except StaleTransition:
        if _status(held.deployment) != Status.CANCELLING:
            raise
        _take_back(held, Cancelled("Cancelled."))


def _settle(held: Run, error: ExpectedError) -> None:
    """Before the point of no return: take back. Past it the new version is live and has writes that nothing may undo;
    without a heartbeat the reconciler soon tries to complete it again."""
    if Deployment.objects.filter(pk=held.deployment.pk, switched_at=None).exists():
        _take_back(held, fallen.told(held.environment.server, error))
        if isinstance(error, CUT_OFF):
            _tidy_after_the_dead(held)
        return
    logger.error("%s is live, but could not be completed: %s", held.deployment, error)
    held.say(
        ExpectedError(f"Live, but not complete yet: {error.message}", detail=error.detail, advice=UNFINISHED_ADVICE)
    )


def _reload(held: Run) -> Deployment:
    held.deployment.refresh_from_db()
    return held.deployment


def _perform(held: Run, kind: StepKind) -> None:
    row = _open(held, kind)
    stage = Stage(held, row)
    status, outcome = StepStatus.FAILED, "Interrupted."
    try:
        with waiting.heeding(stage.pulse):
            outcome = STEPS[kind].perform(stage) or ""
        status = StepStatus.SUCCEEDED
    except Nothing as nothing:
        status, outcome = StepStatus.SKIPPED, nothing.message
    except NothingNew as error:
        status, outcome = StepStatus.SKIPPED, error.message
        stage.write(error.message)
        raise
    except ExpectedError as error:
        outcome = error.message
        _log_error(stage, error)
        raise
    except (Lost, StaleTransition):
        outcome = "Another worker took over."
        raise
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        stage.write(traceback.format_exc())
        raise
    finally:
        stage.flush()
        _close(held, row, status, outcome)


def _open(held: Run, kind: StepKind) -> Step:
    """Only its holder begins a step: nobody would ever close what another began after the end. Raises as `check`."""
    with transaction.atomic():
        Deployment.objects.select_for_update().get(pk=held.deployment.pk)  # nobody takes over meanwhile
        held.check()
        return Step.objects.get_or_create(deployment=held.deployment, kind=kind)[0]


def _log_error(stage: Stage, error: ExpectedError) -> None:
    stage.write(f"✗ {error.message}")
    if error.detail:
        stage.write(error.detail)
    if error.advice:
        stage.write(f"→ {error.advice}")


def _close(held: Run, row: Step, status: StepStatus, outcome: str) -> None:
    """Only its holder says how a step ended."""
    Step.objects.filter(pk=row.pk, deployment__token=held.token).update(
        status=status, outcome=held.redact(outcome), finished_at=timezone.now()
    )


def _as_bug(error: Exception) -> ExpectedError:
    return ExpectedError(f"{type(error).__name__}: {error}", advice=BUG_ADVICE)


def _take_back(held: Run, reason: ExpectedError) -> None:
    """Undo what the rows say was done, newest first, and end in the status that is true."""
    deployment = held.deployment
    held.undoing = True
    held.goes_on |= isinstance(reason, CUT_OFF)
    status = _status(deployment)
    if status != Status.ROLLING_BACK and not (reason is LOST and deployment.error):  # else this is another attempt
        held.say(_advised(reason, deployment))
    deployment.steps.filter(status=StepStatus.RUNNING).exclude(kind=StepKind.ROLLBACK).update(
        status=StepStatus.FAILED, outcome=held.redact(reason.message), finished_at=timezone.now()
    )
    touched = [step for step in deployment.steps.order_by("-pk") if step.facts and step.kind in STEPS]
    cancelled = isinstance(reason, Cancelled) or status == Status.CANCELLING
    if not touched:
        if cancelled:
            held.save(error=f"{held.deployment.error} Nothing had been changed.")
        _finish(held, Status.CANCELLED if cancelled else Status.FAILED)
        return
    if not cancelled and status != Status.ROLLING_BACK:
        try:
            deployment.move(Status.ROLLING_BACK, token=held.token)
        except StaleTransition:
            if _status(deployment) != Status.CANCELLING:
                raise
            cancelled = True
    _roll_back(held, touched, Status.CANCELLED if cancelled else Status.ROLLED_BACK)


def _advised(reason: ExpectedError, deployment: Deployment) -> ExpectedError:
    """A lost worker's advice depends on what it had been at."""
    if reason is not LOST:
        return reason
    changed = any(step.facts for step in deployment.steps.filter(kind__in=STEPS))
    again = "Roll back again." if deployment.rollback_to_id else "Deploy again."
    advice = f"What had been changed was put back. {again}" if changed else f"Nothing had been changed. {again}"
    return ExpectedError(reason.message, advice=advice)


def _roll_back(held: Run, touched: list[Step], end: Status) -> None:
    row = _open(held, StepKind.ROLLBACK)
    stage = Stage(held, row)
    try:
        with waiting.heeding(stage.pulse):
            failure = _undo(stage, touched)
    except (Lost, StaleTransition):
        raise
    except Exception as error:
        stage.write(traceback.format_exc())
        logger.exception("%s could not be taken back", held.deployment)
        failure = _as_bug(error)
    if failure is None:
        stage.flush()
        taken_back = ", ".join(step.get_kind_display().lower() for step in touched)
        outcome = f"Taken back: {taken_back}. Everything is as it was before."
        if end == Status.CANCELLED:
            held.save(error=f"{held.deployment.error} {outcome}")
        _finish(held, end, row=row, outcome=outcome)
        return
    if isinstance(failure, ServerUnreachable):
        # Nobody can put anything back there now, and nobody is needed for it later: the reconciler comes again.
        stage.write(f"Not yet: {failure.message} It goes on once the server answers.")
        stage.flush()
        logger.error("%s is taken back once its server answers: %s", held.deployment, failure.message)
        return
    _log_error(stage, failure)
    stage.flush()
    held.say(
        ExpectedError(
            f"{held.deployment.error}{THEN_FAILED}{failure.message}",
            detail=failure.detail or held.deployment.detail,
            advice=failure.advice if isinstance(failure, snapshot.OldVersionGone) else RUNBOOK,
        )
    )
    logger.critical("%s: the rollback failed, a person must look: %s", held.deployment, failure.message)
    # Also that of a second version whose place it was to take.
    doors = Door.objects.filter(Q(environment=held.environment) | Q(holder=str(held.deployment)))
    doors.update(at_work=False)
    Instance.objects.filter(environment=held.environment, state=Instance.State.RUNNING).update(
        state=Instance.State.FAILED, state_since=timezone.now(), problem=f"The rollback of {held.deployment} failed."
    )
    _finish(held, Status.ROLLBACK_FAILED, row=row, outcome=failure.message)


def _undo(stage: Stage, touched: list[Step]) -> ExpectedError | None:
    """Again and again until it is done or patience ends: each undo is idempotent, and what fails now may be PostgreSQL
    coming back just now. What it still fails with; None: all is undone."""
    held = stage.run
    deadline = time.monotonic() + settings.OCORE_ROLLBACK_SECONDS
    pause = 1.0
    while True:
        try:
            _end_what_goes_on(held)
            for step in touched:
                if step.status != StepStatus.UNDONE:
                    stage.log(f"Taking back: {step.get_kind_display().lower()}")
                    held.check()
                    STEPS[StepKind(step.kind)].undo(stage, step)
                    step.status = StepStatus.UNDONE
                    Step.objects.filter(pk=step.pk, deployment__token=held.token).update(status=StepStatus.UNDONE)
        except ExpectedError as error:
            held.goes_on |= isinstance(error, CUT_OFF)
            away = held.inherited and isinstance(error, ServerUnreachable)  # then the reconciler is patient enough
            if away or isinstance(error, HOPELESS) or time.monotonic() + pause > deadline:
                return error
            stage.log(f"Not yet: {error.message} Trying again in {pause:.0f} s.")
            waiting.pause(pause)
            pause = min(2 * pause, 20.0)
            _bring_server_back(stage)
        else:
            return None


def _end_what_goes_on(held: Run) -> None:
    """Whoever died or was cut off may have left a statement or a helper's container: nothing is put back beside it."""
    if held.goes_on:
        if not held.environment.shares_data:  # then it never works on them
            held.runtime.databases.end_work(held.environment.database)
            held.runtime.filestores.end_work(held.environment.volume)
        held.inherited = held.goes_on = False


def _bring_server_back(stage: Stage) -> None:
    """PostgreSQL and the edge run; if they can't be brought back, the next attempt says what is wrong."""
    try:
        fallen.notice(stage.run.environment.server)
        stage.run.runtime.prepare(stage.log)
    except ExpectedError as error:
        stage.log(error.message)


def _finish(held: Run, status: Status, *, row: Step | None = None, outcome: str = "", **fields: Any) -> None:
    with transaction.atomic():
        if row is not None:
            failed = status == Status.ROLLBACK_FAILED
            _close(held, row, StepStatus.FAILED if failed else StepStatus.SUCCEEDED, outcome)
        held.deployment.move(status, token=held.token, finished_at=timezone.now(), **fields)
        Instance.objects.filter(environment=held.environment, container="", state=Instance.State.CREATING).update(
            state=Instance.State.NEW
        )
    logger.info("%s: %s after %.1f s", held.deployment, status, held.deployment.seconds or 0)


def _status(deployment: Deployment) -> str:
    return Deployment.objects.values_list("status", flat=True).get(pk=deployment.pk)


__all__ = ["Busy", "recover", "run"]
