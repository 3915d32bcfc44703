"""The same with Odoo itself: some of the points at which most is at stake."""

import os
from collections.abc import Iterator

import pytest
from django.test import override_settings

from instances.runtimes.base import ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.inventory import remove_everything
from tests.chaos.crashing import Crash
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.systematic import Tally, attempt, chosen, points_of
from tests.chaos.world import World, made

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("module_db")]

NAMESPACE = "ocore-chaos-odoo"
EDGE_PORT = 18092
SEED = int(os.environ.get("OCORE_CHAOS_SEED") or 1)
COUNT = int(os.environ.get("OCORE_CHAOS_N") or 0)
ALWAYS = (Crash("containers.run#2:during", 4.0), Crash("edge.open#1:before"))
"""In the middle of the module update; and just past the point of no return."""


@pytest.fixture(scope="module", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with override_settings(
        STATE_DIR=tmp_path_factory.mktemp("state"), OCORE_NAMESPACE=NAMESPACE, OCORE_ROLLBACK_SECONDS=30
    ):
        yield


@pytest.fixture(scope="module")
def world(module_db: None, _own_state: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    api = Engine(ServerSpec("this machine", namespace=NAMESPACE)).api
    remove_everything(api, NAMESPACE)
    try:
        with made(tmp_path_factory.mktemp("world"), NAMESPACE, EDGE_PORT, real=True) as ready:
            yield ready
    finally:
        remove_everything(api, NAMESPACE)


def test_a_real_odoo_survives_the_death_of_its_deployment(world: World) -> None:
    tally = Tally()
    crashes = [(SCENARIOS["update"], one) for one in ALWAYS]
    if COUNT:
        crashes += list(chosen({"update": points_of(world, SCENARIOS["update"])}, max(COUNT // 10, 1), SEED))
    for scenario, crash in crashes:
        attempt(world, scenario, crash, tally, lambda text: print(text, flush=True), SEED)  # noqa: T201
    assert not tally.failures, "\n\n".join(tally.failures)
