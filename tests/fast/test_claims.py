"""Who may act in an environment: one list of conditions for everybody, and a hold that is over when it has lapsed."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models import QuerySet
from django.utils import timezone

from deployments import at_work, claims, control, forget, keeper, pipeline, recovery, removal, services
from deployments.claims import claimed
from deployments.models import Deployment
from deployments.run import claim as run_claim
from deployments.services import NotPossible
from deployments.states import Status
from instances import doors, incidents
from instances.models import Door, Incident, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import DatabaseError, EdgeError, ServerUnreachable
from instances.runtimes.simulated import Faults
from ocore import waiting
from projects.models import Environment
from tests import factories
from tests.acme import ADA
from tests.conftest import Queues
from tests.fast.test_keeper import go_live

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture
def environment(db: None, queues: Queues) -> Environment:
    return factories.environment(branch="")


def lapse(claim: claims.Claim) -> None:
    """Its holder stood still for longer than it lasts."""
    claim.until -= 2 * claim.lasting
    Environment.objects.filter(pk=claim.environment.pk).update(busy_until=claim.until)


def removing() -> None:
    Environment.objects.update(removing_since=timezone.now())


def test_a_claim_that_has_lapsed_is_never_renewed(environment: Environment) -> None:
    with claimed(environment.pk, "keeping it", MINUTE) as claim:
        claim.check()
        lapse(claim)
        with pytest.raises(NotPossible, match="took too long"):
            claim.check()


def test_a_deployment_that_begins_ends_a_lapsed_claim_for_good(environment: Environment) -> None:
    queued = factories.deployment(environment, status=Status.QUEUED, admitted_at=timezone.now())
    with claimed(environment.pk, "keeping it", MINUTE) as claim:
        lapse(claim)
        run_claim(queued.pk)

        environment.refresh_from_db()
        assert (environment.busy_with, environment.busy_until, environment.busy_by) == ("", None, "")
        with pytest.raises(NotPossible):
            claim.check()


def test_whoever_waits_under_a_claim_keeps_it(environment: Environment) -> None:
    with claimed(environment.pk, "keeping it", MINUTE) as claim:
        claim.until = timezone.now() + MINUTE / 2
        Environment.objects.update(busy_until=claim.until)
        waiting.pulse()
        environment.refresh_from_db()
        assert environment.busy_until
        assert environment.busy_until - timezone.now() > MINUTE * 0.9


OCCUPIED: dict[str, Callable[[Environment], Any]] = {
    "deployment": lambda one: factories.deployment(one, status=Status.RUNNING, heartbeat_at=timezone.now()),
    "claim": lambda one: Environment.objects.update(busy_with="restart", busy_until=timezone.now() + MINUTE),
    "removal": lambda one: removing(),
    "door": lambda one: Door.objects.create(environment=one, server=one.server, holder="ada", closed_at=timezone.now()),
}


@pytest.mark.parametrize("why", ["", *OCCUPIED])
@pytest.mark.parametrize("behind_doors", [False, True])
def test_the_rows_and_the_words_say_the_same_of_who_is_at_work(
    why: str, behind_doors: bool, environment: Environment
) -> None:
    if why:
        OCCUPIED[why](environment)
    environment.refresh_from_db()

    said = at_work.hindrance(environment, behind_doors=behind_doors)
    rows = Environment.objects.filter(at_work.occupied(behind_doors=behind_doors))

    expected = bool(why) and not (why == "door" and behind_doors)
    assert (said is not None, rows.exists()) == (expected, expected)


def test_nothing_begins_in_an_environment_that_is_being_removed(environment: Environment) -> None:
    queued = factories.deployment(environment, status=Status.QUEUED, admitted_at=timezone.now())
    failed = factories.deployment(environment, status=Status.ROLLBACK_FAILED)
    removing()

    with pytest.raises(NotPossible, match="being removed"), claimed(environment.pk, "restart", MINUTE):
        pass
    with pytest.raises(NotPossible, match="being removed"):
        services.retry_rollback(failed, ADA)
    with pytest.raises(NotPossible, match="being removed"):
        forget.start_over(environment, ADA)
    with pytest.raises(pipeline.Busy, match="being removed"):
        run_claim(queued.pk)


def test_a_claim_locks_its_environment_and_not_its_server(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that locks rows would wait here for every other environment of the server."""
    locked: list[Any] = []
    lock = QuerySet.select_for_update

    def spy(rows: Any, **options: Any) -> Any:
        locked.append(options.get("of"))
        return lock(rows, **options)

    monkeypatch.setattr(QuerySet, "select_for_update", spy)
    with claimed(environment.pk, "keeping it", MINUTE):
        pass
    assert locked == [("self",)]


