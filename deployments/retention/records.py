"""Rows of the portal's own database: old deployments, their logs, deliveries, health probes."""

from collections.abc import Callable, Iterator
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from deployments.models import Delivery, Deployment, LogChunk, Snapshot, Step
from deployments.retention.needs import Needs
from deployments.retention.verdicts import Kind, StillNeeded, Thing
from deployments.states import ACTIVE
from instances.models import HealthCheck
from projects.models import Environment, Project

LEFT = (Snapshot.State.GONE, Snapshot.State.RESTORED)
"""States in which nothing of a snapshot is on its server any more."""


def deployments(environments: list[Environment], needs: Needs) -> Iterator[Thing]:
    by_pk = {environment.pk: environment for environment in environments}
    rows = Deployment.objects.order_by("-pk").annotate(kept=Exists(_snapshots_kept()))
    fields = ("pk", "environment_id", "created_at", "status", "kept")
    for pk, environment, created, status, kept in rows.values_list(*fields):
        needed = needs.deployments.get(pk, "")
        if not needed and status in ACTIVE:
            needed = "it has not ended"
        if not needed and kept:
            needed = "its snapshot or the dump of it is kept"
        yield Thing(
            kind=Kind.DEPLOYMENT,
            name=f"#{pk}",
            of=str(by_pk.get(environment, "")),
            since=created,
            group=environment,
            needed=needed,
            remove=lambda pk=pk: _remove_deployment(pk),  # type: ignore[misc]
        )


def _snapshots_kept() -> QuerySet[Snapshot]:
    here = Snapshot.objects.filter(Q(deployment=OuterRef("pk")) | Q(of=OuterRef("pk")))
    return here.filter(~Q(state__in=LEFT) | ~Q(dump_path=""))


def _remove_deployment(pk: int) -> None:
    """With its steps and logs. Where something has come to need it meanwhile, it stays."""
    with transaction.atomic():
        row = Deployment.objects.filter(pk=pk).first()
        if row is None:
            return
        Environment.objects.select_for_update().get(pk=row.environment_id)
        spare = Deployment.objects.filter(pk=pk, live=False).exclude(status__in=ACTIVE)
        spare = spare.exclude(rollbacks__status__in=ACTIVE).exclude(Exists(_snapshots_kept()))
        if not spare.exists():
            raise StillNeeded("something needs it now")
        row.delete()


def logs(environments: list[Environment], needs: Needs) -> Iterator[Thing]:
    by_pk = {environment.pk: environment for environment in environments}
    written = Step.objects.filter(deployment=OuterRef("pk")).filter(
        Exists(LogChunk.objects.filter(step=OuterRef("pk")))
    )
    rows = Deployment.objects.filter(Exists(written)).order_by("-pk")
    for pk, environment, created, status in rows.values_list("pk", "environment_id", "created_at", "status"):
        yield Thing(
            kind=Kind.LOG,
            name=f"#{pk}",
            of=str(by_pk.get(environment, "")),
            since=created,
            group=environment,
            needed=needs.environments.get(environment, "") or ("it is being written" if status in ACTIVE else ""),
            remove=_deletes(LogChunk, step__deployment=pk),
        )


def deliveries() -> Iterator[Thing]:
    """Refused calls count apart, so that strangers push out nobody's."""
    names = dict(Project.objects.values_list("pk", "name"))
    rows = Delivery.objects.order_by("-pk").values_list("pk", "project_id", "received_at", "verdict")
    for pk, project, received, verdict in rows:
        refused = verdict == Delivery.Verdict.REFUSED
        yield Thing(
            kind=Kind.DELIVERY,
            name=f"#{pk}",
            of=names.get(project, ""),
            since=received,
            group=(project, refused),
            remove=_deletes(Delivery, pk=pk),
        )


def probes(environments: list[Environment]) -> Iterator[Thing]:
    """Counted by the database: there is one a minute for each environment."""
    days = settings.OCORE_KEEP_PROBE_DAYS
    until = timezone.now() - timedelta(days=days)
    by_pk = {environment.pk: environment for environment in environments}
    rows = HealthCheck.objects.order_by().values("environment")
    counted = rows.annotate(
        old=Count("pk", filter=Q(checked_at__lt=until)), young=Count("pk", filter=Q(checked_at__gte=until))
    )
    for pk, old, young in counted.values_list("environment", "old", "young"):
        for over, count in ((True, old), (False, young)):
            if count:
                yield Thing(
                    kind=Kind.PROBE,
                    name="health probes",
                    of=str(by_pk.get(pk, "")),
                    since=None,
                    count=count,
                    over=f"older than {days} days" if over else "",
                    needed="" if over else f"not older than {days} days",
                    remove=_deletes(HealthCheck, environment=pk, checked_at__lt=until),
                )


def _deletes(model: type[LogChunk] | type[Delivery] | type[HealthCheck], **which: object) -> Callable[[], None]:
    def remove() -> None:
        model._default_manager.filter(**which).delete()

    return remove
