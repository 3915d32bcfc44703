"""The clock's look at every server's edge: are its routes and doors what the rows say? What isn't, the keeper mends."""

import logging

from deployments import at_work
from deployments.keeper import in_use
from deployments.models import Deployment
from instances import doors, incidents
from instances.models import Incident
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from projects.models import Environment, Server

logger = logging.getLogger(__name__)


def look_at_edges() -> None:
    down = incidents.engines_down()
    for server in in_use().exclude(pk__in=down):
        if _somebody_is_at_work(server):
            continue  # whose next act makes it so
        try:
            seen = _astray(server)
        except ExpectedError as error:
            logger.info("The edge of %s could not be looked at: %s", server, error.message)
            continue
        if seen and not _somebody_is_at_work(server):
            incidents.notice(Incident.Part.EDGE, server, seen)


def _somebody_is_at_work(server: Server) -> bool:
    return Environment.objects.filter(at_work.occupied(behind_doors=True), server=server).exists()


def _astray(server: Server) -> str:
    """In a sentence, what differs; empty when nothing does."""
    runtime = runtime_for(server)
    if doors.served(server, runtime) is None:
        return "Its routes are not those that it was given: somebody changed them, or it lost them."
    live = Deployment.objects.filter(live=True).values("environment")
    environments = Environment.objects.filter(server=server, pk__in=live, door=None)
    environments = environments.select_related("project").prefetch_related("instances")
    wrong = doors.astray(environments, runtime)
    if wrong:
        return f"The doors of {', '.join(map(str, wrong))} do not lead to what serves there."
    return ""
