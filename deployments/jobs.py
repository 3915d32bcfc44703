"""What RQ runs: a primary key in, nothing out. Everything is in the rows."""

import logging
from collections.abc import Callable

from deployments import (
    certificates,
    control,
    dumps,
    edges,
    keep_out,
    keeper,
    pending,
    pipeline,
    probes,
    queues,
    recovery,
    removal,
    reports,
    scaling,
    schedule,
    second,
    tokens,
)
from deployments.models import Deployment
from deployments.retention import sweep as retention
from deployments.states import Status
from ocore.errors import ExpectedError
from projects.models import Server

logger = logging.getLogger(__name__)
PORTAL = 0
"""Stands for the portal's own machine where a server's primary key could."""


def run_deployment(pk: int) -> None:
    """Run it to a final status, then hand out its slot. Somebody else's work is not an error."""
    _bring_to_an_end(pk, pipeline.run)


def recover_deployment(pk: int) -> None:
    """Finish what a dead worker left."""
    _bring_to_an_end(pk, pipeline.recover)


def _bring_to_an_end(pk: int, act: Callable[[int], Deployment]) -> None:
    environment, server, reports_since = Deployment.objects.values_list(
        "environment", "environment__server", "environment__project__report_since"
    ).get(pk=pk)
    try:
        deployment = act(pk)
    except pipeline.Busy:
        return
    finally:
        schedule.hand_out(server)
    if reports_since:
        queues.enqueue_report(pk)
    if deployment.takes_from_id:
        queues.enqueue_second(deployment.takes_from_id)
    if deployment.status == Status.SUCCEEDED:
        queues.enqueue_dump(pk)
        queues.enqueue_sweep(deployment.environment.server_id)
    pending.recount(environment)


def dump_snapshots(pk: int) -> None:
    dumps.dump_for(pk)


def report_deployment(pk: int) -> None:
    reports.carry_out(pk)


def hand_over_reports() -> None:
    reports.hand_over_owed()


def refresh_pending(pk: int) -> None:
    pending.refresh(pk)


def reconcile() -> None:
    recovery.reconcile()


def keep_running() -> None:
    keeper.keep()


def probe_environments() -> None:
    probes.probe_all()
    keep_out.look_again()


def look_at_edges() -> None:
    edges.look_at_edges()


def tell_edge(pk: int) -> None:
    edges.tell(pk)


def hand_over_edges() -> None:
    edges.hand_over_due()


def look_at_certificates() -> None:
    certificates.look_at_all()


def control_instance(pk: int, verb: str) -> None:
    control.carry_out(pk, verb)


def tidy_instance(pk: int) -> None:
    control.tidy(pk)


def scale_environment(pk: int) -> None:
    scaling.carry_out(pk)


def carry_on_second(pk: int) -> None:
    second.carry_on(pk)


def remove_environment(pk: int) -> None:
    removal.carry_out(pk)
    sweep_all()


def sweep_all() -> None:
    """By the clock, and when a project or an environment is gone: the portal, and each server in a job of its own."""
    tokens.forget_old_answers()
    for pk in (PORTAL, *Server.objects.values_list("pk", flat=True)):
        queues.enqueue_sweep(pk)


def sweep_portal() -> None:
    """When a further repository is gone: with it the copy of it here."""
    queues.enqueue_sweep(PORTAL)


def sweep(pk: int) -> None:
    """Remove what may go from this server, or from the portal."""
    server = Server.objects.filter(pk=pk).first()
    if server is None and pk != PORTAL:
        return
    try:
        unfinished = retention.sweep(server).unfinished
    except retention.AlreadyAtIt:
        return
    except ExpectedError as error:
        logger.warning("What may go from %s could not be looked at: %s", server or "the portal", error)
        return
    if unfinished:
        queues.enqueue_sweep(pk)
