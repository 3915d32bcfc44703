"""What the edges are told, and whether they are it: routes, doors and ports as the rows say.

What has changed is told without a deployment, at once, else by the clock. What somebody else has changed the clock
sees, and the keeper mends.
"""

import logging
from collections.abc import Iterable
from functools import partial

from django.db import transaction
from django.utils import timezone

from deployments import at_work, queues
from deployments.keeper import in_use
from deployments.models import Deployment
from instances import doors, incidents
from instances.models import Door, Incident
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.models import Environment, Server

logger = logging.getLogger(__name__)
DOORS_SECONDS = 30
"""How long closed doors are waited for; then it is the clock's to try again."""


def ask(servers: Iterable[Server]) -> None:
    """Something that these edges are told by has changed."""
    keys = {server.pk for server in servers}
    Server.objects.filter(pk__in=keys).update(edge_due_at=timezone.now())
    for pk in sorted(keys):
        transaction.on_commit(partial(queues.enqueue_edge, pk), robust=True)


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


def look_at_edges() -> None:
    down = incidents.engines_down()
    for server in in_use().exclude(pk__in=down):
        try:
            seen = _astray(server)
        except ExpectedError as error:
            logger.info("The edge of %s could not be looked at: %s", server, error.message)
            continue
        if seen:
            incidents.notice(Incident.Part.EDGE, server, seen)


def _somebody_is_at_work(server: Server) -> bool:
    return Environment.objects.filter(at_work.occupied(behind_doors=True), server=server).exists()


def _free(server: Server) -> list[Environment]:
    """With something live, and nobody at work in them who may be moving their doors."""
    live = Deployment.objects.filter(live=True).values("environment")
    rows = Environment.objects.filter(server=server, pk__in=live).exclude(at_work.occupied())
    return list(rows.select_related("project").prefetch_related("instances"))


def _astray(server: Server) -> str:
    """In a sentence, what differs; empty when nothing does."""
    runtime = runtime_for(server)
    # Who is at work there tells the edge himself, a moment after the rows.
    if not _somebody_is_at_work(server) and doors.served(server, runtime) is None and not _somebody_is_at_work(server):
        return "Its routes are not those that it was given: somebody changed them, or it lost them."
    wrong = [one for one in doors.astray(_free(server), runtime) if one in _free(server)]
    if wrong:
        return f"The doors of {', '.join(map(str, wrong))} do not lead to what serves there."
    return ""
