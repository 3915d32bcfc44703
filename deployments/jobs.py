"""What RQ runs: a primary key in, nothing out. Everything is in the rows."""

from collections.abc import Callable

from deployments import control, dumps, pending, pipeline, probes, queues, recovery, removal, schedule
from deployments.models import Deployment
from deployments.states import Status


def run_deployment(pk: int) -> None:
    """Run it to a final status, then hand out its slot. Somebody else's work is not an error."""
    _bring_to_an_end(pk, pipeline.run)


def recover_deployment(pk: int) -> None:
    """Finish what a dead worker left."""
    _bring_to_an_end(pk, pipeline.recover)


def _bring_to_an_end(pk: int, act: Callable[[int], Deployment]) -> None:
    environment, server = Deployment.objects.values_list("environment", "environment__server").get(pk=pk)
    try:
        deployment = act(pk)
    except pipeline.Busy:
        return
    finally:
        schedule.hand_out(server)
    if deployment.status == Status.SUCCEEDED:
        queues.enqueue_dump(pk)
    pending.recount(environment)


def dump_snapshots(pk: int) -> None:
    dumps.dump_for(pk)


def refresh_pending(pk: int) -> None:
    pending.refresh(pk)


def reconcile() -> None:
    recovery.reconcile()


def probe_environments() -> None:
    probes.probe_all()


def control_instance(pk: int, verb: str) -> None:
    control.carry_out(pk, verb)


def remove_environment(pk: int) -> None:
    removal.carry_out(pk)
