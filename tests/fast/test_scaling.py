"""How many instances an environment has is a number; and one of several that ends is stood in for by the others."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from deployments import control, keeper, recovery, scaling
from deployments.drift import drift
from deployments.models import Deployment
from deployments.services import NotPossible
from deployments.states import Status
from instances import doors
from instances.models import Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer, Colour, RunFailed
from instances.runtimes.simulated import Faults
from projects.models import Environment
from tests.acme import ADA, running, simulated
from tests.conftest import Queues

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def live(deployed: Deployment, production: Environment, faults: Faults) -> Environment:
    faults.calls.clear()
    return production


def serving(environment: Environment) -> list[str]:
    found = runtime_for(environment.server).edge.doors()
    names = {one.name_at_edge(found[one.alias]) for one in environment.instances.all() if one.alias in found}
    return simulated(
        lambda state: sorted(
            name for name, one in state["containers"].items() if one["alias"] in names and one["state"] == "running"
        )
    )


def scale(environment: Environment, count: int, queues: Queues) -> Environment:
    scaling.request(environment, count, ADA)
    queues.run_all()
    environment.refresh_from_db()
    return environment


def test_up_and_down_are_a_number_and_no_deployment(live: Environment, queues: Queues, faults: Faults) -> None:
    scale(live, 3, queues)
    assert (live.scale_to, live.scale_problem) == (None, "")
    assert len(serving(live)) == 3 == len(running(live))
    assert drift(live, Deployment.objects.get(live=True)) == [], "nothing is due"
    assert runtime_for(live.server).edge.serves(doors.routes(live.server))
    assert {one.state for one in live.instances.all()} == {Instance.State.RUNNING}
    scale(live, 1, queues)
    assert len(serving(live)) == 1 == len(running(live))
    assert live.instances.get().slug == "main", "the first one runs the scheduled actions"
    assert Deployment.objects.count() == 1


def test_only_the_first_instance_runs_scheduled_actions(
    live: Environment, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments import serving as made

    crons: list[bool] = []
    real = made.container

    def spy(*arguments: Any, cron: bool) -> Any:
        crons.append(cron)
        return real(*arguments, cron=cron)

    monkeypatch.setattr(made, "container", spy)
    scale(live, 3, queues)
    assert crons == [False, False]


def test_the_next_deployment_replaces_all_of_them(live: Environment, queues: Queues, deploy: Any) -> None:
    scale(live, 2, queues)
    before = serving(live)
    Environment.objects.update(odoo_conf={"log_level": "debug"})
    assert deploy().status == Status.SUCCEEDED
    assert len(serving(live)) == 2
    assert not set(serving(live)) & set(before)
    assert running(live) == serving(live)


def test_one_that_does_not_get_healthy_leaves_everything_as_it_was(
    live: Environment, queues: Queues, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "READY_SECONDS", 0.0)
    before = serving(live)
    faults.unhealthy["main-3"] = Answer(500, "Internal Server Error")
    scale(live, 3, queues)
    assert "did not become healthy" in live.scale_problem
    assert live.scale_to is None
    assert serving(live) == before == running(live)
    assert live.instances.count() == 1


@pytest.mark.parametrize("point", ["containers.create", "containers.start", "containers.join_edge", "edge.apply"])
def test_a_worker_that_dies_while_it_scales_is_followed_by_one_who_finishes_it(
    live: Environment, queues: Queues, faults: Faults, point: str
) -> None:
    class Died(BaseException):
        pass

    def die(*_: Any) -> None:
        faults.raised.clear()
        raise Died

    scaling.request(live, 2, ADA)
    faults.raised[point] = die
    with pytest.raises(Died):
        queues.run_all()
    Environment.objects.update(busy_until=None, busy_with="", busy_by="")

    recovery.reconcile()
    queues.run_all()

    live.refresh_from_db()
    assert live.scale_to is None
    assert len(serving(live)) == 2 == len(running(live))


def test_it_waits_for_a_deployment_and_comes_about_then(live: Environment, queues: Queues, deploy: Any) -> None:
    underway = Deployment.objects.create(environment=live, status=Status.RUNNING, trigger="manual")
    scale(live, 2, queues)
    assert (live.scale_to, len(serving(live))) == (2, 1)
    Deployment.objects.filter(pk=underway.pk).update(status=Status.FAILED)
    recovery.reconcile()
    queues.run_all()
    assert len(serving(live)) == 2


@pytest.mark.parametrize("count", [0, scaling.MOST + 1])
def test_numbers_that_are_none_are_refused(live: Environment, count: int) -> None:
    with pytest.raises(NotPossible, match="1 to 16"):
        scaling.request(live, count, ADA)


def test_what_was_never_live_cannot_be_scaled(production: Environment) -> None:
    with pytest.raises(NotPossible, match="has not been deployed"):
        scaling.request(production, 2, ADA)


def test_one_that_was_scaled_and_is_gone_is_brought_back(live: Environment, queues: Queues) -> None:
    scale(live, 2, queues)
    second = live.instances.get(slug="main-2")
    runtime_for(live.server).containers.remove(second.container)
    keeper.keep()
    assert len(running(live)) == 2


class TestOneOfSeveral:
    @pytest.fixture
    def two(self, live: Environment, queues: Queues, once: Any) -> Environment:
        once("scaled to two", lambda: scale(live, 2, queues))
        return live

    def test_stopping_it_gives_its_clients_to_the_other(self, two: Environment, queues: Queues) -> None:
        second = two.instances.get(slug="main-2")
        control.request(second, "stop")
        queues.run_all()
        second.refresh_from_db()
        assert second.state == Instance.State.STOPPED
        assert set(runtime_for(two.server).edge.doors()) == {two.instances.get(slug="main").alias}
        control.request(second, "start")
        queues.run_all()
        assert len(serving(two)) == 2

    def test_restarting_it_holds_nobody_up(self, two: Environment, queues: Queues, faults: Faults) -> None:
        seen: list[list[str]] = []
        faults.raised["containers.stop"] = lambda *_: seen.append(serving(two))
        first = two.instances.get(slug="main")
        control.request(first, "restart")
        queues.run_all()
        assert [len(one) for one in seen] == [1]
        assert len(serving(two)) == 2

    def test_removing_it_lets_it_end_what_it_answers(self, two: Environment, queues: Queues, faults: Faults) -> None:
        second = two.instances.get(slug="main-2")
        control.request(second, "remove")
        queues.run_all()
        assert serving(two) == [two.instances.get().container]
        acts = [call.split()[0] for call in faults.calls if call.startswith(("edge.close", "containers.remove"))]
        assert acts == ["edge.close", "containers.remove"]

    def test_a_failed_lead_is_mended_by_the_clock(self, two: Environment, queues: Queues, faults: Faults) -> None:
        from deployments import edges

        second = two.instances.get(slug="main-2")
        control.request(second, "stop")
        queues.run_all()
        faults.raised["edge.open"] = RunFailed("The edge does not answer.")
        control.request(second, "start")
        queues.run_all()
        faults.raised.clear()
        edges.look_at_edges()
        keeper.keep()
        assert len(serving(two)) == 2
        assert set(runtime_for(two.server).edge.doors().values()) <= set(Colour)


class TestByHand:
    def test_who_may_and_who_may_not(self, live: Environment, queues: Queues) -> None:
        url = reverse("admin:projects_environment_scale", args=[live.pk])
        page = reverse("admin:projects_environment_change", args=[live.pk])
        user = User.objects.create_user("bob", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_environment"))
        client = Client()
        client.force_login(user)
        assert client.post(url, {"instances": "2"}).status_code == 403
        assert "oc-instances" not in client.get(page).content.decode()
        user.user_permissions.add(Permission.objects.get(codename="scale_environment"))
        assert "oc-instances" in client.get(page).content.decode()
        assert client.post(url, {"instances": "2"}).status_code == 302
        live.refresh_from_db()
        assert (live.scale_to, live.scale_asked_by) == (2, "bob")
        assert "being scaled" in client.get(page).content.decode()
        queues.run_all()
        assert len(serving(live)) == 2

    @pytest.mark.parametrize("typed", ["", "two", "-1", "99999", "²"])
    def test_what_is_no_number_is_told(self, live: Environment, typed: str) -> None:
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        url = reverse("admin:projects_environment_scale", args=[live.pk])
        answer = client.post(url, {"instances": typed}, follow=True)
        assert "instances" in answer.content.decode()
        live.refresh_from_db()
        assert live.scale_to is None

    def test_the_command_waits_and_says_so(
        self, live: Environment, queues: Queues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        real = scaling.request

        def at_once(*arguments: Any) -> None:
            real(*arguments)
            queues.run_all()

        monkeypatch.setattr(scaling, "request", at_once)
        call_command("scale", live.path, "2", "--wait")
        assert "has 2 instances" in capsys.readouterr().out
        with pytest.raises(CommandError, match="1 to 16"):
            call_command("scale", live.path, "17")


class Killed(BaseException):
    """As -9: nothing of what it would have tidied up happens."""


def test_a_worker_killed_while_it_adds_leaves_nothing_when_fewer_are_wanted_since(
    live: Environment, queues: Queues, faults: Faults
) -> None:
    def die(*arguments: Any) -> None:
        if live.instances.count() > 1:
            raise Killed

    faults.raised["containers.start"] = die
    with pytest.raises(Killed):
        scale(live, 3, queues)
    assert {one.state for one in live.instances.exclude(container="")} == {Instance.State.RUNNING}
    assert live.instances.count() > 1
    faults.clear()
    recovery.reconcile()
    scale(live, 1, queues)
    assert live.instances.get().slug == "main"
    assert len(serving(live)) == 1 == len(running(live))


def test_what_a_killed_worker_had_begun_to_add_is_added_by_the_next(
    live: Environment, queues: Queues, faults: Faults
) -> None:
    def die(*arguments: Any) -> None:
        if live.instances.count() > 1:
            raise Killed

    faults.raised["containers.start"] = die
    with pytest.raises(Killed):
        scale(live, 3, queues)
    faults.clear()
    recovery.reconcile()
    queues.run_all()
    scaling.carry_out(live.pk)
    live.refresh_from_db()
    assert (live.scale_to, live.instances.count(), len(serving(live))) == (None, 3, 3)
