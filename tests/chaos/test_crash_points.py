import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from instances.runtimes.base import ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.inventory import remove_everything
from tests.chaos.crashing import Crash
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.systematic import Tally, attempt, chosen, points_of
from tests.chaos.world import STAND_IN_IMAGE, World, made

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("module_db")]

NAMESPACE = "ocore-chaos"
EDGE_PORT = 18090
SEED = int(os.environ.get("OCORE_CHAOS_SEED") or 1)
COUNT = int(os.environ.get("OCORE_CHAOS_RUNS") or 20)
ONLY = os.environ.get("OCORE_CHAOS_ONLY", "")


@pytest.fixture(scope="module", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with override_settings(
        STATE_DIR=tmp_path_factory.mktemp("state"),
        OCORE_NAMESPACE=NAMESPACE,
        OCORE_ODOO_IMAGE=f"{NAMESPACE}/{STAND_IN_IMAGE}",
        OCORE_ROLLBACK_SECONDS=20,
        OCORE_DRAIN_SECONDS=5,
        OCORE_HOLD_SECONDS=30,
    ):
        yield


@pytest.fixture(scope="module")
def world(module_db: None, _own_state: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    api = Engine(ServerSpec("this machine", namespace=NAMESPACE)).api
    remove_everything(api, NAMESPACE)
    try:
        with made(tmp_path_factory.mktemp("world"), NAMESPACE, EDGE_PORT) as ready:
            yield ready
    finally:
        remove_everything(api, NAMESPACE)


def test_whoever_dies_at_a_crash_point_is_followed_by_one_who_finishes_it(world: World) -> None:
    tally = Tally()
    say = lambda text: print(text, flush=True)  # noqa: E731
    if ONLY:
        name, _, point = ONLY.partition(" ")
        points = {c.point: c for c in points_of(world, SCENARIOS[name])}
        attempt(world, SCENARIOS[name], points.get(point, Crash(point, 0.1)), tally, say, SEED)
    else:
        points = {}
        for name, scenario in SCENARIOS.items():
            points[name] = points_of(world, scenario)
            say(f"{name}: {len(points[name])} crash points")
        for scenario, crash in chosen(points, COUNT, SEED):
            attempt(world, scenario, crash, tally, say, SEED)
    say(f"seed {SEED}: {tally.runs} runs, {tally.unreached} points not reached, slowest end {world.slowest:.1f} s")
    assert not tally.failures, "\n\n".join(tally.failures)
