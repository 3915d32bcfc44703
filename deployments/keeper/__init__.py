"""The keeper, run by the clock: what should run and doesn't, though nobody has asked for that, is brought back.

It remembers nothing: what should run, the rows say; what runs, the server says; what was tried, the `Incident`. A look
takes no time for waiting: what it started, the next one finds healthy, or tries again after a pause.
"""

import logging
import time
from datetime import timedelta

from django.db.models import QuerySet
from django.utils import timezone

from deployments.keeper.instances import keep_instance, should_run
from deployments.keeper.parts import keep_parts
from deployments.looks import Look, looks
from deployments.services import NotPossible
from instances import incidents
from instances.models import Incident, Instance
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from projects.models import Server

__all__ = ["in_use", "keep", "should_run"]

logger = logging.getLogger(__name__)
Part = Incident.Part

ACT_SECONDS = 60.0
"""In all for one look; what is left is the next one's."""
ENGINE_SECONDS = 60.0
"""Without an answer from an engine for so long, a person is told."""


def keep() -> None:
    """Look at every server in use, and bring back what is down."""
    deadline = time.monotonic() + ACT_SECONDS
    for incident in incidents.unended().exclude(server__in=in_use()):
        incidents.end(incident)
    for server, look in looks(list(in_use())):
        if time.monotonic() > deadline:
            return
        try:
            _keep(server, look, deadline)
        except ExpectedError as error:
            logger.warning("%s could not be kept: %s %s", server, error.message, error.detail)


def in_use() -> QuerySet[Server]:
    """Where something is live, unless `make down` has stopped it all."""
    return Server.objects.filter(stopped_at=None, environments__deployments__live=True).distinct()


def _keep(server: Server, look: Look, deadline: float) -> None:
    known = list(incidents.unended().filter(server=server))
    of_parts = {one.part: one for one in known if one.instance is None}
    try:
        seen = look()
    except ExpectedError as error:
        _unreachable(server, error)
        return
    if Part.ENGINE in of_parts:
        incidents.end(of_parts[Part.ENGINE])
    runtime = runtime_for(server)
    if not keep_parts(server, runtime, seen, of_parts):
        return
    of_instances = {one.instance_id: one for one in known if one.instance}
    for instance in should_run(server):
        if time.monotonic() > deadline:
            return
        try:
            keep_instance(instance, runtime, seen.get(instance.container), of_instances.get(instance.pk))
        except NotPossible as error:
            logger.info("%s is left for now: %s", instance, error)
    for incident in of_instances.values():
        if incident.instance and incident.instance.state in (Instance.State.STOPPED, Instance.State.NEW):
            incidents.end(incident)


def _unreachable(server: Server, error: ExpectedError) -> None:
    incident = incidents.notice(Part.ENGINE, server, error.message)
    if timezone.now() - incident.noticed_at > timedelta(seconds=ENGINE_SECONDS):
        incidents.give_up(incident, f"{error.message} {error.detail}".strip(), error.advice)
