"""After a stop of the machine or `make down`: what was running runs again."""

from django.utils import timezone

from deployments.models import Deployment
from deployments.states import UNDERWAY
from instances import doors
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Log
from ocore.errors import ExpectedError
from projects.models import Server


def bring_back(server: Server, log: Log) -> list[str]:
    """Start the server's own containers and every instance that nobody stopped; names of those that were started."""
    live = Deployment.objects.filter(live=True, environment__server=server).values("environment")
    underway = Deployment.objects.filter(status__in=UNDERWAY).values("environment")
    wanted = (
        Instance.objects.filter(environment__in=live, state__in=[Instance.State.RUNNING, Instance.State.FAILED])
        .exclude(container="")
        # What is in the middle of something is the reconciler's: an old version must not start on data in between.
        .exclude(environment__in=underway)
        .exclude(environment__in=Door.objects.values("environment"))
    )
    instances = list(wanted.select_related("environment__server", "environment__project"))
    if not instances:
        return []
    runtime = runtime_for(server)
    runtime.prepare(log)
    doors.ensure_routes(server, runtime, log)
    started = []
    for instance in instances:
        found = runtime.containers.find(instance.container)
        if found and found.running:
            continue
        try:
            runtime.containers.start(instance.container)
            runtime.containers.join_edge(instance.container, instance.alias)
        except ExpectedError as error:
            instance.become(Instance.State.FAILED, timezone.now(), problem=error.message)
            log(f"{instance} could not be started: {error.message}")
            continue
        instance.become(Instance.State.RUNNING, timezone.now(), state_since=timezone.now())
        started.append(str(instance))
    for environment in {instance.environment for instance in instances}:
        runtime.edge.open(environment.key)
    return started
