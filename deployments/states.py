"""The automaton of a deployment, as a table."""

from django.db import models


class Status(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    ROLLING_BACK = "rolling_back", "Rolling back"
    CANCELLING = "cancelling", "Cancelling"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed, nothing was changed"
    ROLLED_BACK = "rolled_back", "Rolled back"
    ROLLBACK_FAILED = "rollback_failed", "Rollback failed: a person must look"
    CANCELLED = "cancelled", "Cancelled"
    SUPERSEDED = "superseded", "Superseded"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED, Status.SUPERSEDED, Status.FAILED}),
    Status.RUNNING: frozenset(
        # Superseded: a push that turns out, once its branch has been fetched, to bring nothing new.
        {Status.SUCCEEDED, Status.FAILED, Status.ROLLING_BACK, Status.CANCELLING, Status.SUPERSEDED}
    ),
    Status.CANCELLING: frozenset({Status.CANCELLED, Status.ROLLBACK_FAILED}),
    Status.ROLLING_BACK: frozenset({Status.ROLLED_BACK, Status.ROLLBACK_FAILED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.ROLLED_BACK: frozenset(),
    Status.ROLLBACK_FAILED: frozenset({Status.ROLLING_BACK}),  # a person lets it be tried again
    Status.CANCELLED: frozenset(),
    Status.SUPERSEDED: frozenset(),
}
UNDERWAY = frozenset({Status.RUNNING, Status.ROLLING_BACK, Status.CANCELLING})
"""A worker has it. One per environment, by constraint."""
ACTIVE = UNDERWAY | {Status.QUEUED}
FINAL = frozenset(Status) - ACTIVE
FAILURES = frozenset({Status.FAILED, Status.ROLLED_BACK, Status.ROLLBACK_FAILED})


class StepKind(models.TextChoices):
    BUILD = "build", "Build"
    SNAPSHOT = "snapshot", "Snapshot"
    DEPLOY = "deploy", "Deploy"
    HEALTH_CHECK = "health_check", "Health check"
    COMPLETE = "complete", "Complete"
    ROLLBACK = "rollback", "Rollback"


FORWARD = (StepKind.BUILD, StepKind.SNAPSHOT, StepKind.DEPLOY, StepKind.HEALTH_CHECK, StepKind.COMPLETE)


class Way(models.TextChoices):
    """How a deployment puts the new version in the old one's place."""

    STAYS = "stays", "What runs stays"
    BLUE_GREEN = "blue_green", "Blue-green: beside the old version, no request waits"
    ROLLING = "rolling", "Rolling: one instance after the other, no request waits"
    RECREATE = "recreate", "Recreate: behind a closed door, requests wait"


GENTLE = frozenset({Way.BLUE_GREEN, Way.ROLLING})
"""The door stays open, the database is not changed."""


class StepStatus(models.TextChoices):
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    SKIPPED = "skipped", "Nothing to do"
    FAILED = "failed", "Failed"
    UNDONE = "undone", "Taken back"


class Trigger(models.TextChoices):
    PUSH = "push", "Push"
    MANUAL = "manual", "By hand"
    COMMAND_LINE = "command_line", "Command line"
    ROLLBACK = "rollback", "Rollback by hand"
    API = "api", "API"
