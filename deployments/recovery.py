"""The reconciler, run by the clock: what the rows say should be happening, and isn't, is taken up again."""

import logging
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from deployments import control, keep_out, queues, scaling, schedule, second
from deployments.models import Deployment, Snapshot
from deployments.run import STALE
from deployments.states import UNDERWAY, Status
from instances import doors, incidents, maintenance
from ocore.machine.processes import is_dead
from projects.models import Environment

logger = logging.getLogger(__name__)
REMOVAL = timedelta(seconds=20)
"""Longer than a worker takes from the queue to the claim."""
DUMPS_AT_ONCE = 3
UNTIDY = timedelta(minutes=5)
DUMP = timedelta(minutes=15)
"""After which the job is taken for lost; one that was only slow finds the dump made."""


def reconcile() -> None:
    """Idempotent: whoever takes a job finds it done, or held by somebody else, and leaves it. First what only needs
    rows: a server that doesn't answer keeps nobody else waiting."""
    for pk in abandoned():
        queues.enqueue_recovery(pk)
    doors.heal()
    maintenance.end_what_is_due()
    for pk in undumped():
        queues.enqueue_dump(pk)
    for pk in unremoved():
        queues.enqueue_removal(pk)
    for pk in scaling.unscaled():
        queues.enqueue_scaling(pk)
    for pk in second.unended():
        queues.enqueue_second(pk)
    for pk in untidied():
        queues.enqueue_sweep(pk)
    schedule.hand_out_everywhere()
    control.heal()
    second.heal()
    keep_out.repair()


def undumped() -> list[int]:
    """Deployments whose snapshot has been there for a while without a dump and without a reason on record, the newest
    first, and only a few: the others' turn comes when these have theirs."""
    waiting = Snapshot.objects.filter(state=Snapshot.State.READY, dump_path="", dump_problem="", dump_removed_at=None)
    waiting = waiting.exclude(environment__server__in=incidents.engines_down())
    lost = waiting.filter(deployment__status=Status.SUCCEEDED, deployment__finished_at__lt=timezone.now() - DUMP)
    return list(lost.order_by("-deployment__finished_at").values_list("deployment", flat=True)[:DUMPS_AT_ONCE])


def untidied() -> list[int]:
    """Servers on which a rollback has just left a copy that could not be removed then: a while later it may be. After
    that it goes with the hourly sweep."""
    lately = timezone.now() - UNTIDY
    left = Snapshot.objects.filter(state=Snapshot.State.REMOVING, deployment__finished_at__gt=lately)
    left = left.exclude(environment__server__in=incidents.engines_down())
    return list(left.order_by().values_list("environment__server", flat=True).distinct())


def unremoved() -> list[int]:
    """Being removed, with nobody at it: its worker died, the job was lost, or its server did not answer the last time.
    What else stopped it is on record and waits for a person."""
    now = timezone.now()
    over = now - REMOVAL
    left = Environment.objects.filter(Q(removal_problem="") | Q(removal_due__lte=now), removing_since__isnull=False)
    left = left.exclude(server__in=incidents.engines_down())
    died_or_lost = [one for one in left if one.busy_with or (one.removing_since and one.removing_since < over)]
    return [environment.pk for environment in died_or_lost if not environment.busy]


def abandoned() -> list[int]:
    """Underway though their worker is gone: it is known to be dead, or its heartbeat is old."""
    stale = timezone.now() - STALE
    underway = Deployment.objects.filter(status__in=UNDERWAY).values_list("pk", "heartbeat_at", "holder")
    return [pk for pk, heartbeat, holder in underway if not heartbeat or heartbeat < stale or is_dead(holder)]
