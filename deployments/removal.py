"""Remove an environment: its containers, databases, filestore, dumps and route, and then its rows."""

import logging
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from deployments import at_work, claims, queues, services
from deployments.claims import Claim
from deployments.fence import fenced
from deployments.models import Deployment, Snapshot
from deployments.services import NotPossible
from deployments.states import ACTIVE
from instances import doors
from instances.models import Door, Instance
from instances.processes import labels
from instances.runtimes import runtime_for
from instances.runtimes.base import NAMESPACE_LABEL, Runtime, ServerUnreachable
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.models import Environment, Split

logger = logging.getLogger(__name__)
CLAIM = timedelta(seconds=300)
"""Longer than one act on the server takes."""
AGAIN = timedelta(seconds=60)
"""After which a server that did not answer is asked again; a question to it may take as long to fail."""
BUG_ADVICE = "This is a defect of oCore. The traceback is in the log of the worker “slow”; please report it."


@dataclass(frozen=True)
class Inventory:
    """What goes with an environment, for the person who is about to remove it."""

    containers: tuple[str, ...]
    databases: tuple[str, ...]
    snapshots: int
    dumps: int
    deployments: int
    url: str


def inventory(environment: Environment) -> Inventory:
    """From the rows, without asking the server."""
    snapshots = Snapshot.objects.filter(environment=environment)
    kept = snapshots.filter(state=Snapshot.State.READY)
    live = Deployment.objects.filter(environment=environment, live=True).exists()
    return Inventory(
        containers=tuple(one.container for one in environment.instances.all() if one.container),
        databases=((environment.database,) if live and not environment.shares_data else ())
        + tuple(kept.values_list("database", flat=True)),
        snapshots=kept.count(),
        dumps=snapshots.exclude(dump_path="").count(),
        deployments=environment.deployments.count(),
        url=environment.url,
    )


def refusal(environment: Environment, *, ending: bool = False) -> str:
    """Why it may not be removed now; empty when it may. `ending`: its clients have been led away."""
    if Deployment.objects.filter(environment=environment, status__in=ACTIVE).exists():
        return "A deployment is queued or underway. Cancel it or wait for its end."
    found = at_work.hindrance(environment, behind_doors=True, being_removed=True)
    if found:
        return found.message
    if ending:
        return ""
    if environment.second_of_id and Split.objects.filter(environment=environment).exists():
        return f"It is the second version of {environment.second_of}. End that: keep the first."
    if environment.beside:
        return f"{environment.beside} is its second version. End that first: keep one of the two."
    running = environment.instances.exclude(state__in=[Instance.State.STOPPED, Instance.State.NEW]).exists()
    if environment.kind == Environment.Kind.PRODUCTION and running:
        return "It is production, and it runs. Stop its instances first."
    return ""


def request(environment: Environment, who: services.Who, *, ending: bool = False) -> None:
    """Raises `NotPossible`, as `refusal` says."""
    with transaction.atomic():
        # The row that a request for a deployment locks too: one of the two sees the other.
        Environment.objects.select_for_update().get(pk=environment.pk)
        why_not = refusal(environment, ending=ending)
        if why_not:
            raise NotPossible(f"{environment} cannot be removed now. {why_not}")
        Environment.objects.filter(pk=environment.pk).update(
            removing_since=timezone.now(), removal_problem="", removal_due=None
        )
        transaction.on_commit(lambda: queues.enqueue_removal(environment.pk), robust=True)
    logger.warning("%s is being removed, on behalf of %s", environment, who.name)


def carry_out(pk: int) -> None:
    """In a worker; asked again after a failure it goes on where it stopped. While somebody else is at work there, or
    its server or the portal's database does not answer, it is left to the clock."""
    if not Environment.objects.filter(pk=pk, removing_since__isnull=False).exists():
        return
    try:
        with claims.claimed(pk, "its removal", CLAIM, behind_doors=True, being_removed=True) as claim:
            _remove(claim)
    except NotPossible as error:
        logger.warning("The removal of environment %s goes on later: %s", pk, error)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        problem = redact(f"{type(error).__name__}: {error}")
        logger.critical("The removal of environment %s met a bug, a person must look: %s", pk, problem)
        _stop(pk, f"{problem} {BUG_ADVICE}")
        raise


def _remove(claim: Claim) -> None:
    environment = claim.environment
    try:
        _remove_from_server(environment, fenced(runtime_for(environment.server), claim.check))
    except ExpectedError as error:
        claim.check()
        silent = isinstance(error, ServerUnreachable)  # nobody is needed for that
        _stop(environment.pk, f"{error.message} {error.detail}".strip(), due=timezone.now() + AGAIN if silent else None)
        return
    claim.check()
    shutil.rmtree(Path(settings.STATE_DIR) / "dumps" / environment.key, ignore_errors=True)
    with transaction.atomic():
        environment.instances.all().delete()
        Environment.objects.filter(pk=environment.pk).delete()


def _stop(pk: int, problem: str, *, due: datetime | None = None) -> None:
    """Until somebody tries it again, or the clock when it is `due`."""
    Environment.objects.filter(pk=pk).update(removal_problem=problem, removal_due=due)


def _remove_from_server(environment: Environment, runtime: Runtime) -> None:
    own = {name: text for name, text in labels(environment).items() if name != NAMESPACE_LABEL}
    for container in runtime.containers.list(own):
        runtime.containers.remove(container.name)
    # By their whole name: a client called acme_2 is not a snapshot of acme.
    for snapshot in Snapshot.objects.filter(environment=environment):
        runtime.databases.drop(snapshot.database)
    if not environment.shares_data:
        runtime.databases.drop(environment.database)
        runtime.filestores.remove(environment.volume)
    if environment.second_of is None:
        runtime.databases.drop_role(environment.role)
    runtime.edge.close(doors.upstreams(environment))
    environment.instances.update(state=Instance.State.NEW, container="")
    Door.objects.filter(environment=environment).delete()
    doors.ensure_routes(environment.server, runtime, logger.info)
