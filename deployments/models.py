"""What was deployed, why, by whom, step by step; and the deliveries that asked for it."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils import timezone

from deployments.commit_status import CommitStatus
from deployments.locks import Lock
from deployments.states import FINAL, TRANSITIONS, UNDERWAY, Status, StepKind, StepStatus, Trigger, Way
from deployments.tokens import ApiToken, KeptAnswer
from ocore.fields import EncryptedMappingField
from projects.models import Environment, Project

__all__ = [
    "ApiToken",
    "CommitStatus",
    "Delivery",
    "Deployment",
    "KeptAnswer",
    "Lock",
    "LogChunk",
    "Snapshot",
    "StaleTransition",
    "Step",
]


class StaleTransition(Exception):
    """Somebody else moved the row first."""


class Delivery(models.Model):
    """One received webhook call: what came, what was decided and why, and what it caused."""

    class Verdict(models.TextChoices):
        ACCEPTED = "accepted", "Accepted"
        IGNORED = "ignored", "Not wanted"
        DUPLICATE = "duplicate", "Duplicate"
        REFUSED = "refused", "Refused"
        UNREADABLE = "unreadable", "Unreadable"

    class Origin(models.TextChoices):
        HOST = "host", "The git host"
        TEST = "test", "A test by hand"
        REPLAY = "replay", "Replayed by hand"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="deliveries")
    origin = models.CharField(max_length=10, choices=Origin.choices, default=Origin.HOST)
    replay_of = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="replays")
    sent_by = models.CharField(max_length=200, blank=True)
    """Who sent a test or replayed it."""
    host = models.CharField(max_length=20)
    delivery_id = models.CharField(max_length=200, blank=True)
    event = models.CharField(max_length=100, blank=True)
    refs = models.CharField(max_length=300, blank=True)
    """The names of what moved, for people."""
    verdict = models.CharField(max_length=20, choices=Verdict.choices)
    reason = models.TextField()
    outcome = models.JSONField(default=list)
    """Per environment that the push concerns: what happened there and why."""
    headers = models.JSONField(default=dict)
    body = models.TextField(blank=True)
    """Kept of verified deliveries only: nobody else gets to fill the disk."""
    remote_address = models.GenericIPAddressField(null=True)
    status_code = models.PositiveSmallIntegerField()
    seconds = models.FloatField(default=0)
    received_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ["-received_at", "-pk"]
        verbose_name_plural = "deliveries"
        permissions = [
            ("replay_delivery", "Can replay a delivery"),
            ("send_test_delivery", "Can send a test delivery"),
        ]
        constraints = [
            # Refused ones don't count: an unsigned call must not be able to occupy the id of a real one.
            models.UniqueConstraint(
                fields=["project", "host", "delivery_id"],
                condition=~Q(delivery_id="") & ~Q(verdict__in=["refused", "duplicate"]),
                name="delivery_id_unique_in_project",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_verdict_display()}: {self.event or 'unknown event'} for {self.project}"


class Deployment(models.Model):
    """One attempt to bring a commit live in an environment."""

    LARGE = ("configuration", "addons", "secret_variables", "detail")
    """Fields that no list needs."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="deployments")
    trigger = models.CharField(max_length=20, choices=Trigger.choices)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    requester = models.CharField(max_length=200, blank=True)
    """Who it was in words: a pusher's name, a user, a shell account. Stays when the account goes."""
    delivery = models.ForeignKey(Delivery, null=True, blank=True, on_delete=models.SET_NULL, related_name="deployments")
    ref = models.CharField(max_length=255, blank=True)
    """What was asked for: a branch, a tag or a commit. Empty: plain Odoo."""
    commit = models.CharField(max_length=64, blank=True)
    pushed_from = models.CharField(max_length=64, blank=True)
    """What the ref was at before the push, as the git host told; "" where it didn't, or nobody pushed."""
    pushed_to = models.CharField(max_length=64, blank=True)
    """The commit that was pushed: what is deployed is the branch's tip, and may be a later one."""
    subject = models.CharField(max_length=300, blank=True)
    author = models.CharField(max_length=200, blank=True)
    committed_at = models.DateTimeField(null=True, blank=True)
    forced = models.BooleanField(default=False)
    repositories = models.JSONField(null=True, editable=False)
    """The further ones with their commits, in their order (`deployments.further`); None until they are known."""

    status = models.CharField(max_length=20, choices=Status.choices, default=Status.QUEUED)
    error = models.TextField(blank=True)
    detail = models.TextField(blank=True)
    advice = models.TextField(blank=True)
    superseded_by = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="supersedes"
    )
    """The newer one that took its place in the line; or what runs, where it would have brought nothing new."""
    retries = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="retried_by")
    """The ended deployment that this one deploys again."""
    cancelled_by = models.CharField(max_length=200, blank=True)

    configuration = models.JSONField(default=dict)
    """Effective settings as they were at the start, per environment and instance, with who set them."""
    secret_variables = EncryptedMappingField(null=True)
    image = models.CharField(max_length=255, blank=True)
    image_id = models.CharField(max_length=100, blank=True)
    base_image_id = models.CharField(max_length=100, blank=True)
    """Of the Odoo image below the addons, as it was when they were built on it: its name may mean another one today."""
    addons = models.JSONField(default=dict)
    """Technical name -> version and fingerprint, as built into the image."""
    content = models.CharField(max_length=64, blank=True)
    """Digest of all that the image was made from: equal for commits that differ in nothing that runs."""

    way = models.CharField(max_length=20, choices=Way.choices, blank=True, editable=False)
    """How the new version takes the old one's place; chosen when all is built."""
    way_because = models.CharField(max_length=500, blank=True, editable=False)

    rollback_to = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="rollbacks")
    restores = models.ForeignKey(
        "Snapshot", null=True, blank=True, on_delete=models.SET_NULL, related_name="restored_by"
    )
    takes_from = models.ForeignKey(Environment, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    """The second version whose place it takes, with that one's data where it has its own."""

    live = models.BooleanField(default=False)
    live_at = models.DateTimeField(null=True, blank=True)
    switched_at = models.DateTimeField(null=True, blank=True)
    """The point of no return: from here on it is completed, never taken back."""
    token = models.PositiveIntegerField(default=0)
    """Fencing: raised by whoever takes the deployment over; an older holder's writes miss."""
    holder = models.CharField(max_length=200, blank=True)
    """The process that works at it (`processes.own_name`): once it is dead, nobody waits for its heartbeat to age."""
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    queued_since = models.DateTimeField(default=timezone.now)
    """Its place in the line: when it was requested, or the first of those that it has superseded."""
    admitted_at = models.DateTimeField(null=True, blank=True)
    """Since when it holds one of its server's slots (deployments/schedule.py)."""
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        get_latest_by = "pk"
        constraints = [
            models.UniqueConstraint(
                fields=["environment"],
                condition=Q(status__in=sorted(UNDERWAY)),
                name="deployment_one_underway_per_environment",
            ),
            models.UniqueConstraint(
                fields=["environment"], condition=Q(status=Status.QUEUED), name="deployment_one_queued_per_environment"
            ),
            models.UniqueConstraint(
                fields=["environment"], condition=Q(live=True), name="deployment_one_live_per_environment"
            ),
        ]
        indexes = [
            models.Index(fields=["status"]),
            models.Index(fields=["environment", "-id"]),
            models.Index(fields=["admitted_at"]),
            models.Index(fields=["finished_at"]),
        ]
        permissions = [
            ("deploy_environment", "Can deploy an environment"),
            ("roll_back_environment", "Can roll an environment back"),
            ("cancel_deployment", "Can cancel a deployment"),
            ("lock_environment", "Can lock an environment, so that no deployment begins there, and unlock it"),
            ("report_deployment", "Can tell the git host of a deployment again"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.environment}"

    def get_absolute_url(self) -> str:
        return reverse("admin:deployments_deployment_change", args=[self.pk])

    def move(self, to: Status, *, token: int | None = None, raise_token: bool = False, **fields: Any) -> None:
        """Compare and swap the status: exactly one caller wins a transition, and `StaleTransition` tells the others.

        With `token`, only its holder may; with `raise_token`, the winner becomes the only holder.
        """
        sources = [source for source, targets in TRANSITIONS.items() if to in targets]
        rows = Deployment.objects.filter(pk=self.pk, status__in=sources)
        if token is not None:
            rows = rows.filter(token=token)
        if raise_token:
            fields["token"] = F("token") + 1
        won = rows.update(status=to, **fields)
        self.refresh_from_db()
        if not won:
            raise StaleTransition(f"{self} is {self.status}, cannot become {to}")

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def brings_data(self) -> bool:
        """Other data than what is there takes its place."""
        return bool(self.restores_id or (self.takes_from and not self.takes_from.shares_data))

    @property
    def outcome(self) -> str:
        """Its status in words, with who cancelled it or what superseded it."""
        if self.status == Status.CANCELLED and self.cancelled_by:
            return f"Cancelled by {self.cancelled_by}"
        if self.status == Status.SUPERSEDED and self.superseded_by_id:
            return f"Superseded by #{self.superseded_by_id}"
        return self.get_status_display()

    @property
    def short_commit(self) -> str:
        return self.commit[:10]

    @property
    def seconds(self) -> float | None:
        if not self.started_at:
            return None
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()


class Step(models.Model):
    """One step of a deployment: a row before it is work, closed on any exit."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="steps")
    kind = models.CharField(max_length=20, choices=StepKind.choices)
    status = models.CharField(max_length=20, choices=StepStatus.choices, default=StepStatus.RUNNING)
    outcome = models.TextField(blank=True)
    facts = models.JSONField(default=dict)
    """What it is about to do, written before it does it: all that its undo needs."""
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["deployment", "kind"], name="step_kind_unique_in_deployment")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.deployment}"

    @property
    def seconds(self) -> float:
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()


class LogChunk(models.Model):
    """A few lines of a step's log; read by offset (`pk`)."""

    step = models.ForeignKey(Step, on_delete=models.CASCADE, related_name="chunks")
    text = models.TextField()
    written_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]


class Snapshot(models.Model):
    """Database, filestore and configuration of an environment at one instant, with checksums."""

    class State(models.TextChoices):
        TAKING = "taking", "Being taken"
        READY = "ready", "Ready"
        RESTORED = "restored", "Put back by a rollback"
        REMOVING = "removing", "Being removed"
        GONE = "gone", "Removed"

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="snapshots")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="snapshots")
    """Before which it was taken."""
    of = models.ForeignKey(Deployment, null=True, on_delete=models.SET_NULL, related_name="left_behind")
    """What ran when it was taken."""
    state = models.CharField(max_length=20, choices=State.choices, default=State.TAKING)
    taken_at = models.DateTimeField(default=timezone.now)
    database = models.CharField(max_length=63)
    """Name of the clone on the server."""
    label = models.CharField(max_length=63)
    """Name of the hard-linked filestore in the environment's volume."""
    configuration = models.JSONField(default=dict)
    checksums = models.JSONField(default=dict)
    size_bytes = models.BigIntegerField(default=0)
    dump_path = models.CharField(max_length=500, blank=True)
    dump_sha256 = models.CharField(max_length=64, blank=True)
    dump_bytes = models.BigIntegerField(null=True, blank=True)
    dump_problem = models.TextField(blank=True)
    dump_removed_at = models.DateTimeField(null=True, blank=True)
    """Said before its file is unlinked; `dump_path` is emptied when it is."""

    class Meta:
        ordering = ["-taken_at"]
        constraints = [models.UniqueConstraint(fields=["deployment"], name="snapshot_unique_in_deployment")]
        permissions = [("download_snapshot", "Can download the dump of a snapshot")]

    def __str__(self) -> str:
        return f"Snapshot of {self.environment} at {self.taken_at:%Y-%m-%d %H:%M:%S} UTC"
