"""Whose turn it is: limits per server, turns between projects, places in the line."""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from django.db.models import QuerySet
from django.utils import timezone

from deployments import pipeline, recovery, schedule, services
from deployments import queues as deployment_queues
from deployments.models import Deployment, Step
from deployments.schedule import Waiting, fair_order, why_waiting
from deployments.states import Status, StepKind, StepStatus, Trigger
from instances.runtimes.simulated import Faults
from projects.models import Environment, Server
from tests import factories
from tests.acme import ADA, addon
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server() -> Server:
    return factories.server(name="server1", concurrent_deployments=2, concurrent_builds=2)


@pytest.fixture
def environments(server: Server, queues: Queues, faults: Faults) -> Iterator[Environment]:
    """As many of Acme as are wanted, of plain Odoo."""
    project = factories.project()
    return (factories.environment(project=project, name=f"E{n}", slug=f"e{n}", branch="") for n in range(100))


def request(environment: Environment, **options: Any) -> Deployment:
    return services.request_deployment(environment, Trigger.MANUAL, ADA, **options)


def admitted() -> list[int]:
    rows = Deployment.objects.filter(status=Status.QUEUED, admitted_at__isnull=False)
    return list(rows.order_by("admitted_at").values_list("pk", flat=True))


def begin(deployment: Deployment, *, built: bool) -> None:
    now = timezone.now()
    Deployment.objects.filter(pk=deployment.pk).update(status=Status.RUNNING, started_at=now, heartbeat_at=now)
    ended = {"status": StepStatus.SUCCEEDED, "finished_at": now} if built else {}
    Step.objects.create(deployment=deployment, kind=StepKind.BUILD, **ended)


def end(deployment: Deployment, server: Server) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(status=Status.SUCCEEDED, finished_at=timezone.now())
    schedule.hand_out(server.pk)


def test_no_more_than_its_server_may_run_are_handed_to_the_workers(
    environments: Iterator[Environment], server: Server, queues: Queues
) -> None:
    first, second, third = (request(next(environments)) for _ in range(3))

    assert admitted() == [first.pk, second.pk]
    assert queues.jobs["deployments"] == [("run_deployment", (first.pk,)), ("run_deployment", (second.pk,))]
    begin(first, built=True)
    end(first, server)
    assert admitted() == [second.pk, third.pk]


def test_another_server_has_slots_of_its_own(environments: Iterator[Environment]) -> None:
    for _ in range(3):
        request(next(environments))
    other = factories.environment(server=factories.server(slug="other", name="Other"), branch="", slug="x", name="X")

    assert request(other).pk in admitted()


def test_a_worker_takes_only_what_was_admitted(environments: Iterator[Environment]) -> None:
    third = [request(next(environments)) for _ in range(3)][-1]

    with pytest.raises(pipeline.Busy):
        pipeline.run(third.pk)

    third.refresh_from_db()
    assert (third.status, third.admitted_at) == (Status.QUEUED, None)


def test_the_next_builds_as_soon_as_a_build_has_ended(
    environments: Iterator[Environment], server: Server, queues: Queues, faults: Faults
) -> None:
    Server.objects.update(concurrent_builds=1)
    first, second = request(next(environments)), request(next(environments))
    assert admitted() == [first.pk]
    assert why_waiting(second) == "1st in line: server1 (simulated) builds 1 of 1."
    seen: list[int] = []
    faults.raised["containers.create"] = lambda *_: seen.extend(admitted())

    pipeline.run(first.pk)

    assert seen[0] == second.pk, "admitted while the first was being deployed"


