"""What a server itself needs before its instances can run: PostgreSQL, the edge, and the limiter of requests."""

import logging

from deployments import sight
from deployments.keeper import repairs
from deployments.looks import Seen
from deployments.services import NotPossible
from instances import incidents
from instances.models import Incident
from instances.runtimes.base import RunFailed, Runtime
from ocore.errors import ExpectedError
from projects.models import Server

logger = logging.getLogger(__name__)
DISPENSABLE = frozenset({Incident.Part.LIMITER})
"""Without these an Odoo serves as before."""
READ_PART = "docs/operations.md, “What should run”, has the usual reasons. When it runs again, this ends by itself."


def keep_parts(server: Server, runtime: Runtime, seen: Seen, known: dict[str, Incident]) -> bool:
    """PostgreSQL, the edge and its limiter, as far as the server has them; False while instances can't do without."""
    well = True
    for name, kind in runtime.parts.items():
        part, found = Incident.Part(kind), seen.get(name)
        down = sight.down(name, found)
        incident = known.get(part)
        if down and incident is None:
            incident = incidents.notice(part, server, down, detail=repairs.last_lines(runtime, found))
        if found:
            incident = incidents.ended_by_itself(part, server, found, incident)
        if incident is not None:
            runs = _bring_part_back(incident, runtime, name, running=not down)
            well = well and (runs or part in DISPENSABLE)
    return well


def _bring_part_back(incident: Incident, runtime: Runtime, name: str, *, running: bool) -> bool:
    if incident.given_up:
        if running:
            incidents.end(incident)
        return running
    if not incidents.due(incident):
        return False
    if incidents.exhausted(incident) and incident.problem:
        incidents.give_up(incident, incident.problem, READ_PART)
        return False
    again = incident.attempts > 0
    if not incidents.attempt(incident):
        return False
    try:
        if again:
            repairs.remove_unless_running(runtime, name)
        repairs.bring_parts_up(incident.server, runtime)
    except NotPossible as error:
        logger.info("%s: %s", incident.subject, error)
        return True
    except ExpectedError as error:
        incidents.failed(incident, error)
        return False
    found = runtime.containers.find(name)
    if sight.down(name, found):  # what nothing waits for may have failed unheard
        incidents.failed(incident, RunFailed(sight.down(name, found), detail=repairs.last_lines(runtime, found)))
        return False
    incidents.end(incident)
    return True
