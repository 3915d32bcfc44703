"""One running Odoo of an environment, and what its health was."""

import hashlib
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from instances.runtimes.base import LABEL_CHARACTERS, Colour, Upstream
from projects import sizes, validators
from projects.inheritance import InstanceOverrides
from projects.models import Environment, Server

ALIAS_CHARACTERS = LABEL_CHARACTERS


class Instance(InstanceOverrides):
    """One running Odoo. Usually an environment has one; several share its database and filestore."""

    level = "instance"

    class State(models.TextChoices):
        NEW = "new", "Not deployed yet"
        CREATING = "creating", "Being created"
        RUNNING = "running", "Running"
        STOPPED = "stopped", "Stopped"
        RESTARTING = "restarting", "Restarting"
        FAILED = "failed", "Failed"

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="instances")
    name = models.CharField(max_length=100, default="main")
    slug = models.SlugField(max_length=30, default="main", validators=[validators.validate_slug])
    state = models.CharField(max_length=20, choices=State.choices, default=State.NEW, editable=False)
    state_since = models.DateTimeField(null=True, blank=True, editable=False)
    problem = models.TextField(blank=True, editable=False)
    leaving = models.BooleanField(default=False, editable=False)
    """It is being taken away: no new client is led there."""
    untidy = models.BooleanField(default=False, editable=False)
    """Beside its container there may be another of it, which it was to be replaced by or has replaced."""
    container = models.CharField(max_length=200, blank=True, editable=False)
    """Name of the container that serves; empty before the first deployment."""
    colour = models.CharField(
        max_length=10,
        choices=[(str(one), str(one).capitalize()) for one in Colour],
        default=Colour.BLUE,
        editable=False,
    )
    """That under which it serves at the edge; the next one gets ready under the other."""

    class Meta:
        ordering = ["environment", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "slug"], name="instance_slug_unique_in_environment"),
        ]
        permissions = [
            ("control_instance", "Can start, stop and restart an instance"),
            ("scale_environment", "Can change how many instances an environment has"),
        ]

    def __str__(self) -> str:
        return f"{self.environment} / {self.name}"

    def clean(self) -> None:
        super().clean()
        sizes.check(self)

    @property
    def inherits_from(self) -> Environment:
        return self.environment

    @property
    def alias(self) -> str:
        """Its stable name at the edge, whichever container serves behind it: letters, digits and dashes. Neither part
        contains two dashes in a row, so no two instances share one."""
        name = f"{self.environment.key}--{self.slug}"
        if len(name) <= ALIAS_CHARACTERS:
            return name
        return f"{name[: ALIAS_CHARACTERS - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    def container_for(self, deployment: int) -> str:
        return f"{settings.OCORE_NAMESPACE}-{self.environment.key}-{self.slug}-d{deployment}"

    def colour_of(self, container: str) -> Colour:
        """Under which a container of this instance is at the edge: the one that serves, or the next one."""
        colour = Colour(self.colour)
        return colour if self.container in ("", container) else colour.other

    def name_at_edge(self, colour: Colour) -> str:
        """Of its container of that colour, on the edge's network."""
        return Upstream(self.alias).name(colour)

    def become(self, state: "Instance.State", at: datetime, *, problem: str = "", **fields: Any) -> None:
        """Record what the container now is; `at` is kept when nothing changed."""
        changes = {"state": state, "problem": problem, **fields}
        if self.state != state:
            changes["state_since"] = at
        for name, value in changes.items():
            setattr(self, name, value)
        self.save(update_fields=list(changes))

    @classmethod
    def ensure_first(cls, environment: Environment) -> None:
        """An environment without an instance gets its usual one."""
        if not environment.instances.exists():
            cls.objects.get_or_create(environment=environment, slug="main", defaults={"name": "main"})


class HealthCheck(models.Model):
    """One look at an environment from outside, through its server's edge."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="health_checks")
    checked_at = models.DateTimeField()
    ok = models.BooleanField()
    held = models.BooleanField(default=False)
    """A deployment was at work: neither up nor down by itself."""
    status = models.PositiveSmallIntegerField(default=0)
    seconds = models.FloatField(default=0)
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-checked_at"]
        indexes = [models.Index(fields=["environment", "checked_at"])]

    def __str__(self) -> str:
        return f"{self.environment}: {'up' if self.ok else 'down'} at {self.checked_at:%Y-%m-%d %H:%M:%S}"


class Certificate(models.Model):
    """What the edge was last seen to show for a host name of an environment."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="certificates")
    host = models.CharField(max_length=253)
    issuer = models.CharField(max_length=200, blank=True)
    begins_at = models.DateTimeField(null=True)
    ends_at = models.DateTimeField(null=True)
    fingerprint = models.CharField(max_length=64, blank=True)
    """SHA-256, hexadecimal."""
    checked_at = models.DateTimeField()
    problem = models.TextField(blank=True)
    problem_since = models.DateTimeField(null=True)

    class Meta:
        ordering = ["environment__project__name", "environment__name", "host"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "host"], name="certificate_one_per_host"),
        ]

    def __str__(self) -> str:
        return f"Certificate of {self.host}"

    @property
    def ends_soon(self) -> bool:
        """Within the days that are set, or the last quarter of a life that is short: what the edge renews by itself it
        has renewed when a third was left."""
        if self.begins_at is None or self.ends_at is None:
            return False
        days = timedelta(days=settings.OCORE_CERTIFICATE_WARN_DAYS)
        return timezone.now() > self.ends_at - min(days, (self.ends_at - self.begins_at) / 4)


