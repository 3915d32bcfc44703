"""How a new version takes the old one's place: blue-green, rolling, recreate; on a simulated server."""

from typing import Any

import pytest

from deployments import recovery
from deployments.models import Deployment, Snapshot, Step
from deployments.states import Status, StepKind, Way
from instances import doors
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer, Colour, RunFailed
from instances.runtimes.simulated import Faults
from projects.models import Environment
from tests.acme import addon, running, simulated

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def live(deployed: Deployment, production: Environment, faults: Faults) -> Deployment:
    """Acme's production; what it does next is without an update unless a test says otherwise."""
    made = deployed
    faults.calls.clear()
    return made


def change_settings() -> None:
    """Something that runs differs, and no module."""
    Environment.objects.update(odoo_conf={"log_level": "debug"})


def serving(environment: Environment) -> list[str]:
    """The containers to which clients get."""
    found = runtime_for(environment.server).edge.doors()
    names = {one.name_at_edge(found[one.alias]) for one in environment.instances.all() if one.alias in found}
    return simulated(
        lambda state: sorted(
            name for name, one in state["containers"].items() if one["alias"] in names and one["state"] == "running"
        )
    )


def calls(faults: Faults, *verbs: str) -> list[str]:
    return [call for call in faults.calls if call.startswith(verbs)]


def a_second_instance(environment: Environment) -> Instance:
    return Instance.objects.create(environment=environment, name="second", slug="second")


def test_what_changes_no_module_goes_beside_the_old_version_and_the_door_never_closes(
    live: Deployment, production: Environment, deploy: Any, faults: Faults
) -> None:
    old = serving(production)
    change_settings()

    new = deploy()

    assert (new.status, new.way) == (Status.SUCCEEDED, Way.BLUE_GREEN)
    assert "together" in new.way_because
    assert not calls(faults, "edge.close", "databases.clone")
    ends = [
        call.split()[0] for call in calls(faults, "edge.open", "edge.drain", "containers.stop", "containers.remove")
    ]
    assert ends[-4:] == ["edge.open", "edge.drain", "containers.stop", "containers.remove"], "the old one gets its time"
    assert serving(production) == [production.instances.get().container_for(new.pk)] != old
    assert running(production) == serving(production), "the old one is gone"
    assert production.instances.get().colour == Colour.GREEN
    assert not Snapshot.objects.filter(deployment=new).exists()


def test_clients_are_led_to_the_new_version_only_when_it_is_healthy_and_to_the_old_one_until_then(
    live: Deployment, production: Environment, deploy: Any, faults: Faults
) -> None:
    seen: list[list[str]] = []
    faults.raised["containers.exec"] = lambda *_: seen.append(serving(production))
    faults.raised["edge.drain"] = lambda *_: seen.append(serving(production))
    old = serving(production)
    change_settings()

    new = deploy()

    assert seen[:-1] == [old] * (len(seen) - 1)
    assert seen[-1] == [production.instances.get().container_for(new.pk)]


def test_one_that_does_not_get_healthy_goes_and_the_old_one_never_noticed(
    live: Deployment, production: Environment, deploy: Any, faults: Faults
) -> None:
    old = serving(production)
    change_settings()
    Environment.objects.update(health_deadline=1)
    faults.unhealthy[f"d{live.pk + 1}"] = Answer(500, "Internal Server Error")

    new = deploy()

    assert new.status == Status.ROLLED_BACK
    assert serving(production) == old == running(production)
    assert not calls(faults, "edge.close", "edge.open", "databases.put_back", f"containers.stop {old[0]}")
    assert production.instances.get().colour == Colour.BLUE


@pytest.mark.parametrize("point", ["containers.create", "containers.start", "containers.join_edge", "edge.open"])
def test_a_worker_that_dies_at_it_is_followed_by_one_who_leaves_one_version_with_its_clients(
    live: Deployment, production: Environment, deploy: Any, faults: Faults, point: str, queues: Any
) -> None:
    class Died(BaseException):
        pass

    def die(*_: Any) -> None:
        faults.raised.clear()
        raise Died

    change_settings()
    faults.raised[point] = die
    with pytest.raises(Died):
        deploy()
    Deployment.objects.update(heartbeat_at=None)

    recovery.reconcile()
    queues.run_all()

    ended = Deployment.objects.latest("pk")
    assert ended.status == (Status.SUCCEEDED if point == "edge.open" else Status.ROLLED_BACK)
    assert serving(production) == running(production) == [production.instances.get().container]


def test_where_a_module_changes_the_door_closes_whatever_the_strategy(
    live: Deployment, production: Environment, deploy: Any, faults: Faults, remote: Any
) -> None:
    for strategy in ("auto", "blue_green", "rolling"):
        Environment.objects.update(strategy=strategy)
        remote.commit(f"For {strategy}", addon(f"1.{len(strategy)}"))
        new = deploy()
        assert (new.status, new.way) == (Status.SUCCEEDED, Way.RECREATE)
        assert "acme_notes" in new.way_because
        assert calls(faults, "edge.close")