def test_a_removal_holds_its_environment_and_gives_up_what_it_has_lost(
    environment: Environment, faults: Faults
) -> None:
    removing()
    seen: list[str] = []

    def look(*_: Any) -> None:
        environment.refresh_from_db()
        seen.append(environment.busy_with)
        removal.carry_out(environment.pk)  # the clock's, beside it
        Environment.objects.update(busy_with="somebody else")

    faults.raised["databases.drop"] = look
    removal.carry_out(environment.pk)

    environment.refresh_from_db()
    assert seen == ["its removal"], "the second one left it alone"
    assert [call for call in faults.calls if call.startswith(("databases", "filestores"))] == [
        f"databases.drop {environment.database}"
    ]
    assert (environment.busy_with, environment.removal_problem) == ("somebody else", ""), "the clock tries again"
    faults.clear()
    Environment.objects.update(busy_with="", busy_until=None)

    removal.carry_out(environment.pk)
    assert not Environment.objects.exists()


@pytest.fixture
def live(environment: Environment, faults: Faults) -> Instance:
    made = go_live(environment)
    faults.calls.clear()
    return made


def begin_a_deployment(instance: Instance) -> None:
    """While somebody stood still for longer than their claim lasts, a push closed the door."""
    environment = instance.environment
    past = timezone.now() - MINUTE
    Environment.objects.update(busy_until=past)
    deployment = factories.deployment(environment, status=Status.QUEUED, admitted_at=timezone.now())
    run_claim(deployment.pk)
    doors.close(environment, runtime_for(environment.server), holder=str(deployment))


@pytest.mark.parametrize("verb", ["containers.stop", "containers.start"])
def test_a_restart_that_stood_still_does_nothing_beside_the_deployment_that_began(
    verb: str, live: Instance, faults: Faults
) -> None:
    def hang(*_: Any) -> None:
        faults.raised.clear()
        begin_a_deployment(live)
        faults.calls.clear()

    faults.raised[verb] = hang
    live.become(Instance.State.RESTARTING, timezone.now())
    control.carry_out(live.pk, "restart")

    acts = [call for call in faults.calls if call.startswith(("containers", "edge")) and ".exec" not in call]
    assert acts == []
    live.refresh_from_db()
    assert live.state == Instance.State.RESTARTING, "the deployment, or the clock, says what it has become"
    assert Door.objects.get().holder == str(Deployment.objects.get(status=Status.RUNNING))


def test_a_keeper_that_stood_still_starts_nothing_behind_the_door_of_the_deployment_that_began(
    live: Instance, faults: Faults
) -> None:
    runtime_for(live.environment.server).containers.remove(live.container)
    faults.calls.clear()

    def hang(*_: Any) -> None:
        faults.raised.clear()
        begin_a_deployment(live)
        faults.calls.clear()

    faults.raised["containers.create"] = hang
    keeper.keep()

    assert not [call for call in faults.calls if call.startswith(("containers.start", "containers.join_edge"))]


