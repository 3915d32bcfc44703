"""Doors of several instances, and doors that were lost: whoever serves has its clients, whoever doesn't has none."""

from typing import Any

import pytest
from django.utils import timezone

from deployments import control, edges, keeper, scaling
from deployments.models import Deployment
from deployments.states import Status, Way
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer
from instances.runtimes.simulated import Faults
from projects.models import Environment, Server
from tests import factories
from tests.acme import ADA, addon, running, simulated
from tests.conftest import Queues
from tests.fast.test_ways import change_settings, serving

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def live(deployed: Deployment, production: Environment) -> Environment:
    return production


@pytest.fixture
def three(live: Environment, deploy: Any, once: Any) -> Environment:
    def make() -> None:
        for name in ("second", "third"):
            Instance.objects.create(environment=live, name=name, slug=name)
        Environment.objects.update(strategy="rolling", odoo_conf={"log_level": "info"})
        assert deploy().status == Status.SUCCEEDED

    once("three rolled", make)
    return live


def control_one(environment: Environment, slug: str, verb: str, queues: Queues) -> None:
    control.request(environment.instances.get(slug=slug), verb)
    queues.run_all()


def scale(environment: Environment, count: int, queues: Queues) -> None:
    scaling.request(environment, count, ADA)
    queues.run_all()
    environment.refresh_from_db()


def break_the_next(faults: Faults, slug: str) -> None:
    change_settings()
    Environment.objects.update(health_deadline=1)
    faults.unhealthy[f"{slug}-d{Deployment.objects.latest('pk').pk + 1}"] = Answer(500, "Internal Server Error")


def lose_all_doors() -> None:
    simulated(lambda state: state["open_doors"].clear())


def staging(production: Environment) -> Environment:
    return factories.environment(project=production.project, name="Staging", slug="staging", server=production.server)


def test_an_edge_that_is_told_anew_after_an_upgrade_leads_all_clients_at_once(live: Environment) -> None:
    simulated(lambda state: (state["open_doors"].clear(), state["routes"].clear()))
    Server.objects.update(edge_due_at=timezone.now())
    edges.tell(live.server_id)
    assert serving(live) == running(live)


@pytest.mark.parametrize("what", ["deploys", "is stuck in its removal"])
def test_lost_doors_are_mended_whatever_another_environment_does(
    live: Environment, deploy: Any, faults: Faults, remote: Any, what: str
) -> None:
    other = staging(live)
    assert deploy(other).status == Status.SUCCEEDED
    seen: list[list[str]] = []

    def look(*_: Any) -> None:
        edges.look_at_edges()
        keeper.keep()
        seen.append(serving(live))

    if what == "deploys":
        remote.commit("Second", addon("1.1"))
        faults.raised["containers.run"] = look
        lose_all_doors()
        assert deploy(other).status == Status.SUCCEEDED
    else:
        Environment.objects.filter(pk=other.pk).update(removing_since=timezone.now(), removal_problem="in use")
        lose_all_doors()
        look()
    assert seen
    assert all(seen)


@pytest.mark.parametrize("second", ["stopped by hand", "added since"])
def test_a_rolling_that_goes_back_leaves_no_door_open_to_nobody(
    three: Environment, deploy: Any, faults: Faults, queues: Queues, second: str
) -> None:
    if second == "stopped by hand":
        control_one(three, "second", "stop", queues)
        break_the_next(faults, "third")
    else:
        for name in ("fourth", "fifth"):
            Instance.objects.create(environment=three, name=name, slug=name)
        break_the_next(faults, "fifth")
    before = runtime_for(three.server).edge.doors()
    assert deploy().status == Status.ROLLED_BACK
    assert runtime_for(three.server).edge.doors() == before


def test_a_door_that_is_open_to_nobody_is_closed_by_the_keeper(three: Environment, queues: Queues) -> None:
    control_one(three, "second", "stop", queues)
    edge = runtime_for(three.server).edge
    before = edge.doors()
    simulated(lambda state: state["open_doors"].update({three.instances.get(slug="second").alias: "blue"}))
    edges.look_at_edges()
    keeper.keep()
    assert edge.doors() == before


def test_a_rolling_goes_back_though_somebody_removed_an_old_container(
    three: Environment, deploy: Any, faults: Faults
) -> None:
    old = three.instances.get(slug="main").container
    before = serving(three)
    break_the_next(faults, "third")

    def remove(name: str, *_: Any) -> None:
        if name.endswith("third" + f"-d{Deployment.objects.latest('pk').pk}"):
            faults.raised.clear()
            runtime_for(three.server).containers.remove(old)

    faults.raised["containers.start"] = remove
    assert deploy().status == Status.ROLLED_BACK
    assert serving(three) == before == running(three)


def test_with_one_that_serves_and_others_stopped_nothing_rolls(
    three: Environment, deploy: Any, faults: Faults, queues: Queues
) -> None:
    for slug in ("second", "third"):
        control_one(three, slug, "stop", queues)
    change_settings()
    assert deploy().way == Way.BLUE_GREEN


def test_scaling_down_takes_the_stopped_ones_first_and_never_the_last_that_serves(
    live: Environment, queues: Queues
) -> None:
    scale(live, 3, queues)
    control_one(live, "main-2", "stop", queues)
    scale(live, 2, queues)
    assert {one.slug for one in live.instances.all()} == {"main", "main-3"}
    control_one(live, "main", "stop", queues)
    scale(live, 1, queues)
    assert "only what would be taken away serves" in live.scale_problem
    assert len(serving(live)) == 1


def test_scaling_that_fails_takes_only_what_it_made(
    live: Environment, queues: Queues, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "READY_SECONDS", 0.0)
    mine = Instance.objects.create(environment=live, name="mine", slug="mine", workers=2)
    faults.unhealthy["main-2"] = Answer(500, "Internal Server Error")
    scale(live, 3, queues)
    assert live.scale_problem
    assert Instance.objects.filter(pk=mine.pk, container="").exists()
    assert len(running(live)) == 1


def test_restarting_the_only_one_that_serves_holds_its_clients_by_a_closed_door(
    live: Environment, queues: Queues, faults: Faults
) -> None:
    scale(live, 2, queues)
    control_one(live, "main-2", "stop", queues)
    faults.unhealthy["-main-d"] = Answer(0, "stuck")
    seen: list[int] = []

    def then_it_is_well() -> None:
        seen.append(Door.objects.count())
        faults.unhealthy.clear()

    faults.raised["containers.stop"] = lambda *_: then_it_is_well()
    control_one(live, "main", "restart", queues)
    assert seen == [1]
    assert len(serving(live)) == 1
