"""Restarting the only instance that serves: another takes its clients first, and whoever dies over it leaves one."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone
from redis.exceptions import RedisError

from deployments import claims, control, keeper, probes, recovery, renewal, scaling
from deployments.keeper.instances import keep_instance
from deployments.models import Deployment
from deployments.retention import sweep as retention
from deployments.services import NotPossible
from deployments.states import Status
from instances import doors, incidents
from instances.models import Door, Incident, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer, Colour, EdgeError, RunFailed, ServerUnreachable
from instances.runtimes.simulated import Faults
from projects.models import Environment
from tests import factories
from tests.acme import ADA, Client, running, simulated
from tests.conftest import Queues

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def live(deploy: Any, production: Environment, faults: Faults) -> Environment:
    assert deploy().status == Status.SUCCEEDED
    faults.calls.clear()
    return production


class Killed(BaseException):
    """As -9: nothing of ours handles it."""


def die(*_: Any) -> None:
    raise Killed


def clock(queues: Queues) -> None:
    """Much later, several times."""
    for _ in range(3):
        Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))
        recovery.reconcile()
        keeper.keep()
        queues.run_all()
        probes.probe_all()


def ask(environment: Environment, queues: Queues, slug: str, verb: str) -> None:
    control.request(environment.instances.get(slug=slug), verb)
    queues.run_all()


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
    faults.memory_free_bytes = 1024**2


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
    faults.raised[verb] = die
    with pytest.raises(Killed):
        restart(live, queues)
    faults.clear()
    assert Client(live).write("meanwhile")
    Environment.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
    Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))
    recovery.reconcile()
    queues.run_all()
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
    after = restart(live, queues)
    assert (after.untidy, after.problem != "") == (True, True), "the clock comes back to it, and its page says so"
    faults.clear()
    clock(queues)
    alone_and_well(live)


@pytest.mark.parametrize(("verb", "told"), [("edge.open", "It does not want to."), ("containers.remove", "")])
def test_once_the_new_one_has_the_place_the_old_one_goes_whatever_fails_meanwhile(
    verb: str, told: str, live: Environment, queues: Queues, faults: Faults
) -> None:
    faults.raised[verb] = RunFailed("It does not want to.")
    after = restart(live, queues)
    assert (after.untidy, after.problem) == (True, told), "the clock comes back to it"
    clock(queues)
    assert live.instances.get().untidy
    faults.clear()
    clock(queues)
    assert alone_and_well(live).container.endswith("-again")
    assert not live.instances.get().untidy


def test_what_cannot_be_started_leaves_what_serves(live: Environment, queues: Queues, faults: Faults) -> None:
    before = live.instances.get()
    faults.raised["containers.start"] = RunFailed("No such device.")
    after = restart(live, queues)
    assert (after.container, after.problem) == (before.container, "No such device.")
    assert running(live) == [before.container]
    faults.clear()
    assert not [one for one in runtime_for(live.server).containers.list({}) if one.name.endswith("-again")]


def test_who_waits_for_its_end_asks_once(live: Environment, queues: Queues) -> None:
    for verb in ("restart", "stop"):
        instance = live.instances.get()
        if verb == "restart":
            control.request(instance, verb)
        else:
            with pytest.raises(NotPossible, match="already"):
                control.request(instance, verb)
    queues.run_all()
    alone_and_well(live)


def test_a_job_that_is_delivered_twice_acts_on_what_is_there_then(
    live: Environment, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has done it while this one waited for its turn."""
    instance = live.instances.get()
    control.request(instance, "restart")
    queues.jobs.clear()
    real = claims.claimed

    def late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(claims, "claimed", real)
        control.carry_out(instance.pk, "restart")
        return real(*arguments, **named)

    monkeypatch.setattr(claims, "claimed", late)
    control.carry_out(instance.pk, "restart")
    assert alone_and_well(live).container.endswith("-again")