def test_a_module_that_somebody_installs_meanwhile_is_seen_and_nothing_was_changed(
    live: Deployment, production: Environment, deploy: Any, faults: Faults
) -> None:
    old = serving(production)
    change_settings()

    def install(*_: Any) -> None:
        simulated(lambda state: state["databases"][production.database]["modules"].update(x=["installed", "1.0"]))

    faults.raised["containers.start"] = install
    new = deploy()
    assert new.status == Status.ROLLED_BACK
    assert "installed, updated or removed a module" in new.error
    assert serving(production) == old


def test_a_server_short_of_memory_replaces_what_runs_behind_the_door_or_one_after_the_other(
    live: Deployment, production: Environment, deploy: Any, faults: Faults
) -> None:
    faults.memory_free_bytes = 100 * 1024**2
    change_settings()
    new = deploy()
    assert (new.status, new.way) == (Status.SUCCEEDED, Way.RECREATE)
    assert "100 MiB of memory left" in new.way_because
    a_second_instance(production)
    deploy()
    Environment.objects.update(odoo_conf={"log_level": "info"})
    new = deploy()
    assert (new.status, new.way) == (Status.SUCCEEDED, Way.ROLLING)


class TestRolling:
    @pytest.fixture
    def two(self, live: Deployment, production: Environment, deploy: Any, once: Any) -> list[str]:
        def make() -> None:
            a_second_instance(production)
            Environment.objects.update(strategy="rolling", odoo_conf={"log_level": "info"})
            assert deploy().status == Status.SUCCEEDED

        once("two rolled", make)
        assert len(serving(production)) == 2
        return serving(production)

    def test_one_after_the_other_so_that_somebody_always_serves(
        self, two: list[str], production: Environment, deploy: Any, faults: Faults
    ) -> None:
        seen: list[list[str]] = []
        faults.raised["containers.stop"] = lambda *_: seen.append(serving(production))
        change_settings()

        new = deploy()

        assert (new.status, new.way) == (Status.SUCCEEDED, Way.ROLLING)
        assert [len(one) for one in seen[:2]] == [1, 1]
        assert len(serving(production)) == 2
        assert running(production) == serving(production)
        assert not set(serving(production)) & set(two)
        assert len(calls(faults, "edge.close")) == 2
        assert not Door.objects.exists()
        assert {one.colour for one in production.instances.all()} == {str(Colour.BLUE)}

    def test_if_one_fails_all_go_back(
        self, two: list[str], production: Environment, deploy: Any, faults: Faults
    ) -> None:
        change_settings()
        Environment.objects.update(health_deadline=1)
        pk = Deployment.objects.latest("pk").pk + 1
        faults.unhealthy[f"second-d{pk}"] = Answer(500, "Internal Server Error")

        new = deploy()

        assert (new.status, new.way) == (Status.ROLLED_BACK, Way.ROLLING)
        assert serving(production) == two == running(production)
        assert runtime_for(production.server).edge.doors() == {
            one.alias: Colour(one.colour) for one in production.instances.all()
        }

    def test_a_worker_that_dies_in_between_is_followed_by_one_who_brings_the_old_ones_back(
        self, two: list[str], production: Environment, deploy: Any, faults: Faults, queues: Any
    ) -> None:
        class Died(BaseException):
            pass

        seen: list[str] = []

        def die(name: str, *_: Any) -> None:
            seen.append(name)
            if len(seen) == 2:
                faults.raised.clear()
                raise Died

        change_settings()
        faults.raised["containers.stop"] = die
        with pytest.raises(Died):
            deploy()
        Deployment.objects.update(heartbeat_at=None)
        recovery.reconcile()
        queues.run_all()
        assert Deployment.objects.latest("pk").status == Status.ROLLED_BACK
        assert serving(production) == two == running(production)


def test_an_instance_added_later_takes_turns_as_the_others_do(
    live: Deployment, production: Environment, deploy: Any
) -> None:
    change_settings()
    deploy()
    assert production.instances.get().colour == Colour.GREEN
    a_second_instance(production)

    deploy()

    assert {one.colour for one in production.instances.all()} == {str(Colour.BLUE)}
    assert len(serving(production)) == 2


def test_what_was_stopped_by_a_person_gets_no_clients_where_another_serves(
    live: Deployment, production: Environment, deploy: Any
) -> None:
    second = a_second_instance(production)
    deploy()
    Instance.objects.filter(pk=second.pk).update(state=Instance.State.STOPPED)

    doors.lead(production, runtime_for(production.server))

    assert set(runtime_for(production.server).edge.doors()) == {production.instances.first().alias}


def test_a_deployment_that_began_before_there_were_colours_goes_back_to_the_plain_name(
    live: Deployment, production: Environment, deploy: Any, faults: Faults, remote: Any
) -> None:
    old = serving(production)

    def as_before_the_upgrade(*_: Any) -> None:
        step = Step.objects.get(deployment=Deployment.objects.latest("pk"), kind=StepKind.SNAPSHOT)
        for one in step.facts["old"]:
            del one["name"]
        step.save()
        raise RunFailed("no memory")

    remote.commit("Second", addon("1.1"))
    faults.raised["containers.run"] = as_before_the_upgrade
    assert deploy().status == Status.ROLLED_BACK
    assert serving(production) == old
