"""Whatever dies, at whatever instant: everything comes to its true end, and nothing is lost or left over."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.test import override_settings
from django.utils import timezone

from deployments.models import Deployment
from deployments.run import STALE
from deployments.states import Status
from instances.runtimes.base import ServerSpec
from instances.runtimes.docker.client import Engine as Connection
from instances.runtimes.docker.inventory import everything_of, remove_everything
from tests.chaos import random_kills
from tests.chaos.asked import COUNT, EVERYTHING, LANE, MINUTES, ONLY, SEED
from tests.chaos.asked import SCENARIOS as AMONG
from tests.chaos.crashing import Crash
from tests.chaos.engine import Engine
from tests.chaos.programs import portal
from tests.chaos.scenarios import SCENARIOS, possible
from tests.chaos.sweep import Sweep
from tests.chaos.systematic import Tally, attempt, say, version_of
from tests.chaos.world import STAND_IN_IMAGE, World, made, stopped

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("module_db")]

NAMESPACE = "ocore-chaos" if LANE == 1 else f"ocore-chaos-{LANE}"
EDGE_PORT = 18090 if LANE == 1 else 18190 + LANE
IN_MAKE_TEST = {"crash points": 3, "random": 2}
RANDOM = COUNT if COUNT and not EVERYTHING else IN_MAKE_TEST["random"]
SCENARIOS_IN_MAKE_TEST = ("broken-update", "recovery-after-update")
"""Recording all of them takes longer than `make test` may."""
ALWAYS = (
    "keeper-instance-gone containers.create#1:after",
    "restart containers.stop#1:after",
    "removal databases.drop#1:before",
)
LEASES = (
    ("here", "databases.put_back#1:before"),
    ("elsewhere", "edge.open#1:after"),
    ("here", "databases.clone#1:before"),
    ("elsewhere", "containers.run#2:during"),
)
OF_THE_ENGINE = ("update-engine-dies containers.run#2:during@0.3", "update-power-fails databases.clone#1:after")


@pytest.fixture(scope="module", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with override_settings(
        STATE_DIR=tmp_path_factory.mktemp("state"),
        OCORE_NAMESPACE=NAMESPACE,
        OCORE_ODOO_IMAGE=f"{NAMESPACE}/{STAND_IN_IMAGE}",
        OCORE_ROLLBACK_SECONDS=30,
        OCORE_DRAIN_SECONDS=5,
        OCORE_HOLD_SECONDS=30,
    ):
        yield


@pytest.fixture(scope="module")
def world(
    module_db: None, _own_state: None, engine: Engine | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    api = Connection(ServerSpec("this machine", namespace=NAMESPACE)).api
    remove_everything(api, NAMESPACE)
    try:
        with made(tmp_path_factory.mktemp("world"), NAMESPACE, EDGE_PORT) as ready:
            ready.engine = engine
            yield ready
    finally:
        remove_everything(api, NAMESPACE)
    assert not everything_of(api, NAMESPACE)


def told(tally: Tally, world: World) -> None:
    say(f"{tally.runs} runs, {tally.unreached} not reached, slowest end {world.slowest:.1f} s")
    assert not tally.failures, "\n\n".join(tally.failures)


def test_whoever_dies_at_a_crash_point_is_followed_by_one_who_finishes_it(world: World) -> None:
    tally = Tally(pushes=3 if EVERYTHING else 1)
    _attempt(world, ONLY or (() if COUNT else ALWAYS), tally)
    if not ONLY:
        kept = settings.BASE_DIR / "var" / "chaos" / f"{SEED}-{LANE}.json" if MINUTES else None
        names = AMONG or (possible(world) if COUNT else list(SCENARIOS_IN_MAKE_TEST))
        count = COUNT or IN_MAKE_TEST["crash points"]
        for scenario, crash in Sweep(kept, MINUTES).points(world, names, count, SEED, say):
            attempt(world, scenario, crash, tally, say, SEED)
    told(tally, world)


def _attempt(world: World, lines: Iterable[str], tally: Tally) -> None:
    """Each of these is there to be reached: one that isn't any more has moved, and tests nothing."""
    missed = tally.unreached
    for line in lines:
        name, _, point = line.strip().partition(" ")
        attempt(world, SCENARIOS[name], Crash.read(point), tally, say, SEED)
    assert tally.unreached == missed, "a crash point was not reached: it says which"


def test_an_engine_that_dies_is_started_again_and_takes_nothing_along(world: World) -> None:
    if world.engine is None:
        pytest.skip("only an engine that oCore itself started, with live-restore, is killed")
    version, before = version_of(world.live), world.outside.started()
    world.engine.kill("dockerd")
    world.engine.wait_until_back()
    assert world.outside.started() == before
    world.check_still(version)
    tally = Tally()
    _attempt(world, OF_THE_ENGINE, tally)
    told(tally, world)


@pytest.mark.parametrize(("where", "point"), LEASES if COUNT else LEASES[:2])
def test_a_horse_that_outlives_its_lease_does_nothing_any_more(world: World, where: str, point: str) -> None:
    """It stands still for longer than its lease, another finishes its deployment, and then it is let go on. Where it
    can be, it was killed; where it lives on a machine out of reach, the token stops it."""
    old = version_of(world.live)
    world.commit_update(**({"fail_update": True} if "put_back" in point else {"slow_update": 2}))
    deployment = world.push()
    world.queues.take()
    horse = world.start("run_deployment", deployment.pk, crash=Crash(point, 0.3, signal.SIGSTOP))
    assert stopped(horse.pid), f"it did not come to {point}"
    late = timezone.now() - STALE - timedelta(seconds=1)
    away = {"holder": "another-machine 1 1"} if where == "elsewhere" else {}
    Deployment.objects.filter(pk=deployment.pk).update(heartbeat_at=late, **away)
    world.settle()
    new = f"19.0.1.0.{world.version}"
    world.check(deployment, old, new)
    before = Deployment.objects.values().get(pk=deployment.pk)

    os.kill(horse.pid, signal.SIGCONT)

    assert horse.wait().killed is (where == "here")
    time.sleep(0.5)
    world.check(deployment, old, new)
    assert Deployment.objects.values().get(pk=deployment.pk) == before
    world.commit_update()
    assert world.deploy().status == Status.SUCCEEDED
    world.tidy()


def test_whatever_dies_at_any_instant_is_survived(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    tally = Tally()
    world.commit_update()
    assert world.deploy().status == Status.SUCCEEDED
    with portal(world, Path(tmp_path_factory.mktemp("p"))) as programs:
        for number in range(RANDOM):
            random_kills.attempt(programs, SEED + number, tally, say)
    told(tally, world)
