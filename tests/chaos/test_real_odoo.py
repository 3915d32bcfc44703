"""The same with Odoo itself: some of the points at which most is at stake."""

from collections.abc import Iterator

import pytest
from django.test import override_settings

from instances.runtimes.base import ServerSpec
from instances.runtimes.docker.client import Engine as Connection
from instances.runtimes.docker.inventory import remove_everything
from tests.chaos.asked import COUNT, EVERYTHING, SEED
from tests.chaos.crashing import Crash
from tests.chaos.engine import Engine
from tests.chaos.errands import Errand
from tests.chaos.scenarios import SCENARIOS, Scenario, possible
from tests.chaos.systematic import Tally, attempt, chosen, points_of, say
from tests.chaos.world import World, made

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("module_db")]

NAMESPACE = "ocore-chaos-odoo"
EDGE_PORT = 18092
RUNS = 24 if EVERYTHING else COUNT // 4
"""Besides those of `make test`: each takes several times as long as one with the stand-in."""
AMONG = ("update", "broken-update", "recovery-after-update", "keeper-instance-gone", "restart", "update-engine-dies")
ALWAYS = (Crash("containers.run#2:during", 2.0), Crash("edge.open#1:before"))
"""A second into the module update, which takes two at least; and just past the point of no return."""


@pytest.fixture(scope="module", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with override_settings(
        STATE_DIR=tmp_path_factory.mktemp("state"), OCORE_NAMESPACE=NAMESPACE, OCORE_ROLLBACK_SECONDS=30
    ):
        yield


@pytest.fixture(scope="module")
def world(
    module_db: None, _own_state: None, engine: Engine | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    api = Connection(ServerSpec("this machine", namespace=NAMESPACE)).api
    remove_everything(api, NAMESPACE)
    try:
        with made(tmp_path_factory.mktemp("world"), NAMESPACE, EDGE_PORT, real=True) as ready:
            ready.engine = engine
            yield ready
    finally:
        remove_everything(api, NAMESPACE)


def test_a_real_odoo_survives_the_death_of_its_deployment(world: World) -> None:
    tally = Tally()
    for one in ALWAYS:
        attempt(world, SCENARIOS["update"], one, tally, say, SEED)
    assert not tally.unreached, "one of these has moved, and tests nothing: it says which"
    crashes: list[tuple[Scenario | Errand, Crash]] = []
    if RUNS:
        crashes += chosen(
            {name: points_of(world, SCENARIOS[name]) for name in AMONG if name in possible(world)}, RUNS, SEED
        )
    for scenario, crash in crashes:
        attempt(world, scenario, crash, tally, say, SEED)
    say(f"{tally.runs} runs with Odoo itself, {tally.unreached} not reached, slowest end {world.slowest:.1f} s")
    assert not tally.failures, "\n\n".join(tally.failures)
