"""A deployment that the bench itself works at, as a worker does: the portal beside it sees that its holder lives."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.utils import timezone

from deployments.models import Deployment
from deployments.run import Run
from deployments.states import Status, Trigger
from ocore.machine.processes import own_name
from projects.models import Environment


@contextmanager
def hold(environment: Environment, **fields: str) -> Iterator[Run]:
    """With its heart beating; its row goes at the end, and its snapshots' with it."""
    now = timezone.now()
    deployment = Deployment.objects.create(
        environment=environment,
        trigger=Trigger.COMMAND_LINE,
        requester="bench",
        status=Status.RUNNING,
        token=1,
        holder=own_name(),
        started_at=now,
        heartbeat_at=now,
        **fields,
    )
    try:
        with Run(deployment) as run:
            yield run
    finally:
        deployment.delete()