def test_a_worker_killed_behind_the_door_keeps_nobody_out(live: Environment, queues: Queues, faults: Faults) -> None:
    faults.memory_free_bytes = 1024**2
    faults.raised["containers.start"] = die
    control.request(live.instances.get(), "restart")
    with pytest.MonkeyPatch.context() as patch:  # nothing is tidied up
        patch.setattr(doors, "open", lambda *_, **__: None)
        patch.setattr(claims.Claim, "release", lambda _: None)
        with pytest.raises(Killed):
            queues.run_all()
    assert Door.objects.exists()
    Environment.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
    faults.clear()
    clock(queues)
    alone_and_well(live)


@pytest.mark.parametrize("point", ["containers.start", "containers.join_edge", "edge.open", "containers.stop"])
@pytest.mark.parametrize("verb", ["stop", "start", "restart"])
def test_what_is_asked_after_a_death_waits_for_the_clock_and_then_is_done(
    point: str, verb: str, live: Environment, queues: Queues, faults: Faults
) -> None:
    faults.raised[point] = die
    with pytest.raises(Killed):
        restart(live, queues)
    faults.clear()
    with pytest.raises(NotPossible, match="already"):
        control.request(live.instances.get(), verb)
    clock(queues)
    alone_and_well(live)
    ask(live, queues, "main", verb)
    clock(queues)
    instance = live.instances.get()
    assert running(live) == ([] if verb == "stop" else [instance.container])
    assert Client(live).write("order") == (verb != "stop")


def test_one_that_is_stopped_leaves_no_other_of_it_running(live: Environment, queues: Queues, faults: Faults) -> None:
    faults.raised["edge.open"] = RunFailed("The edge does not answer.")
    assert restart(live, queues).untidy
    assert len(running(live)) == 2
    faults.clear()
    ask(live, queues, "main", "stop")
    assert running(live) == []
    clock(queues)
    assert live.instances.get().state == Instance.State.STOPPED
    assert not Client(live).write("order")


