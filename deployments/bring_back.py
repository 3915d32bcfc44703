"""After a stop of the machine or `make down`: what was running runs again."""

from django.utils import timezone

from deployments.models import Deployment
from instances import doors
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Log
from ocore.errors import ExpectedError
from projects.models import Server


def bring_back(server: Server, log: Log) -> list[str]:
    """Start the server's own containers and every instance that nobody stopped; names of those that were started."""
    live = Deployment.objects.filter(live=True, environment__server=server).values("environment")
    wanted = Instance.objects.filter(environment__in=live, state=Instance.State.RUNNING).exclude(container="")
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
        started.append(str(instance))
    for environment in {instance.environment for instance in instances}:
        if not Door.objects.filter(environment=environment).exists():
            runtime.edge.open(environment.key)
    return started
