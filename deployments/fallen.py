"""What had fallen on the server under a deployment: put on record, since what starts it again next would hide it."""

import logging

from deployments import sight
from deployments.keeper import in_use, repairs
from instances import incidents
from instances.models import Incident
from instances.runtimes import runtime_for
from instances.runtimes.base import DatabaseError, RunFailed, ServerUnreachable
from ocore.errors import ExpectedError
from projects.models import Server

logger = logging.getLogger(__name__)
SYMPTOMS = (RunFailed, DatabaseError)
"""What is said where PostgreSQL or the edge is gone."""


def told(server: Server, error: ExpectedError) -> ExpectedError:
    """The same error with its cause before it, where that is a part of the server that does not run; noticed as an
    incident, which the keeper ends once it runs again."""
    if not isinstance(error, SYMPTOMS) or isinstance(error, ServerUnreachable):
        return error
    try:
        fallen = notice(server)
    except ExpectedError as another:
        logger.info("%s could not be looked at: %s", server, another.message)
        return error
    if not fallen:
        return error
    first = fallen[0]
    return type(error)(
        f"{first.get_part_display()} on {server} had stopped: {first.seen}",
        detail="\n".join(filter(None, (error.message, error.detail))),
        advice="oCore starts it again by itself, and has it on record as an incident. Deploy again; if it stops again, "
        "read the incident's last lines.",
    )


def notice(server: Server) -> list[Incident]:
    """The parts of the server that don't run, each with an incident of its own now. Where nothing is live yet, nothing
    has fallen."""
    if not in_use().filter(pk=server.pk).exists():
        return []
    runtime = runtime_for(server)
    fallen = []
    for name, kind in runtime.parts.items():
        found = runtime.containers.find(name)
        down = sight.down(name, found)
        if down and kind != Incident.Part.LIMITER:
            lines = repairs.last_lines(runtime, found)
            fallen.append(incidents.notice(Incident.Part(kind), server, down, detail=lines))
    return fallen
