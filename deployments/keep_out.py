"""Maintenance and testers' links as people ask for them, and the clock's look at whether each edge knows."""

import logging

from django.db.models import QuerySet

from deployments import keeper
from instances import incidents, notices
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from projects.models import Environment, Server

logger = logging.getLogger(__name__)


def tell(environment: Environment) -> str:
    """What has been put on record holds from now on; where the edge can't be told, what to say to whoever asked."""
    try:
        notices.ensure(environment.server, runtime_for(environment.server))
    except ExpectedError as error:
        logger.warning("The edge of %s was not told: %s %s", environment.server, error.message, error.detail)
        return f"It is on record, but the edge does not know yet, and will be told again by itself: {error.message}"
    return ""


def repair() -> None:
    """What a dead process, a server that was away, or the passing of time has left to be said."""
    for server in notices.outdated(_answering()):
        _ensure(server)


def look_again() -> None:
    """Also where nothing has changed: a volume may have been lost, or a process have come late."""
    for server in _answering().filter(pk__in=keeper.in_use()):
        _ensure(server)


def _answering() -> QuerySet[Server]:
    return Server.objects.filter(stopped_at=None).exclude(pk__in=incidents.engines_down())


def _ensure(server: Server) -> None:
    try:
        notices.ensure(server, runtime_for(server))
    except ExpectedError as error:
        logger.warning("The edge of %s could not be told its notices: %s", server, error.message)