def test_the_clock_opens_no_door_where_somebody_has_just_begun(
    live: Instance, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen before the claim is no reason to act."""
    doors.close(live.environment, runtime_for(live.environment.server), holder=f"restart of {live}")
    Instance.objects.update(state=Instance.State.RESTARTING, state_since=timezone.now() - timedelta(hours=1))
    look = at_work.hindrance

    def then_somebody_begins(environment: Environment, **despite: bool) -> Any:
        found = look(environment, **despite)
        Environment.objects.update(busy_with=f"restart of {live}", busy_until=timezone.now() + MINUTE)
        return found

    monkeypatch.setattr(at_work, "hindrance", then_somebody_begins)
    faults.calls.clear()
    control.heal()

    assert not [call for call in faults.calls if call.startswith("edge.open")]
    assert Door.objects.exists()


def test_while_the_clock_opens_a_door_nobody_else_begins(live: Instance, faults: Faults) -> None:
    doors.close(live.environment, runtime_for(live.environment.server), holder=f"restart of {live}")
    Instance.objects.update(state=Instance.State.RESTARTING, state_since=timezone.now() - timedelta(hours=1))
    queued = factories.deployment(live.environment, status=Status.QUEUED, admitted_at=timezone.now())
    refused: list[str] = []

    def begin(*_: Any) -> None:
        with pytest.raises(pipeline.Busy) as said:
            run_claim(queued.pk)
        refused.append(str(said.value))

    faults.raised["edge.open"] = begin
    control.heal()

    assert len(refused) == 1
    live.refresh_from_db()
    assert live.state == Instance.State.RUNNING
    assert not Door.objects.exists()
    assert not Environment.objects.get().busy_with


def test_what_a_dead_worker_was_asked_for_is_known_until_its_server_answers(live: Instance, faults: Faults) -> None:
    runtime_for(live.environment.server).containers.stop(live.container)
    Environment.objects.update(busy_with=f"stop of {live}", busy_until=timezone.now() - MINUTE)
    Instance.objects.update(state=Instance.State.RESTARTING, state_since=timezone.now() - timedelta(hours=1))
    faults.raised["edge.open"] = EdgeError("The edge does not answer.")
    control.heal()
    faults.clear()
    control.heal()

    live.refresh_from_db()
    assert live.state == Instance.State.STOPPED


def test_what_was_asked_by_hand_and_lost_with_redis_is_over_within_seconds(live: Instance, queues: Queues) -> None:
    control.request(live, "restart")
    Instance.objects.update(state_since=timezone.now() - timedelta(seconds=30))
    control.heal()
    live.refresh_from_db()
    assert live.state == Instance.State.RESTARTING, "it waits for a worker"

    queues.jobs.clear()
    queues.started.append(f"control_instance-{live.pk}-4711")
    control.heal()
    live.refresh_from_db()
    assert (live.state, live.problem) == (Instance.State.RESTARTING, ""), "a worker has taken it, and claims it next"

    queues.started.clear()
    Instance.objects.update(state_since=timezone.now())
    control.heal()
    live.refresh_from_db()
    assert live.state == Instance.State.RESTARTING, "a worker may just have taken it"

    Instance.objects.update(state_since=timezone.now() - timedelta(seconds=30))
    control.heal()
    live.refresh_from_db()
    assert live.state == Instance.State.RUNNING


def test_a_removal_that_nobody_is_at_goes_on_within_seconds(environment: Environment) -> None:
    Environment.objects.update(removing_since=timezone.now() - timedelta(seconds=30))
    assert recovery.unremoved() == [environment.pk]
    with claimed(environment.pk, "its removal", MINUTE, being_removed=True):
        assert recovery.unremoved() == []
    removing()
    assert recovery.unremoved() == [], "a worker may just have taken it"
    Environment.objects.update(busy_with="its removal", busy_until=timezone.now() - MINUTE)
    assert recovery.unremoved() == [environment.pk], "that worker has died"


def test_a_removal_goes_on_by_itself_once_its_silent_server_answers(
    environment: Environment, faults: Faults, queues: Queues
) -> None:
    Environment.objects.update(removing_since=timezone.now() - timedelta(seconds=30))
    faults.raised["databases.drop"] = ServerUnreachable("The engine does not answer.")
    removal.carry_out(environment.pk)
    environment.refresh_from_db()
    assert environment.removal_problem == "The engine does not answer.", "a person sees why it takes so long"
    recovery.reconcile()
    assert "slow" not in queues.jobs, "not at once again"

    Environment.objects.update(removal_due=timezone.now() - timedelta(seconds=1))
    silent = incidents.notice(Incident.Part.ENGINE, environment.server, "The engine does not answer.")
    assert recovery.unremoved() == [], "nobody but the keeper asks it"
    incidents.end(silent)
    faults.clear()
    recovery.reconcile()
    queues.run_all()
    assert not Environment.objects.exists()


def test_a_removal_that_something_else_stopped_waits_for_a_person(environment: Environment, faults: Faults) -> None:
    removing()
    Environment.objects.update(removal_due=timezone.now() - timedelta(seconds=1))
    faults.raised["databases.drop"] = DatabaseError("It belongs to another role.")
    removal.carry_out(environment.pk)
    assert recovery.unremoved() == []

    faults.clear()
    removal.request(environment, ADA)
    environment.refresh_from_db()
    assert environment.removal_problem == ""
    removal.carry_out(environment.pk)
    assert not Environment.objects.exists()


def test_a_removal_that_meets_a_bug_is_loud_and_waits_for_a_person(
    environment: Environment, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    Environment.objects.update(removing_since=timezone.now() - timedelta(seconds=30))
    faults.raised["databases.drop"] = KeyError("facts")
    with pytest.raises(KeyError):
        removal.carry_out(environment.pk)

    environment.refresh_from_db()
    assert "KeyError: 'facts' This is a defect of oCore" in environment.removal_problem
    assert "CRITICAL" in caplog.text
    assert (environment.busy_with, recovery.unremoved()) == ("", [])


def test_a_removal_goes_on_after_an_outage_of_the_portals_database(environment: Environment, faults: Faults) -> None:
    Environment.objects.update(removing_since=timezone.now() - timedelta(seconds=30))
    faults.raised["databases.drop"] = OperationalError("the database system is shutting down")
    with pytest.raises(OperationalError):
        removal.carry_out(environment.pk)
    assert recovery.unremoved() == [environment.pk]


@pytest.mark.django_db(transaction=True)
def test_what_is_done_side_by_side_under_a_claim_keeps_it(environment: Environment) -> None:
    with claimed(environment.pk, "many things at once", timedelta(seconds=60)) as claim:
        waiting.together(*[lambda: [claim.check() for _ in range(20)]] * 4)
