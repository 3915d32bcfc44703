"""200 environments push at once, several times each, through the webhook of a real portal: Redis, workers, processes;
only the servers are simulated."""

import contextlib
import os
import signal
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from deployments import services
from deployments.models import Deployment
from deployments.services import Who
from deployments.states import FINAL, Status
from projects.models import Environment, Server
from tests import crowd
from tests.crowd import Crowd, Ran, deliver, most_at_once, wait_until_quiet
from tests.real.portal import Portal, serving

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True)]

WEB, EDGE = 18104, 18084
LIMITS = (("one", 2, 1), ("two", 2, 2), ("three", 1, 1), ("four", 1, 1))
"""Name, concurrent deployments and builds of each server."""
GIANT, MIDDLE, MIDDLES, SINGLES = 120, 10, 6, 20
QUIET_SECONDS = 300
IDLE_SHARE = 0.15
"""Of the time: what it may take, in all, from a slot's coming free to its being given to the next that waits."""


@pytest.fixture
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """With this test's own database, and no engine."""
    state = tmp_path_factory.mktemp("order")
    more = {
        "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
        "DOCKER_HOST": "unix:///nowhere/docker.sock",
        "OCORE_ENCRYPTION_KEYS": ",".join(settings.OCORE_ENCRYPTION_KEYS),
        "OCORE_FILE_REPOSITORIES": str(state),
        "OCORE_STANDSTILL_SECONDS": "0",
        "OCORE_WORKERS": str(sum(deployments for _, deployments, _ in LIMITS)),
    }
    made = Portal(state, "ocore-test-order", WEB, EDGE, more)
    with serving(made, "--no-demo"), standing_still(worker_of(made, "slow")):
        yield made


def worker_of(portal: Portal, queue: str) -> int:
    """The process that serves this queue alone."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"OCORE_STATE_DIR={portal.state}".encode() in (folder / "environ").read_bytes()
            if mine and (folder / "cmdline").read_bytes().endswith(f"rqworker\0{queue}\0".encode()):
                return int(folder.name)
    raise AssertionError(f"no worker serves {queue}")


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Dumps and the like may take for ever: deployments don't wait for them."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def assemble(folder: Path) -> Crowd:
    servers = [
        Server.objects.create(
            name=name,
            slug=name,
            kind=Server.Kind.SIMULATED,
            concurrent_deployments=deployments,
            concurrent_builds=builds,
        )
        for name, deployments, builds in LIMITS
    ]
    made = Crowd(servers, folder)
    made.add_project("giant", GIANT)
    for number in range(MIDDLES):
        made.add_project(f"middle{number}", MIDDLE)
    for number in range(SINGLES):
        made.add_project(f"single{number}", 1)
    return made


def test_two_hundred_environments_that_push_at_once_all_get_their_latest_commit(portal: Portal) -> None:
    everybody = assemble(portal.state)
    address = ("127.0.0.1", WEB)
    first = everybody.commit()
    codes = deliver(first, address)
    second = everybody.commit()
    third = everybody.commit()
    codes += deliver(crowd.disorder(second, third, seed=1), address)
    wait_until_quiet(QUIET_SECONDS)

    assert len(everybody.environments) == 200
    assert set(codes) <= {200, 202}, (portal.state / "log" / "web.log").read_text()[-8000:]
    live = dict(Deployment.objects.filter(live=True).values_list("environment", "commit"))
    assert live == everybody.tips
    _nothing_twice()
    _superseded_ones_lead_to_what_runs()
    rows = crowd.ran()
    for server in everybody.servers:
        _limits_hold(server, [row for row in rows if row.server == server.pk])
    _nobody_starves(everybody, rows)

    _replays_change_nothing(everybody, [*first, *second], address)


def _nothing_twice() -> None:
    went_live = Counter(Deployment.objects.filter(status=Status.SUCCEEDED).values_list("environment", "commit"))
    assert set(went_live.values()) == {1}


def _superseded_ones_lead_to_what_runs() -> None:
    rows = Deployment.objects.in_bulk()
    assert {row.status for row in rows.values()} == {Status.SUCCEEDED, Status.SUPERSEDED}
    for row in rows.values():
        last, seen = row, set()
        while last.status == Status.SUPERSEDED:
            assert last.superseded_by_id not in seen
            seen.add(last.superseded_by_id)
            last = rows[last.superseded_by_id]
        assert last.environment_id == row.environment_id
        assert last.status == Status.SUCCEEDED


def _limits_hold(server: Server, rows: list[Ran]) -> None:
    assert most_at_once((row.started, row.finished) for row in rows) == server.concurrent_deployments
    assert most_at_once((row.started, row.built) for row in rows) <= server.concurrent_builds
    whole = (max(row.finished for row in rows) - min(row.requested for row in rows)).total_seconds()
    assert _idle(server, rows) < IDLE_SHARE * whole
    waited = [(row.started - row.admitted).total_seconds() for row in rows if row.admitted > row.requested]
    assert statistics.median(waited) < 2, "a worker is free for whatever was admitted"


def _idle(server: Server, rows: list[Ran]) -> float:
    """Seconds during which there was a slot to give, and somebody to give it to."""
    changes: list[tuple[datetime, int, int, int]] = []
    ended: dict[int, datetime] = {}
    for row in rows:
        could = max(row.since, ended.get(row.environment, row.since))
        changes.append((min(could, row.admitted), 1, 0, 0))
        changes += [(row.admitted, -1, 1, 1), (row.built, 0, 0, -1), (row.finished, 0, -1, 0)]
        ended[row.environment] = row.finished
    idle = timedelta()
    waiting = deployments = builds = 0
    for (moment, *change), (following, *_) in pairwise(sorted(changes)):
        waiting, deployments, builds = waiting + change[0], deployments + change[1], builds + change[2]
        if waiting and deployments < server.concurrent_deployments and builds < server.concurrent_builds:
            idle += following - moment
    return idle.total_seconds()


def _nobody_starves(everybody: Crowd, rows: list[Ran]) -> None:
    """A single environment that pushed after the whole crowd waits for one turn of each project, not for the crowd."""
    for environment in everybody.environments:
        if environment.project.slug.startswith("single"):
            here = [row for row in rows if row.server == environment.server_id]
            mine = next(row for row in here if row.environment == environment.pk)
            before = [row for row in here if mine.since < row.admitted < mine.admitted]
            projects = {one.project_id for one in everybody.environments if one.server_id == environment.server_id}
            assert len(before) <= len(projects) + environment.server.concurrent_deployments


def _replays_change_nothing(everybody: Crowd, pushes: list[crowd.Push], address: tuple[str, int]) -> None:
    """What was delivered long ago comes again, also where a person has gone back meanwhile."""
    twice = Counter(Deployment.objects.filter(status=Status.SUCCEEDED).values_list("environment", flat=True))
    gone_back = Environment.objects.get(pk=twice.most_common(1)[0][0])
    back = services.roll_back(gone_back, Who("ann"))
    wait_until_quiet(QUIET_SECONDS)
    before = set(Deployment.objects.filter(live=True).values_list("pk", flat=True))
    assert back.pk in before
    theirs = [push for push in pushes if (push.project.pk, push.branch) == (gone_back.project_id, gone_back.branch)]

    deliver([*pushes[::40], *theirs], address)
    wait_until_quiet(QUIET_SECONDS)

    assert set(Deployment.objects.filter(live=True).values_list("pk", flat=True)) == before
    assert set(Deployment.objects.values_list("status", flat=True)) <= FINAL
