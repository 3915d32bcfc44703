"""What must stay, and why: what runs, what a rollback may go back to, and all of an environment in which something is
underway or broken."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from django.conf import settings

from deployments.models import Deployment, Snapshot
from deployments.states import ACTIVE, UNDERWAY, Status
from instances.models import Door
from projects.models import Environment

MATTERING = ACTIVE | {Status.SUCCEEDED, Status.ROLLBACK_FAILED}


@dataclass
class Needs:
    """By primary key, or an image's reference: why it stays. Whoever comes first says it."""

    environments: dict[int, str] = field(default_factory=dict)
    """In which nothing at all may be touched now."""
    snapshots: dict[int, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    deployments: dict[int, str] = field(default_factory=dict)
    building: set[int] = field(default_factory=set)
    """Projects of which a deployment is underway: its image may just be being made."""

    def of_snapshot(self, snapshot: Snapshot) -> str:
        return self.environments.get(snapshot.environment_id) or self.snapshots.get(snapshot.pk, "")

    def _deployment(self, deployment: Deployment | None, reason: str) -> None:
        if deployment is not None:
            self.deployments.setdefault(deployment.pk, reason)
            if deployment.image:
                self.images.setdefault(deployment.image, reason)


def needs_of(environments: Iterable[Environment], *, ending: int = 0) -> Needs:
    """In a constant number of queries. `ending`: a deployment that is about to end, having changed nothing."""
    named = {environment.pk: environment for environment in environments}
    found = Needs()
    rows: dict[int, list[Deployment]] = defaultdict(list)
    fields = ("environment_id", "status", "live", "live_at", "image", "rollback_to_id", "restores_id")
    for row in Deployment.objects.filter(environment__in=named, status__in=MATTERING).only(*fields).order_by("-pk"):
        rows[row.environment_id].append(row)
    kept: dict[int, list[Snapshot]] = defaultdict(list)
    snapshots = Snapshot.objects.filter(environment__in=named, state=Snapshot.State.READY)
    for snapshot in snapshots.only("environment_id", "of_id", "taken_at", "deployment_id").order_by("-taken_at"):
        kept[snapshot.environment_id].append(snapshot)
    closed = set(Door.objects.filter(environment__in=named).values_list("environment_id", flat=True))
    for pk, environment in named.items():
        _touched(found, environment, [row for row in rows[pk] if row.pk != ending], pk in closed)
        _running(found, environment, rows[pk])
        _targets(found, environment, rows[pk], kept[pk])
    return found


def _touched(found: Needs, environment: Environment, rows: list[Deployment], closed: bool) -> None:
    """Newest first; the newest that succeeded or whose rollback failed says whether a person must look."""
    last = next((row for row in rows if row.status in (Status.SUCCEEDED, Status.ROLLBACK_FAILED)), None)
    underway = next((row for row in rows if row.status in UNDERWAY), None)
    reason = ""
    if underway is not None:
        found.building.add(environment.project_id)
        reason = f"#{underway.pk} is underway in {environment}"
    elif last is not None and last.status == Status.ROLLBACK_FAILED:
        reason = f"the rollback of #{last.pk} in {environment} failed, and a person must look first"
    elif environment.removing_since:
        reason = f"{environment} is being removed, and takes it along"
    elif environment.busy:
        reason = f"{environment.busy_with} is at work in {environment}"
    elif closed:
        reason = f"the door of {environment} is closed"
    if reason:
        found.environments[environment.pk] = reason
    for row in (underway, last):
        if row is not None:
            found._deployment(row, reason or f"what went live last in {environment}")


def _running(found: Needs, environment: Environment, rows: list[Deployment]) -> None:
    by_pk = {row.pk: row for row in rows}
    for row in rows:
        if row.live:
            found.deployments[row.pk] = f"what runs in {environment}"
            if row.image:
                found.images[row.image] = f"what runs in {environment}"
        if row.status in ACTIVE:
            reason = f"#{row.pk}, {row.get_status_display().lower()} in {environment}, needs it"
            found._deployment(row, reason)
            found._deployment(by_pk.get(row.rollback_to_id or 0), reason)
            if row.restores_id:
                found.snapshots.setdefault(row.restores_id, reason)


def _targets(found: Needs, environment: Environment, rows: list[Deployment], kept: list[Snapshot]) -> None:
    """The newest of what `services.rollback_targets` offers, and the newest of those that have their data."""
    data: dict[int, Snapshot] = {}
    for snapshot in kept:
        if snapshot.of_id:
            data.setdefault(snapshot.of_id, snapshot)
    targets = [row for row in rows if row.status == Status.SUCCEEDED and not row.live]
    targets.sort(key=lambda row: (row.live_at is not None, row.live_at, row.pk), reverse=True)
    so_many = settings.OCORE_KEEP_ROLLBACKS
    for row in [row for row in targets if row.pk in data][:so_many]:
        reason = f"a rollback to #{row.pk} in {environment} would need it"
        found._deployment(row, reason)
        found.snapshots.setdefault(data[row.pk].pk, reason)
    for row in targets[:so_many]:
        found._deployment(row, f"a rollback to #{row.pk} in {environment} would need it")
