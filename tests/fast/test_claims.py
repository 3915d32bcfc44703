"""Who may act in an environment: one list of conditions for everybody, and a hold that is over when it has lapsed."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import QuerySet
from django.utils import timezone

from deployments import at_work, claims, forget, pipeline, removal, services
from deployments.claims import claimed
from deployments.run import claim as run_claim
from deployments.services import NotPossible
from deployments.states import Status
from instances.models import Door
from instances.runtimes.simulated import Faults
from ocore import waiting
from projects.models import Environment
from tests import factories
from tests.acme import ADA
from tests.conftest import Queues

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
