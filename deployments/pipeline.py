"""The engine: run a deployment's steps, record them, and undo them when one fails.

It knows no step by name except for the order in `STEPS`. A step is a module with `perform(stage)` and, if it
changes anything, `undo(stage)`; what `perform` is about to do it writes down first (`stage.intend`), and `undo`
works from those facts alone, so that another process can do it after a crash.
"""

import logging
import traceback
from types import ModuleType

from django.db import transaction
from django.utils import timezone

from deployments.models import Deployment, StaleTransition, Step
from deployments.run import Busy, Cancelled, Lost, Run, Stage, claim, take_over
from deployments.states import FORWARD, Status, StepKind, StepStatus
from deployments.steps import build, complete, deploy, health_check, snapshot
from deployments.steps.base import Nothing
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

UNFINISHED_ADVICE = "oCore goes on trying. If this stays, what the message names needs a person."
LOST = ExpectedError("The worker was lost.", advice="What had been changed was put back. Deploy again.")


def run(pk: int) -> Deployment:
    """Bring a queued deployment to a final status. Raises `Busy` if it isn't this caller's to run."""
    with Run(claim(pk)) as held:
        try:
            for kind in FORWARD:
                _perform(held, kind)
        except Lost:
            logger.warning("%s was taken over by another worker", held.deployment)
        except ExpectedError as error:
            _settle(held, error)
        except Exception as error:
            _settle(held, _as_bug(error))
            raise
    return _reload(held)


def recover(pk: int) -> Deployment:
    """Finish what a dead worker left: complete it past the point of no return, take it back before. Raises `Busy`."""
    with Run(take_over(pk)) as held:
        deployment = held.deployment
        logger.warning("%s is held by nobody; taking over", deployment)
        try:
            if deployment.switched_at:
                _perform(held, StepKind.COMPLETE)
            else:
                _take_back(held, LOST)
        except Lost:
            logger.warning("%s was taken over by another worker", deployment)
        except ExpectedError as error:
            _settle(held, error)
    return _reload(held)


def _settle(held: Run, error: ExpectedError) -> None:
    """Before the point of no return: take back. Past it the new version is live and has writes that nothing may undo;
    without a heartbeat the reconciler soon tries to complete it again."""
    if Deployment.objects.filter(pk=held.deployment.pk, switched_at=None).exists():
        _take_back(held, error)
        return
    logger.error("%s is live, but could not be completed: %s", held.deployment, error)
    held.save(error=f"Live, but not complete yet: {error.message}", detail=error.detail, advice=UNFINISHED_ADVICE)


def _reload(held: Run) -> Deployment:
    held.deployment.refresh_from_db()
    return held.deployment


def _perform(held: Run, kind: StepKind) -> None:
    row, _ = Step.objects.get_or_create(deployment=held.deployment, kind=kind)
    stage = Stage(held, row)
    status, outcome = StepStatus.FAILED, "Interrupted."
    try:
        held.check()
        outcome = STEPS[kind].perform(stage) or ""
        status = StepStatus.SUCCEEDED
    except Nothing as nothing:
        status, outcome = StepStatus.SKIPPED, nothing.message
    except ExpectedError as error:
        outcome = error.message
        _log_error(stage, error)
        raise
    except Lost:
        outcome = "Another worker took over."
        raise
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        stage._log(traceback.format_exc())
        raise
    finally:
        stage.flush()
        _close(row, status, outcome)


def _log_error(stage: Stage, error: ExpectedError) -> None:
    stage._log(f"✗ {error.message}")
    if error.detail:
        stage._log(error.detail)
    if error.advice:
        stage._log(f"→ {error.advice}")


def _close(row: Step, status: StepStatus, outcome: str) -> None:
    row.status, row.outcome, row.finished_at = status, outcome, timezone.now()
    row.save(update_fields=["status", "outcome", "finished_at"])


def _as_bug(error: Exception) -> ExpectedError:
    return ExpectedError(f"{type(error).__name__}: {error}", advice=BUG_ADVICE)


def _take_back(held: Run, reason: ExpectedError) -> None:
    """Undo what the rows say was done, newest first, and end in the status that is true."""
    deployment = held.deployment
    held.undoing = True
    held.save(error=reason.message, detail=reason.detail, advice=reason.advice)
    deployment.steps.filter(status=StepStatus.RUNNING).exclude(kind=StepKind.ROLLBACK).update(
        status=StepStatus.FAILED, outcome=reason.message, finished_at=timezone.now()
    )
    touched = [step for step in deployment.steps.order_by("-pk") if step.facts and step.kind in STEPS]
    cancelled = isinstance(reason, Cancelled) or _status(deployment) == Status.CANCELLING
    if not touched:
        _finish(held, Status.CANCELLED if cancelled else Status.FAILED)
        return
    if not cancelled:
        try:
            deployment.move(Status.ROLLING_BACK, token=held.token)
        except StaleTransition:
            cancelled = _status(deployment) == Status.CANCELLING  # the other way to be here is a second take-over
    _roll_back(held, touched, Status.CANCELLED if cancelled else Status.ROLLED_BACK)


def _roll_back(held: Run, touched: list[Step], end: Status) -> None:
    row, _ = Step.objects.get_or_create(deployment=held.deployment, kind=StepKind.ROLLBACK)
    stage = Stage(held, row)
    failure: ExpectedError | None = None
    try:
        for step in touched:
            if step.status != StepStatus.UNDONE:
                stage.log(f"Taking back: {step.get_kind_display().lower()}")
                STEPS[StepKind(step.kind)].undo(stage, step)
                Step.objects.filter(pk=step.pk).update(status=StepStatus.UNDONE)
    except ExpectedError as error:
        failure = error
    except Lost:
        raise
    except Exception as error:
        stage._log(traceback.format_exc())
        logger.exception("%s could not be taken back", held.deployment)
        failure = _as_bug(error)
    if failure is None:
        stage.flush()
        _finish(held, end, row=row, outcome="Everything is as it was before.")
        return
    _log_error(stage, failure)
    stage.flush()
    held.save(
        error=f"{held.deployment.error} Then the rollback failed: {failure.message}",
        detail=failure.detail or held.deployment.detail,
        advice=failure.advice
        or "Look at the rollback's log; docs/operations.md, “A rollback failed”, tells what to do.",
    )
    logger.critical("%s: the rollback failed, a person must look: %s", held.deployment, failure.message)
    _finish(held, Status.ROLLBACK_FAILED, row=row, outcome=failure.message)


def _finish(held: Run, status: Status, *, row: Step | None = None, outcome: str = "") -> None:
    with transaction.atomic():
        if row is not None:
            _close(row, StepStatus.FAILED if status == Status.ROLLBACK_FAILED else StepStatus.SUCCEEDED, outcome)
        held.deployment.move(status, token=held.token, finished_at=timezone.now())
    logger.info("%s: %s after %.1f s", held.deployment, status, held.deployment.seconds or 0)


def _status(deployment: Deployment) -> str:
    return Deployment.objects.values_list("status", flat=True).get(pk=deployment.pk)


__all__ = ["Busy", "recover", "run"]