def test_who_would_only_wait_for_another_s_build_stays_in_the_line_until_that_has_ended(
    production: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    """Two environments of one branch are pushed at once: no worker waits for the other's image."""
    staging = factories.environment(name="Staging", slug="staging", kind="staging", server=production.server)
    other = factories.environment(name="Next", slug="next", kind="staging", server=production.server, branch="next")
    sha = remote.commit("Second", addon("1.1"))
    first, second, third = (
        services.request_deployment(one, Trigger.PUSH, ADA, ref=ref, commit=commit)
        for one, ref, commit in ((production, "main", sha), (staging, "main", sha), (other, "next", "f" * 40))
    )
    assert admitted() == [first.pk, third.pk]
    assert why_waiting(second) == f"Waits for the image that #{first.pk} is building."
    services.cancel(third, ADA)
    seen: list[int] = []
    faults.raised["containers.create"] = lambda *_: seen.extend(admitted())

    pipeline.run(first.pk)

    assert seen[0] == second.pk, "admitted while the first was being deployed"
    pipeline.run(second.pk)
    assert len([call for call in faults.calls if call.startswith("images.build")]) == 1


def test_what_is_built_already_is_waited_for_by_nobody(production: Environment, queues: Queues) -> None:
    sha = "a" * 40
    factories.deployment(production, commit=sha, content="x", live=True)
    others = [
        factories.environment(name=f"S{n}", slug=f"s{n}", kind="staging", server=production.server) for n in range(2)
    ]

    found = [services.request_deployment(one, Trigger.PUSH, ADA, ref="main", commit=sha) for one in others]

    assert admitted() == [one.pk for one in found]


def test_what_is_put_on_another_odoo_is_another_build(production: Environment, queues: Queues) -> None:
    older = factories.environment(name="Old", slug="old", server=production.server, odoo_version="18.0")
    more = factories.environment(name="More", slug="more", server=production.server, pip_packages=["iniconfig"])
    Server.objects.update(concurrent_deployments=5, concurrent_builds=5)

    found = [request(one) for one in (production, older, more)]
    assert admitted() == [one.pk for one in found]


def test_who_goes_back_to_an_image_waits_for_nobody_s_build(production: Environment, queues: Queues) -> None:
    staging = factories.environment(name="Staging", slug="staging", kind="staging", server=production.server)
    first = request(production)
    back = services.request_deployment(staging, Trigger.ROLLBACK, ADA, rollback_to=first)

    assert admitted() == [first.pk, back.pk]


def test_a_deployment_says_what_it_waits_for(environments: Iterator[Environment], server: Server) -> None:
    busy = next(environments)
    first, second = request(busy), request(next(environments))
    third, fourth = request(next(environments)), request(next(environments))
    begin(first, built=False)
    behind = request(busy)

    assert why_waiting(Deployment.objects.get(pk=first.pk)) == ""
    assert why_waiting(Deployment.objects.get(pk=second.pk)) == "Next: waits for a free worker."
    assert why_waiting(third) == "1st in line: server1 (simulated) runs 2 of 2 deployments."
    assert why_waiting(fourth) == "2nd in line: server1 (simulated) runs 2 of 2 deployments."
    assert why_waiting(behind) == f"Waits for the end of #{first.pk} in this environment."


def test_a_newer_push_takes_over_the_place_in_the_line_and_the_slot(environments: Iterator[Environment]) -> None:
    ahead, other = next(environments), next(environments)
    first = request(ahead)
    request(other)
    waits, last = next(environments), next(environments)
    early = request(waits)
    later = request(last)
    for _ in range(3):
        newest = request(waits)
        replaced = request(ahead)

    assert newest.queued_since == early.queued_since
    assert replaced.admitted_at is not None
    first.refresh_from_db()
    assert (first.status, admitted()[0]) == (Status.SUPERSEDED, replaced.pk)
    assert why_waiting(newest).startswith("1st in line")
    assert why_waiting(later).startswith("2nd in line")


def test_a_slot_that_is_not_needed_any_more_goes_to_the_next(environments: Iterator[Environment]) -> None:
    first, _, third = (request(next(environments)) for _ in range(3))

    services.cancel(first, ADA)

    assert third.pk in admitted()


def test_what_finds_its_environment_busy_gives_its_slot_to_the_next_and_keeps_its_place(
    environments: Iterator[Environment], server: Server, queues: Queues
) -> None:
    busy = next(environments)
    first, _, third = request(busy), request(next(environments)), request(next(environments))
    Environment.objects.filter(pk=busy.pk).update(
        busy_with="restart of main", busy_until=timezone.now() + timedelta(minutes=1)
    )
    with pytest.raises(pipeline.Busy):
        pipeline.run(first.pk)
    schedule.hand_out(server.pk)

    assert first.pk not in admitted()
    assert third.pk in admitted()
    assert "restart of main" in why_waiting(Deployment.objects.get(pk=first.pk))
    Environment.objects.filter(pk=busy.pk).update(busy_until=None)
    assert why_waiting(Deployment.objects.get(pk=first.pk)).startswith("1st in line")


def test_the_clock_hands_over_again_what_went_with_redis_and_what_nobody_handed_out(
    environments: Iterator[Environment], queues: Queues
) -> None:
    first = request(next(environments))
    lost = Deployment.objects.create(environment=next(environments), trigger=Trigger.MANUAL)
    queues.jobs.clear()

    recovery.reconcile()
    recovery.reconcile()

    assert sorted(queues.jobs["deployments"]) == [("run_deployment", (first.pk,)), ("run_deployment", (lost.pk,))]


@pytest.mark.parametrize(
    ("enqueue", "queue"),
    [
        (deployment_queues.enqueue_recovery, "urgent"),
        (deployment_queues.enqueue_dump, "slow"),
        (deployment_queues.enqueue_pending, "slow"),
        (deployment_queues.enqueue_removal, "slow"),
        (deployment_queues.enqueue_sweep, "slow"),
        (deployment_queues.enqueue_report, "reports"),
    ],
)
def test_what_waits_already_is_not_queued_again_and_its_like_for_another_is(
    queues: Queues, enqueue: Callable[[int], None], queue: str
) -> None:
    for pk in (1, 1, 11, 1, 11):
        enqueue(pk)
    assert [arguments for _, arguments in queues.jobs[queue]] == [(1,), (11,)]

    queues.jobs[queue].pop(0)
    enqueue(1)
    assert [arguments for _, arguments in queues.jobs[queue]] == [(11,), (1,)]


def test_a_new_one_is_queued_without_looking_through_what_waits(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue is not read by each push."""
    monkeypatch.setattr(deployment_queues, "_waits", lambda queue, what: pytest.fail("it was looked through"))

    deployment_queues.enqueue_deployment(1, new=True)

    assert queues.jobs["deployments"] == [("run_deployment", (1,))]


def moment(seconds: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=timezone.get_default_timezone()) + timedelta(seconds=seconds)


def test_a_project_with_a_hundred_environments_and_one_with_a_single_one_take_turns() -> None:
    crowd = [Waiting(pk, project=pk % 3, since=moment(pk), trigger=Trigger.PUSH) for pk in range(300)]
    single = Waiting(1000, project=9, since=moment(1000), trigger=Trigger.PUSH)
    order = [one.pk for one in fair_order([*crowd, single], {}, dict.fromkeys(range(3), moment(999)))]
    assert order.index(1000) == 3, "each of the others had its turn before it asked, and has one more"
    assert [pk for pk in order if pk % 3 == 0] == list(range(0, 300, 3)), "the oldest of each first"

    order = [one.pk for one in fair_order([*crowd, single], {}, dict.fromkeys(range(3), moment(1001)))]
    assert order[0] == 1000, "each of the others has had one since, though they have something older"


def test_who_holds_fewer_slots_comes_first() -> None:
    old = Waiting(1, project=1, since=moment(0), trigger=Trigger.PUSH)
    new = Waiting(2, project=2, since=moment(9), trigger=Trigger.PUSH)

    assert [one.pk for one in fair_order([old, new], {1: 2, 2: 1}, {})] == [2, 1]
    assert [one.pk for one in fair_order([old, new], {1: 1, 2: 1}, {})] == [1, 2]


def test_a_rollback_by_hand_goes_before_everything() -> None:
    push = Waiting(1, project=1, since=moment(0), trigger=Trigger.PUSH)
    back = Waiting(2, project=2, since=moment(9), trigger=Trigger.ROLLBACK)

    assert [one.pk for one in fair_order([push, back], {2: 5}, {})] == [2, 1]


def test_however_many_hand_out_at_once_the_limit_holds(environments: Iterator[Environment], server: Server) -> None:
    Server.objects.update(concurrent_deployments=4, concurrent_builds=3)
    for _ in range(8):
        Deployment.objects.create(environment=next(environments), trigger=Trigger.MANUAL)
    together = threading.Barrier(4)

    def work() -> None:
        together.wait()
        schedule.hand_out(server.pk)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(admitted()) == 3


def test_a_push_to_several_environments_and_who_hands_out_take_their_rows_in_one_order(
    environments: Iterator[Environment], server: Server, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that locks rows would end one of the two with a deadlock."""
    low, high = next(environments), next(environments)
    Deployment.objects.create(environment=low, trigger=Trigger.MANUAL)
    first = Deployment.objects.create(
        environment=high, trigger=Trigger.MANUAL, queued_since=timezone.now() - timedelta(hours=1)
    )
    taken: list[int] = []
    update = QuerySet.update

    def spy(rows: Any, **fields: Any) -> int:
        if "admitted_at" in fields:
            taken.append(rows.get().environment_id)
        return update(rows, **fields)

    monkeypatch.setattr(QuerySet, "update", spy)
    schedule.hand_out(server.pk)

    assert taken == [low.pk, high.pk]
    assert admitted()[0] == first.pk, "whose turn it is stays as it is"
    assert queues.jobs["deployments"][0] == ("run_deployment", (first.pk,))


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_that_makes_no_sense_is_refused(server: Server, limit: int) -> None:
    server.concurrent_builds = limit
    with pytest.raises(ValidationError):
        server.full_clean()
    if limit == 0:
        with pytest.raises(IntegrityError):
            server.save()


def test_a_crowd_that_pushes_again_and_again_lets_a_single_one_through_and_everybody_gets_there(
    environments: Iterator[Environment], server: Server
) -> None:
    """The slots come free one after the other, and each time everybody in the crowd has pushed again."""
    crowd = [next(environments) for _ in range(5)]
    alone = factories.environment(project=factories.project(name="Alone", slug="alone"), branch="", name="A", slug="a")
    for environment in crowd:
        request(environment)
    request(alone)
    done: list[int] = []
    for _ in range(8):
        deployment = Deployment.objects.get(pk=admitted()[0])
        begin(deployment, built=True)
        for environment in crowd:
            request(environment)
        end(deployment, server)
        done.append(deployment.environment_id)

    assert done.index(alone.pk) <= 2
    assert set(done) == {alone.pk, *(one.pk for one in crowd)}, "nobody pushes itself to the end of the line"
