"""After a stop of the machine or `make down`: what was running runs again."""

from deployments import keeper, sight
from deployments.claims import claimed
from deployments.fence import fenced
from deployments.keeper import repairs
from deployments.services import NotPossible
from instances.runtimes import runtime_for
from instances.runtimes.base import Log
from ocore.errors import ExpectedError
from projects.models import Server


def bring_back(server: Server, log: Log) -> list[str]:
    """Start the server's own containers and every instance that nobody stopped; names of those that were started.

    From here on the keeper keeps them: what doesn't come up is its to try again.
    """
    try:
        return _start(server, log)
    finally:
        Server.objects.filter(pk=server.pk).update(stopped_at=None)


def _start(server: Server, log: Log) -> list[str]:
    instances = list(keeper.should_run(server))
    if not instances:
        return []
    started = []
    runtime = runtime_for(server)
    try:
        repairs.bring_parts_up(server, runtime, log)
    except NotPossible as error:
        log(error.message)
    for instance in instances:
        found = runtime.containers.find(instance.container)
        if found and found.running:
            continue
        try:
            with claimed(instance.environment_id, f"starting {instance}", repairs.CLAIM) as claim:
                repairs.bring_up(instance, fenced(runtime, claim.check), found)
        except ExpectedError as error:
            log(f"{instance} could not be started: {error.message}")
            sight.record(instance, error.message)
            continue
        sight.record(instance, "")
        started.append(str(instance))
    return started
