"""When the data of an environment is gone from its server: its rows say so, and the next deployment is its first."""

import logging

from django.db import transaction
from django.db.models import QuerySet

from deployments import at_work
from deployments.models import Deployment, Snapshot
from deployments.services import NotPossible, Who
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from projects.models import Environment

logger = logging.getLogger(__name__)


def start_over(environment: Environment, who: Who) -> None:
    """Raises `NotPossible` while there is still something to lose, or something at work."""
    if runtime_for(environment.server).databases.exists(environment.database):
        raise NotPossible(
            f"{environment} still has its database on {environment.server}: there is no need to start over.",
            advice="Deploy it, or remove the environment if you want its data gone.",
        )
    with transaction.atomic():
        locked = Environment.objects.select_for_update().get(pk=environment.pk)
        found = at_work.hindrance(locked, behind_doors=True)  # one that a failed rollback left goes too
        if found:
            raise NotPossible(found.message, advice=found.advice)
        forget(Environment.objects.filter(pk=environment.pk))
    logger.warning("%s starts over, on behalf of %s: its data was gone from the server", environment, who.name)


def forget(environments: QuerySet[Environment]) -> None:
    """Nothing of them is on a server any more."""
    Deployment.objects.filter(environment__in=environments, live=True).update(live=False)
    Snapshot.objects.filter(environment__in=environments).exclude(state=Snapshot.State.GONE).update(
        state=Snapshot.State.GONE
    )
    Instance.objects.filter(environment__in=environments).update(state=Instance.State.NEW, container="", problem="")
    Door.objects.filter(environment__in=environments).delete()
