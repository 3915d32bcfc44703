"""What brings back what is down. Each may be done twice, under a claim: the runtime is fenced by that."""

import logging
from dataclasses import replace
from datetime import timedelta

from deployments import serving
from deployments.claims import claimed
from deployments.configuration import thaw
from deployments.fence import fenced
from deployments.models import Deployment
from deployments.services import NotPossible
from deployments.steps.base import DataLost
from instances import doors, notices
from instances.models import Instance
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour, Container, ContainerSpec, ImageMissing, Log, RunFailed, Runtime
from ocore.errors import ExpectedError
from projects.models import Environment, Server

logger = logging.getLogger(__name__)

HOPELESS = (ImageMissing, DataLost)
"""What another attempt can't change."""
CLAIM = timedelta(seconds=STOP_SECONDS + 30)
"""Longer than one act on the server takes; a queued deployment waits no longer for a keeper that died."""
LOG_LINES = 40
ROUTES_SECONDS = 5.0
"""An edge that came back knows its routes; where it doesn't, and a door is closed, the next attempt tells it."""


def bring_up(instance: Instance, runtime: Runtime, found: Container | None) -> None:
    """Its container runs and has its place behind the edge. Raises what the server says, or one of `HOPELESS`."""
    if found is not None and found.state == "created":
        # Whoever made it may have died before its configuration was in it.
        runtime.containers.remove(instance.container)
        found = None
    if found is not None:
        try:
            runtime.containers.start(instance.container)
        except RunFailed as error:
            # Paused, or its network is gone: what it holds is in the volume, so one made anew is as good.
            logger.warning("%s cannot be started and is made anew: %s %s", instance, error.message, error.detail)
            runtime.containers.remove(instance.container)
            found = None
    if found is None:
        spec = as_deployed(instance, runtime)
        runtime.containers.create(spec)
        runtime.containers.start(spec.name)
    runtime.containers.join_edge(instance.container, instance.name_at_edge(Colour(instance.colour)))


def last_lines(runtime: Runtime, found: Container | None) -> str:
    """Of its log, for the incident: a container made anew begins another."""
    try:
        return runtime.containers.logs(found.name, LOG_LINES) if found else ""
    except ExpectedError as error:
        return error.message


def put_behind_edge(instance: Instance, runtime: Runtime) -> None:
    """It answers, and the edge does not find it, or has no route for it."""
    runtime.containers.join_edge(instance.container, instance.name_at_edge(Colour(instance.colour)))
    doors.ensure_routes(instance.environment.server, runtime, logger.info, seconds=ROUTES_SECONDS)


def require_data(instance: Instance, runtime: Runtime) -> None:
    """Raises `DataLost` where its database is gone, and what PostgreSQL says where that can't be asked."""
    environment = instance.environment
    if not runtime.databases.exists(environment.database):
        raise DataLost(f"The database {environment.database} of {environment} is not on {environment.server} any more.")


def restart(instance: Instance, runtime: Runtime) -> None:
    """It runs, and has not answered for long: there is nobody to drain."""
    runtime.containers.stop(instance.container, STOP_SECONDS)
    bring_up(instance, runtime, runtime.containers.find(instance.container))


def as_deployed(instance: Instance, runtime: Runtime) -> ContainerSpec:
    """As the deployment that is live made it, from the settings that it froze and the image that it built."""
    environment = instance.environment
    live = Deployment.objects.get(environment=environment, live=True)
    require_data(instance, runtime)
    config = thaw(live)
    first = environment.instances.exclude(container="").order_by("pk").first()
    spec = serving.container(live, config, instance, runtime, cron=instance == first)
    # Under its old name: where nothing had changed, that is an earlier deployment's.
    return replace(spec, name=instance.container, image=_image(live, runtime))


def _image(live: Deployment, runtime: Runtime) -> str:
    """The very one, even where its name means another one today."""
    named = runtime.images.find(live.image)
    if named and (named.id == live.image_id or not live.image_id):
        return live.image
    if live.image_id and runtime.images.find(live.image_id):
        return live.image_id
    raise ImageMissing(
        f"The image {live.image} of {live}, which was live, is not on {live.environment.server} any more.",
        advice=f"Deploy {live.ref or 'it'} in {live.environment} again with force: that builds the image anew.",
    )


def remove_unless_running(runtime: Runtime, name: str) -> None:
    """One of the server's own containers that could not be started as it is: what it holds is in its volume."""
    runtime.containers.remove(name, unless_running=True)


def bring_parts_up(server: Server, runtime: Runtime, log: Log = logger.info) -> None:
    """PostgreSQL and the edge run and are ready, with the routes and doors that the rows want. Raises `NotPossible`
    where a door is left to whoever is at work there: it is to be looked at again."""
    runtime.prepare(log)
    doors.ensure_routes(server, runtime, log, seconds=ROUTES_SECONDS)
    notices.ensure(server, runtime)
    _open_doors(server, runtime)


def _open_doors(server: Server, runtime: Runtime) -> None:
    """An edge that lost its volume has them all closed. Under a claim: no deployment is about to close one."""
    live = Deployment.objects.filter(live=True).values("environment")
    left: NotPossible | None = None
    open_ones = Environment.objects.filter(server=server, pk__in=live, door=None, removing_since=None)
    open_ones = open_ones.select_related("project").prefetch_related("instances")
    for environment in doors.astray(open_ones, runtime):
        try:
            with claimed(environment.pk, f"opening the door of {environment}", CLAIM) as claim:
                doors.lead(environment, fenced(runtime, claim.check))
        except NotPossible as error:
            left = error
    if left:
        raise left
