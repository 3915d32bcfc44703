"""What state an environment is in now, judged from the rows: for the status page and the command line.

A constant number of queries for any number of environments, and no server is asked: its looks are the clock's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import OuterRef, Q, Subquery
from django.utils import timezone

from deployments.models import Deployment, Step
from deployments.states import ACTIVE, FAILURES, UNDERWAY, Status, StepKind, StepStatus
from instances import incidents
from instances.models import Door, HealthCheck, Incident, Instance, Maintenance
from projects.models import Environment

MISSED_PROBES = 3
"""So many in a row may be late or lost before what was seen last counts as old."""


NEEDED = frozenset({Incident.Part.POSTGRES, Incident.Part.EDGE})
"""Without these a server's Odoos reach nobody."""


class State(models.TextChoices):
    UP = "up", "Up"
    DOWN = "down", "Down"
    UPDATING = "updating", "Being updated"
    MAINTENANCE = "maintenance", "In maintenance"
    STOPPED = "stopped", "Stopped"
    NOT_LIVE = "not_live", "Not live yet"
    UNKNOWN = "unknown", "Not checked lately"


@dataclass
class Condition:
    environment: Environment
    instances: list[Instance] = field(default_factory=list)
    live: Deployment | None = None
    underway: Deployment | None = None
    step: str = ""
    """By its name, the one that it is at; empty between two."""
    queued: Deployment | None = None
    last: Deployment | None = None
    """The newest that has ended."""
    closed_since: datetime | None = None
    """When the door was closed: requests wait since then."""
    check: HealthCheck | None = None
    """The clock's latest look."""
    maintenance: Maintenance | None = None
    """A person keeps the clients out, whatever else goes on."""
    incidents: list[Incident] = field(default_factory=list)
    """What is down now of all that it needs, and is being brought back or was given up."""

    @property
    def state(self) -> State:
        if self.broken:
            return State.DOWN
        if self.maintenance:
            return State.MAINTENANCE
        if self.closed_since:
            return State.UPDATING
        if self.underway:
            # Work that holds nobody up yet is no excuse for an Odoo that doesn't answer.
            return State.DOWN if self.live and self._as_seen() == State.DOWN else State.UPDATING
        if not self.live:
            return State.NOT_LIVE
        states = {instance.state for instance in self.instances}
        if states == {Instance.State.STOPPED}:
            return State.STOPPED
        if states & {Instance.State.CREATING, Instance.State.RESTARTING}:
            return State.UPDATING
        return self._as_seen()

    @property
    def broken(self) -> bool:
        """A rollback failed, and nothing has gone live since."""
        return bool(
            self.last
            and self.last.status == Status.ROLLBACK_FAILED
            and not self.underway
            and (self.closed_since or self._as_seen() != State.UP)
        )

    @property
    def given_up(self) -> Incident | None:
        return next((one for one in self.incidents if one.given_up), None)

    def _as_seen(self) -> State:
        """By what was seen last: the clock's look, or the start that a deployment or a person has watched."""
        if not self.live or any(one.part in NEEDED for one in self.incidents):
            return State.DOWN
        started = max([self.live.live_at, *(one.state_since for one in self.instances)], key=_or_never)
        recent = timezone.now() - timedelta(seconds=MISSED_PROBES * settings.OCORE_PROBE_SECONDS)
        if self.check and not self.check.held and self.check.checked_at >= max(recent, _or_never(started)):
            return State.UP if self.check.ok else State.DOWN
        if any(one.state == Instance.State.FAILED for one in self.instances):
            return State.DOWN
        return State.UP if _or_never(started) >= recent else State.UNKNOWN

    @property
    def failure(self) -> Deployment | None:
        """The newest attempt, when it didn't get there: what is live is older."""
        return self.last if self.last and self.last.status in FAILURES else None

    @property
    def since(self) -> datetime | None:
        """When what runs went live."""
        return self.live.live_at if self.live else None

    @property
    def odoo_version(self) -> str:
        """Of what is live, as it was frozen when it was deployed."""
        settings_then = (self.live.configuration if self.live else {}).get("environment", {})
        return str(settings_then.get("odoo_version", {}).get("value", ""))


def _or_never(moment: datetime | None) -> datetime:
    return moment or datetime.min.replace(tzinfo=timezone.get_current_timezone())


def conditions(environments: Iterable[Environment]) -> list[Condition]:
    """In the given order. Seven queries."""
    found = {environment.pk: Condition(environment) for environment in environments}
    for deployment in _deployments(found):
        condition = found[deployment.environment_id]
        deployment.environment = condition.environment
        if deployment.live:
            condition.live = deployment
        if deployment.status in UNDERWAY:
            condition.underway = deployment
            condition.step = str(StepKind(deployment.at_step).label) if deployment.at_step else ""
        elif deployment.status == Status.QUEUED:
            condition.queued = deployment
        elif condition.last is None or deployment.pk > condition.last.pk:
            condition.last = deployment
    for instance in Instance.objects.filter(environment__in=found):
        found[instance.environment_id].instances.append(instance)
    for door in Door.objects.filter(environment__in=found):
        found[door.environment_id].closed_since = door.closed_at
    for maintenance in Maintenance.objects.filter(environment__in=found, ended_at=None):
        found[maintenance.environment_id].maintenance = maintenance
    for check in _latest_checks(found):
        found[check.environment_id].check = check
    for incident in incidents.unended():
        for condition in found.values():
            if incident.environment_id == condition.environment.pk or (
                incident.environment_id is None and incident.server_id == condition.environment.server_id
            ):
                condition.incidents.append(incident)
    return list(found.values())


def _deployments(environments: Iterable[int]) -> Iterable[Any]:
    """The live one, those that haven't ended, and the newest that has; `at_step` is the kind of the one that runs."""
    step = Step.objects.filter(deployment=OuterRef("pk"), status=StepStatus.RUNNING).order_by("-pk").values("kind")[:1]
    ended = (
        Deployment.objects.filter(environment=OuterRef("environment"))
        .exclude(status__in=ACTIVE | {Status.SUPERSEDED, Status.CANCELLED})
        .order_by("-pk")
        .values("pk")[:1]
    )
    rows = Deployment.objects.filter(environment__in=environments).annotate(at_step=Subquery(step))
    return rows.filter(Q(live=True) | Q(status__in=ACTIVE) | Q(pk=Subquery(ended)))


def _latest_checks(environments: Iterable[int]) -> Iterable[HealthCheck]:
    latest = HealthCheck.objects.filter(environment=OuterRef("pk")).order_by("-checked_at").values("pk")[:1]
    return HealthCheck.objects.filter(
        pk__in=Environment.objects.filter(pk__in=environments).values_list(Subquery(latest))
    )