class Door(models.Model):
    """An environment whose door is closed: who closed it, and since when. No row: open."""

    environment = models.OneToOneField(Environment, on_delete=models.CASCADE, related_name="door")
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="closed_doors")
    holder = models.CharField(max_length=100)
    closed_at = models.DateTimeField()
    at_work = models.BooleanField(default=True)
    """Somebody is at work behind it and will open it. Not so after a rollback failed: then a person will."""

    def __str__(self) -> str:
        return f"{self.environment}: door closed by {self.holder}"


class Incident(models.Model):
    """Something that should run was down without anybody having asked for it: what was seen, and what became of it."""

    class Part(models.TextChoices):
        ENGINE = "engine", "Docker engine"
        POSTGRES = "postgres", "PostgreSQL"
        EDGE = "edge", "Edge"
        LIMITER = "limiter", "Limiter"
        INSTANCE = "instance", "Instance"

    class Outcome(models.TextChoices):
        OPEN = "open", "Being brought back"
        BROUGHT_BACK = "brought_back", "Brought back"
        OVER = "over", "Over by itself"
        GIVEN_UP = "given_up", "Given up: a person must look"

    part = models.CharField(max_length=20, choices=Part.choices)
    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="incidents")
    environment = models.ForeignKey(Environment, null=True, on_delete=models.CASCADE, related_name="incidents")
    instance = models.ForeignKey(Instance, null=True, on_delete=models.CASCADE, related_name="incidents")
    """Both only where it is an instance's; the other parts are the server's."""
    seen = models.TextField()
    """In a sentence."""
    outcome = models.CharField(max_length=20, choices=Outcome.choices, default=Outcome.OPEN)
    noticed_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True)
    """Seen healthy again, or not wanted any more."""
    attempts = models.PositiveSmallIntegerField(default=0)
    """Also the fence: who raises it makes the attempt."""
    attempted_at = models.DateTimeField(null=True)
    next_attempt_at = models.DateTimeField()
    restarted = models.BooleanField(default=False)
    """It was restarted because it ran and didn't answer, which is done once."""
    engine_started_at = models.DateTimeField(null=True)
    """When the engine itself had started the container, of the last such start that was counted."""
    problem = models.TextField(blank=True)
    """What the last attempt failed with, or why it was given up."""
    advice = models.TextField(blank=True)
    detail = models.TextField(blank=True)
    """The last lines of the container's log, when it was seen."""

    class Meta:
        ordering = ["-noticed_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["instance"],
                condition=Q(ended_at=None, instance__isnull=False),
                name="incident_one_open_per_instance",
            ),
            models.UniqueConstraint(
                fields=["server", "part"],
                condition=Q(ended_at=None, instance=None),
                name="incident_one_open_per_part_of_server",
            ),
        ]

    def __str__(self) -> str:
        return f"Incident: {self.subject}"

    @property
    def subject(self) -> str:
        """What it happened to, as it stands in a list."""
        return str(self.instance) if self.instance else f"{self.get_part_display()} of {self.server}"

    @property
    def open(self) -> bool:
        """Being brought back."""
        return self.outcome == self.Outcome.OPEN and self.ended_at is None

    @property
    def given_up(self) -> bool:
        """Still, and nobody has made it good."""
        return self.outcome == self.Outcome.GIVEN_UP and self.ended_at is None


class Maintenance(models.Model):
    """A time for which a person keeps an environment's clients out, with a page that says so. Kept for the record."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="maintenances")
    text = models.TextField(blank=True, max_length=500)
    """What clients read; empty: the usual sentence."""
    until = models.DateTimeField(null=True, blank=True)
    """When the clock ends it; None: a person does."""
    began_at = models.DateTimeField()
    began_by = models.CharField(max_length=150)
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=150, blank=True)
    """Empty where the clock did."""

    class Meta:
        ordering = ["-began_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment"], condition=Q(ended_at=None), name="maintenance_one_at_a_time_per_environment"
            ),
            models.CheckConstraint(
                condition=Q(until=None) | Q(until__gt=models.F("began_at")), name="maintenance_ends_after_it_began"
            ),
        ]
        permissions = [("set_maintenance", "Can put an environment into maintenance, and end it")]

    def __str__(self) -> str:
        return f"Maintenance of {self.environment}"


class TesterLink(models.Model):
    """Lets whoever opens it pass maintenance until it expires or is revoked. The row holds no secret: the link is its
    signature (`instances/testers.py`)."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="tester_links")
    for_whom = models.CharField(max_length=150)
    nonce = models.CharField(max_length=64, unique=True, editable=False)
    made_at = models.DateTimeField()
    made_by = models.CharField(max_length=150)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-made_at", "-pk"]
        permissions = [("manage_tester_links", "Can let testers past maintenance, and revoke that")]

    def __str__(self) -> str:
        return f"Tester's link for {self.for_whom} to {self.environment}"

    @property
    def valid(self) -> bool:
        return self.revoked_at is None and self.expires_at > timezone.now()


class EdgeNotices(models.Model):
    """What a server's edge was told last of maintenance and testers: where the rows say something else by now, the
    clock tells it anew."""

    server = models.OneToOneField(Server, on_delete=models.CASCADE, related_name="edge_notices")
    digest = models.CharField(max_length=64)

    def __str__(self) -> str:
        return f"Notices of {self.server}"