def test_what_a_person_stopped_stays_so_whatever_fails_over_what_is_left(
    live: Environment, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = live.instances.get()
    runtime_for(live.server).containers.stop(instance.container)
    past = timezone.now() - timedelta(minutes=1)
    Environment.objects.update(busy_with=f"stop of {instance}", busy_until=past)
    Instance.objects.update(state=Instance.State.RESTARTING, state_since=past, untidy=True)
    with monkeypatch.context() as patch:

        def gone(*_: Any) -> Any:
            raise ServerUnreachable("The server does not answer.")

        patch.setattr(type(runtime_for(live.server).containers), "list", gone)
        control.heal()
    clock(queues)
    instance.refresh_from_db()
    assert (instance.state, instance.untidy, running(live)) == (Instance.State.STOPPED, False, [])


def test_what_cannot_be_removed_hides_nothing(live: Environment, queues: Queues, faults: Faults) -> None:
    faults.raised["containers.remove"] = RunFailed("device or resource busy")
    after = restart(live, queues)
    assert (after.state, after.untidy, len(running(live))) == (Instance.State.RUNNING, True, 1)
    runtime_for(live.server).containers.stop(after.container)
    clock(queues)
    assert Incident.objects.filter(instance=after).exists(), "the keeper looks after it all the same"
    assert Client(live).write("order")
    ask(live, queues, "main", "stop")
    assert (live.instances.get().state, running(live)) == (Instance.State.STOPPED, []), "and it can be stopped"


def test_its_page_says_that_another_of_it_may_be_left(live: Environment, admin_client: Any) -> None:
    page = reverse("admin:instances_instance_change", args=[live.instances.get().pk])
    words = "another container of it may be left"
    assert words not in admin_client.get(page).content.decode()
    Instance.objects.update(untidy=True)
    assert words in admin_client.get(page).content.decode()


def test_one_of_several_keeps_the_colour_of_all(live: Environment, queues: Queues, deploy: Any) -> None:
    scaling.request(live, 2, ADA)
    queues.run_all()
    for slug, verb in (("main-2", "stop"), ("main", "restart"), ("main-2", "start")):
        ask(live, queues, slug, verb)
    assert len(set(live.instances.values_list("colour", flat=True))) == 1
    assert set(live.instances.values_list("state", flat=True)) == {Instance.State.RUNNING}


def test_the_sweep_leaves_what_is_being_drained(live: Environment, queues: Queues, faults: Faults) -> None:
    removed: list[str] = []
    instance = live.instances.get()

    def sweep(*_: Any) -> None:
        faults.raised.clear()
        removed.extend(one.thing.name for one in retention.sweep(live.server).removed)

    faults.raised["edge.drain"] = sweep
    restart(live, queues)
    assert instance.container not in removed
    alone_and_well(live)


def test_what_the_old_one_is_answering_is_waited_for(
    live: Environment, queues: Queues, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = type(runtime_for(live.server).edge)
    before, drained = live.instances.get(), list[tuple[list[str], str, int]]()
    real = edge.drain

    def drain(self: Any, upstreams: Any, colour: Any, seconds: float) -> int:
        drained.append(([one.name(colour) for one in upstreams], str(colour), len(running(live))))
        return int(real(self, upstreams, colour, seconds))

    monkeypatch.setattr(edge, "drain", drain)
    restart(live, queues)
    assert drained == [([before.name_at_edge(Colour(before.colour))], before.colour, 2)]


def test_who_stood_still_does_not_take_the_place(live: Environment, queues: Queues, faults: Faults) -> None:
    before = live.instances.get()

    def hang(*_: Any) -> None:
        faults.raised.clear()
        later = timezone.now() + timedelta(minutes=5)
        Environment.objects.update(busy_with="restart by another worker", busy_until=later)

    faults.raised["containers.join_edge"] = hang
    assert restart(live, queues).container == before.container


def test_behind_the_door_of_a_failed_rollback_the_clock_removes_nothing(
    live: Environment, queues: Queues, faults: Faults
) -> None:
    Door.objects.create(environment=live, server=live.server, holder="#2", closed_at=timezone.now(), at_work=False)
    past = timezone.now() - timedelta(hours=1)
    Instance.objects.update(state=Instance.State.RESTARTING, state_since=past, untidy=True)
    faults.calls.clear()
    control.heal()
    queues.run_all()
    assert live.instances.get().state == Instance.State.RUNNING
    clock(queues)
    assert not [call for call in faults.calls if call.startswith(("containers.remove", "containers.stop", "edge.open"))]
    Door.objects.all().delete()
    factories.deployment(live, status=Status.ROLLBACK_FAILED)
    control.tidy(live.instances.get().pk)
    assert live.instances.get().untidy, "nor without a door"


def test_a_keeper_that_looked_before_a_deployment_leaves_what_there_is_now(
    live: Environment, faults: Faults, deploy: Any
) -> None:
    instance = live.instances.get()
    instance.become(Instance.State.FAILED, timezone.now())
    incident = incidents.notice(Incident.Part.INSTANCE, live.server, "It runs, but has not answered", instance=instance)
    runtime = runtime_for(live.server)
    stale = keeper.should_run(live.server).get()
    found = runtime.containers.find(stale.container)
    Environment.objects.update(odoo_conf={"log_level": "debug"})
    assert deploy().status == Status.SUCCEEDED
    faults.calls.clear()
    keep_instance(stale, runtime, found, incident)
    assert not [call for call in faults.calls if call.startswith(("containers.stop", "containers.start"))]


@pytest.mark.parametrize("verb", ["edge.close", "edge.open"])
def test_an_edge_that_fails_over_a_closed_door_keeps_nobody_out(
    verb: str, live: Environment, queues: Queues, faults: Faults
) -> None:
    faults.memory_free_bytes = 1024**2
    faults.raised[verb] = EdgeError("The edge did not answer in time.")
    restart(live, queues)
    faults.clear()
    clock(queues)
    alone_and_well(live)


@pytest.mark.parametrize("fault", [EdgeError("The edge did not answer in time."), die])
@pytest.mark.parametrize("well", [True, False])
def test_a_deployment_that_comes_before_the_clock_leaves_what_serves(
    well: bool, fault: Any, live: Environment, queues: Queues, faults: Faults, deploy: Any
) -> None:
    """The row says who serves, and the edge doesn't know yet."""
    faults.raised["edge.open"] = fault
    with suppress(Killed):
        restart(live, queues)
    faults.clear()
    Environment.objects.update(odoo_conf={"log_level": "warn"})
    if not well:
        faults.unhealthy[f"-d{Deployment.objects.latest('pk').pk + 1}"] = Answer(500, "broken")
    written: list[bool] = []
    for verb in ("containers.create", "containers.start", "containers.join_edge"):
        faults.raised[verb] = lambda *_: written.append(Client(live).write("order"))
    assert deploy().status == (Status.SUCCEEDED if well else Status.ROLLED_BACK)
    assert all(written)
    assert len(written) >= 2
    faults.clear()
    assert Client(live).write("order")
    clock(queues)
    alone_and_well(live)


def test_a_deployment_by_force_opens_no_door_that_another_holds(
    live: Environment, queues: Queues, faults: Faults, deploy: Any
) -> None:
    Door.objects.create(environment=live, server=live.server, holder="#2", closed_at=timezone.now(), at_work=False)
    Instance.objects.update(untidy=True)
    Environment.objects.update(odoo_conf={"log_level": "warn"})
    faults.calls.clear()
    before: list[list[str]] = []
    faults.raised["containers.start"] = lambda *_: before.append(list(faults.calls))
    assert deploy(forced=True).status == Status.SUCCEEDED
    assert not [call for call in before[0] if call.startswith("edge.open")]


def test_what_was_refused_is_what_it_was_at_once(live: Environment, queues: Queues) -> None:
    control.request(live.instances.get(), "restart")
    Door.objects.create(environment=live, server=live.server, holder="#2", closed_at=timezone.now(), at_work=False)
    queues.run_all()
    instance = live.instances.get()
    assert instance.state == Instance.State.RUNNING
    assert "is closed by #2" in instance.problem


def test_without_redis_the_row_says_what_it_said_just_before(
    live: Environment, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = live.instances.get()
    ask(live, queues, "main", "stop")

    def gone(*_: Any) -> None:
        raise RedisError

    monkeypatch.setattr("deployments.queues.enqueue_control", gone)
    with pytest.raises(NotPossible):
        control.request(stale, "start")
    assert live.instances.get().state == Instance.State.STOPPED


def test_the_clock_waits_for_nobody_over_leftovers(live: Environment, queues: Queues, faults: Faults) -> None:
    Instance.objects.update(untidy=True)
    faults.calls.clear()
    recovery.reconcile()
    assert not [call for call in faults.calls if call.startswith("edge.drain")]
    queues.run_all()
    assert [call for call in faults.calls if call.startswith("edge.drain")]
    assert not live.instances.get().untidy


def test_beside_one_that_failed_the_only_one_that_serves_keeps_its_door_open(
    live: Environment, queues: Queues, faults: Faults
) -> None:
    """Until it is stopped: closed, its clients would wait for the other."""
    scaling.request(live, 2, ADA)
    queues.run_all()
    live.instances.filter(slug="main-2").update(state=Instance.State.FAILED)
    faults.calls.clear()
    ask(live, queues, "main", "stop")
    acts = [call.split()[0] for call in faults.calls if call.startswith(("edge.close", "containers.stop"))]
    assert acts[0] == "containers.stop"


def test_its_page_says_what_is_being_done(live: Environment, admin_client: Any) -> None:
    instance = live.instances.get()
    page = reverse("admin:instances_instance_change", args=[instance.pk])
    Instance.objects.update(state=Instance.State.RESTARTING)
    for busy, words in (
        (f"stop of {instance}", "Being stopped"),
        (f"start of {instance}", "Being started"),
        ("", "Rest"),
    ):
        Environment.objects.update(busy_with=busy)
        assert words in admin_client.get(page).content.decode()


def test_whose_worker_died_is_told_what_was_not_done(live: Environment, queues: Queues, faults: Faults) -> None:
    faults.raised["containers.start"] = die
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims.Claim, "release", lambda _: None)
        with pytest.raises(Killed):
            restart(live, queues)
    Environment.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
    Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))
    faults.clear()
    control.heal()
    assert "Its restart was left in the middle" in live.instances.get().problem
