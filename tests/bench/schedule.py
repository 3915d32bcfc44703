"""200 environments push at once: how long until all are live, beside the least that their deployments could take."""

from pathlib import Path

from django.conf import settings

from ocore.machine import web
from projects.models import Server
from tests import crowd
from tests.bench.cast import BenchFailed, Cast
from tests.bench.report import Figure
from tests.crowd import Crowd

COMMAND = ".venv/bin/python -m tests.bench schedule"
PROJECTS = (100, *[10] * 8, *[1] * 20)
"""Environments of each: one big project, some usual ones, many small ones."""
SECONDS = 900


def measure(cast: Cast, _rounds: int) -> list[Figure]:
    """On a simulated server with as many slots as there are workers. The optimum: the sum of the deployments' own
    durations, divided by the slots; what is on top of it is spent on queueing, admission and processes."""
    slots = settings.OCORE_WORKERS
    server = Server.objects.create(
        name="Crowd",
        slug="crowd",
        kind=Server.Kind.SIMULATED,
        concurrent_deployments=slots,
        concurrent_builds=slots,
    )
    everybody = Crowd([server], Path(settings.STATE_DIR) / "git" / "crowd")
    for number, environments in enumerate(PROJECTS):
        everybody.add_project(f"crowd{number}", environments)
    codes = crowd.deliver(everybody.commit(), web.address())
    if set(codes) != {202}:
        raise BenchFailed(f"The webhook answered {sorted(set(codes))}.")
    crowd.wait_until_quiet(SECONDS)
    rows = [row for row in crowd.ran() if row.server == server.pk]
    if len(rows) != len(everybody.environments):
        raise BenchFailed(f"{len(rows)} deployments ran for {len(everybody.environments)} environments.")
    makespan = (max(row.finished for row in rows) - min(row.requested for row in rows)).total_seconds()
    optimum = sum(row.seconds for row in rows) / slots
    cast.progress.say(f"{len(rows)} deployments in {slots} slots: {makespan:.1f} s, at best {optimum:.1f} s")
    waits = tuple((row.started - row.requested).total_seconds() for row in rows)
    return [
        Figure(
            f"{len(rows)} environments live, beside the optimum", "s", (makespan,), COMMAND, (optimum,), aim="ratio 1"
        ),
        Figure("wait for a turn, median", "s", waits, COMMAND),
    ]
