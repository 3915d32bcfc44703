"""Restarting the only instance that serves: another takes its clients first, and whoever dies over it leaves one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deployments import control, recovery, renewal
from deployments.models import Deployment
from deployments.states import Status
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer, RunFailed, ServerUnreachable
from instances.runtimes.simulated import Faults
from projects.models import Environment, Server
from tests.acme import Client, running, simulated
from tests.conftest import Queues

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def live(deploy: Any, production: Environment, faults: Faults) -> Environment:
    assert deploy().status == Status.SUCCEEDED
    faults.calls.clear()
    return production


def restart(environment: Environment, queues: Queues) -> Instance:
    control.request(environment.instances.get(), "restart")
    queues.run_all()
    return environment.instances.get()


def alone_and_well(environment: Environment) -> Instance:
    instance = environment.instances.get()
    assert running(environment) == [instance.container]
    assert (instance.state, instance.problem) == (Instance.State.RUNNING, "")
    assert Client(environment).write("order")
    assert not Door.objects.exists()
    return instance


def test_nobody_waits_while_it_is_restarted(live: Environment, queues: Queues, faults: Faults) -> None:
    before = live.instances.get()
    written: list[bool] = []
    for verb in ("containers.create", "containers.start", "edge.open", "containers.stop"):
        faults.raised[verb] = lambda *_: written.append(Client(live).write("order"))
    restart(live, queues)
    assert written == [True] * 4
    faults.clear()
    after = alone_and_well(live)
    assert after.container == f"{before.container}-again"
    assert after.colour != before.colour
    restart(live, queues)
    assert alone_and_well(live).container == before.container, "the name is free again"


def test_a_deployment_after_it_finds_its_way(live: Environment, deploy: Any, queues: Queues) -> None:
    restart(live, queues)
    Environment.objects.update(odoo_conf={"log_level": "warn"})
    assert deploy().status == Status.SUCCEEDED
    assert alone_and_well(live).container.endswith(f"-d{Deployment.objects.get(live=True).pk}")


def test_one_that_does_not_get_well_takes_no_clients(
    live: Environment, queues: Queues, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "READY_SECONDS", 0.0)
    before = live.instances.get()
    faults.unhealthy["-again"] = Answer(500, "Internal Server Error")
    after = restart(live, queues)
    assert after.container == before.container
    assert after.state == Instance.State.RUNNING
    assert "did not become healthy" in after.problem
    assert running(live) == [before.container]
    assert Client(live).write("order")


def short_of_memory(live: Environment, faults: Faults) -> None:
    Server.objects.update(facts={"memory_free_bytes": 1024**2})


def without_an_answer(live: Environment, faults: Faults) -> None:
    faults.unhealthy["-main-d"] = Answer(0, "stuck")
    faults.raised["containers.stop"] = lambda *_: faults.unhealthy.clear()


def ended(live: Environment, faults: Faults) -> None:
    runtime_for(live.server).containers.stop(live.instances.get().container)


def without_its_image(live: Environment, faults: Faults) -> None:
    simulated(lambda state: state["images"].clear())


@pytest.mark.parametrize("hindered", [short_of_memory, without_an_answer, ended, without_its_image])
def test_where_two_cannot_run_it_is_restarted_behind_the_door(
    hindered: Callable[[Environment, Faults], None], live: Environment, queues: Queues, faults: Faults
) -> None:
    before = live.instances.get()
    hindered(live, faults)
    closed: list[int] = []
    faults.raised["containers.start"] = lambda *_: closed.append(Door.objects.count())
    restart(live, queues)
    assert closed == [1]
    faults.clear()
    assert alone_and_well(live).container == before.container


VERBS = ("create", "start", "join_edge", "stop", "remove")


@pytest.mark.parametrize("verb", [*(f"containers.{one}" for one in VERBS), "edge.open"])
def test_whoever_dies_over_it_leaves_one_that_serves(
    verb: str, live: Environment, queues: Queues, faults: Faults
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    faults.raised[verb] = die
    with pytest.raises(KeyboardInterrupt):
        restart(live, queues)
    faults.clear()
    assert Client(live).write("meanwhile")
    Environment.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
    Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))
    recovery.reconcile()
    instance = live.instances.get()
    assert running(live) == [instance.container]
    assert Client(live).write("order")


@pytest.mark.parametrize("verb", ["containers.start", "containers.remove"])
def test_a_server_that_goes_away_is_tidied_up_once_it_is_back(
    verb: str, live: Environment, queues: Queues, faults: Faults
) -> None:
    gone = ServerUnreachable("The server does not answer.")
    faults.raised[verb] = gone
    faults.raised["containers.stop"] = gone
    assert restart(live, queues).state == Instance.State.RESTARTING, "the clock comes back to it"
    faults.clear()
    Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))
    recovery.reconcile()
    assert running(live) == [live.instances.get().container]
    assert Client(live).write("order")


@pytest.mark.parametrize("verb", ["edge.open", "containers.remove"])
def test_once_the_new_one_has_the_place_the_old_one_goes_whatever_fails_meanwhile(
    verb: str, live: Environment, queues: Queues, faults: Faults
) -> None:
    faults.raised[verb] = RunFailed("It does not want to.")
    assert restart(live, queues).state == Instance.State.RESTARTING, "the clock comes back to it"
    faults.clear()
    Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))
    recovery.reconcile()
    instance = live.instances.get()
    assert running(live) == [instance.container]
    assert instance.container.endswith("-again")
    assert Client(live).write("order")


def test_what_cannot_be_started_leaves_what_serves(live: Environment, queues: Queues, faults: Faults) -> None:
    before = live.instances.get()
    faults.raised["containers.start"] = RunFailed("No such device.")
    after = restart(live, queues)
    assert (after.container, after.problem) == (before.container, "No such device.")
    assert running(live) == [before.container]
    faults.clear()
    assert not [one for one in runtime_for(live.server).containers.list({}) if one.name.endswith("-again")]
