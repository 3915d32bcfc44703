"""Pushes, people, clients, crashes, outages and the clock in any order: what must always hold does, after every step.

`make model N=300` runs longer: other orders each time, and every point at which a worker can die.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import ENDS, Model
from tests.model.repository import GOOD, SICK, PreparedMirror, Repository
from tests.model.world import World

LONG = int(os.environ.get("OCORE_MODEL_EXAMPLES", "0"))
STRIDE = 61
PROFILE = settings(
    max_examples=LONG or 6,
    stateful_step_count=30 if LONG else 12,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, *([] if "OCORE_MODEL_QUICK" in os.environ else [Phase.shrink])],
)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> Iterator[World]:
    settings.OCORE_FILE_REPOSITORIES = [str(tmp_path)]
    settings.OCORE_ROLLBACK_SECONDS = 60
    Model.repository = Repository(tmp_path / "remote")
    for module in ("deployments.steps.build", "deployments.pending"):
        monkeypatch.setattr(f"{module}.mirror_of", lambda _: PreparedMirror(Model.repository))
    Model.world = World(monkeypatch)
    logging.disable(logging.CRITICAL)
    with Model.world.watching():
        yield Model.world
    logging.disable(logging.NOTSET)
    sys.stdout.write(f"{dict(ENDS)}\n")
    shutil.rmtree(tmp_path / "dumps", ignore_errors=True)


@pytest.mark.django_db(transaction=True)
def test_in_whatever_order_things_happen_nothing_is_lost_and_nothing_hangs(world: World) -> None:
    run_state_machine_as_test(Model, settings=PROFILE)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", [GOOD, SICK])
@pytest.mark.parametrize("act", ["die", "hold_up"])
def test_wherever_a_worker_dies_or_is_held_up_nothing_is_lost_and_nothing_hangs(
    world: World, act: str, kind: str
) -> None:
    """One point after the other, to the end of the work; in the fast tests a few of them."""
    point, last = 1, 1
    while point <= last:
        model = Model()
        model.begin(staging=False, live=True, far=act == "hold_up")
        model.somebody(act=("write", 0), interruptions={})
        world.most_points = 0
        model.push_meets_a_worker(kind=kind, interruptions={point: (act,)})
        last = max(last, world.most_points)
        model.somebody(act=("write", 0), interruptions={})
        model.teardown()
        point += 1 if LONG else STRIDE
