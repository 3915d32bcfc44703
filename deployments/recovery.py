"""The reconciler, run by the clock: what the rows say should be happening, and isn't, is taken up again."""

import logging
from datetime import timedelta

from django.utils import timezone

from deployments import control, queues, schedule
from deployments.models import Deployment
from deployments.run import STALE
from deployments.states import UNDERWAY
from projects.models import Environment

logger = logging.getLogger(__name__)
REMOVAL = timedelta(minutes=15)


def reconcile() -> None:
    """Idempotent: whoever takes a job finds it done, or held by somebody else, and leaves it."""
    for pk in abandoned():
        queues.enqueue_recovery(pk)
    control.heal()
    for pk in unremoved():
        queues.enqueue_removal(pk)
    schedule.hand_out_everywhere()


def unremoved() -> list[int]:
    """Being removed for a while without a problem on record: the job may have been lost."""
    over = timezone.now() - REMOVAL
    return list(Environment.objects.filter(removing_since__lt=over, removal_problem="").values_list("pk", flat=True))


def abandoned() -> list[int]:
    """Underway without a heartbeat: their worker is gone."""
    return list(
        Deployment.objects.filter(status__in=UNDERWAY, heartbeat_at__lt=timezone.now() - STALE).values_list(
            "pk", flat=True
        )
    )
