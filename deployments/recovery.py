"""The reconciler, run by the clock: what the rows say should be happening, and isn't, is taken up again."""

import logging

from django.utils import timezone

from deployments import queues
from deployments.models import Deployment
from deployments.run import STALE
from deployments.states import UNDERWAY, Status

logger = logging.getLogger(__name__)


def reconcile() -> None:
    """Idempotent: whoever takes a job finds it done, or held by somebody else, and leaves it."""
    for pk in abandoned():
        queues.enqueue_recovery(pk)
    handed_over = queues.waiting_deployments()
    for pk in waiting():
        if pk not in handed_over:
            queues.enqueue_deployment(pk)


def abandoned() -> list[int]:
    """Underway without a heartbeat: their worker is gone."""
    return list(
        Deployment.objects.filter(status__in=UNDERWAY, heartbeat_at__lt=timezone.now() - STALE).values_list(
            "pk", flat=True
        )
    )


def waiting() -> list[int]:
    """Queued while nothing else is underway in their environment: their job may have been lost with Redis."""
    return list(
        Deployment.objects.filter(status=Status.QUEUED)
        .exclude(environment__in=Deployment.objects.filter(status__in=UNDERWAY).values("environment"))
        .order_by("pk")
        .values_list("pk", flat=True)
    )
