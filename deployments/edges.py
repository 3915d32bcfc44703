"""The edges learn what the rows say of addresses and access, without a deployment: at once, else by the clock."""

import logging
from collections.abc import Iterable
from functools import partial

from django.db import transaction
from django.utils import timezone

from deployments import queues
from instances import doors
from instances.models import Door
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.models import Server

logger = logging.getLogger(__name__)
DOORS_SECONDS = 30
"""How long closed doors are waited for; then it is the clock's to try again."""


def ask(servers: Iterable[Server]) -> None:
    """Something that these edges are told by has changed."""
    keys = {server.pk for server in servers}
    Server.objects.filter(pk__in=keys).update(edge_due_at=timezone.now())
    for pk in sorted(keys):
        transaction.on_commit(partial(queues.enqueue_edge, pk))


def hand_over_due() -> None:
    """Those that have not learned it yet. Where `make down` has stopped all, the next `make up` brings them."""
    for pk in Server.objects.exclude(edge_due_at=None).filter(stopped_at=None).values_list("pk", flat=True):
        queues.enqueue_edge(pk)


def tell(pk: int) -> None:
    """Its ports and routes are those of the rows; that it could not be told stands on the server's page."""
    server = Server.objects.filter(pk=pk, stopped_at=None).exclude(edge_due_at=None).first()
    if server is None:
        return
    try:
        if Door.objects.filter(server=server, at_work=True).exists():
            return  # requests are being held there, which a new edge would fail
        if doors.routes(server):
            runtime = runtime_for(server)
            runtime.prepare(logger.info)
            doors.ensure_routes(server, runtime, logger.info, seconds=DOORS_SECONDS)
    except ExpectedError as error:
        problem = redact(f"{error.message} {error.detail}".strip())
        logger.warning("The edge of %s could not be told: %s", server, problem)
        Server.objects.filter(pk=pk).update(edge_problem=problem)
        return
    Server.objects.filter(pk=pk).update(edge_problem="")
    # What has changed meanwhile is told once more.
    Server.objects.filter(pk=pk, edge_due_at=server.edge_due_at).update(edge_due_at=None)
