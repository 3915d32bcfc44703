"""A locked environment: no deployment begins there, whoever asks, and nothing else changes."""

import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import at_work, locking, locks, pipeline, recovery, services
from deployments.models import Deployment, Lock
from deployments.schedule import why_waiting
from deployments.services import NotPossible
from deployments.states import Status, Trigger
from projects.models import Environment
from tests import factories
from tests.acme import ADA
from tests.conftest import Queues

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def plain(queues: Queues) -> Environment:
    """Of a project without a repository."""
    return factories.environment(branch="")


def request(environment: Environment, trigger: Trigger = Trigger.MANUAL) -> Deployment:
    return services.request_deployment(environment, trigger, ADA)


def test_what_a_cancelled_one_had_superseded_is_seen_as_pending(plain: Environment, queues: Queues) -> None:
    locking.lock(plain, ADA, "Month-end closing")
    request(plain)
    services.cancel(request(plain), ADA)
    assert ("refresh_pending", (plain.pk,)) in queues.jobs["slow"]


def test_nobody_waits_for_the_image_that_it_builds_itself(plain: Environment) -> None:
    waiting = request(plain)
    Deployment.objects.filter(pk=waiting.pk).update(admitted_at=timezone.now(), commit="c" * 40)
    waiting.admitted_at, waiting.commit = None, "c" * 40
    assert "image" not in why_waiting(waiting)


def test_what_is_asked_for_waits_until_it_is_unlocked_and_begins_then(plain: Environment, queues: Queues) -> None:
    locking.lock(plain, ADA, "  Month-end\n closing ")
    waiting = request(plain)
    recovery.reconcile()

    assert queues.jobs.get("deployments", []) == []
    assert "is locked by ada since" in why_waiting(waiting)
    assert why_waiting(waiting).endswith("Month-end closing")
    locking.unlock(plain, ADA)
    assert queues.jobs["deployments"] == [("run_deployment", (waiting.pk,))]


def test_one_that_had_its_turn_already_gives_it_back(plain: Environment, queues: Queues) -> None:
    deployment = request(plain)
    locking.lock(plain, ADA, "Wait")
    with pytest.raises(pipeline.Busy, match="is locked by ada"):
        pipeline.run(deployment.pk)
    deployment.refresh_from_db()
    assert (deployment.status, deployment.admitted_at) == (Status.QUEUED, None)


def test_another_environment_of_the_server_does_not_wait(plain: Environment, queues: Queues) -> None:
    locking.lock(plain, ADA, "Wait")
    other = request(factories.environment(name="Staging", slug="staging", branch=""))
    assert queues.jobs["deployments"] == [("run_deployment", (other.pk,))]
    assert at_work.hindrance(plain) is None, "restarting what runs is no deployment"


def test_there_is_one_lock_and_it_stays_on_record(plain: Environment) -> None:
    locking.lock(plain, ADA, "First")
    with pytest.raises(NotPossible, match=r"is locked already, by ada since .*: First"):
        locking.lock(plain, ADA, "Second")
    with pytest.raises(IntegrityError), transaction.atomic():
        Lock.objects.create(environment=plain, reason="x", locked_by="x", locked_at="2026-01-01T00:00Z")
    locking.unlock(plain, services.Who("bob"))
    with pytest.raises(NotPossible, match="is not locked"):
        locking.unlock(plain, ADA)
    assert list(Lock.objects.values_list("reason", "locked_by", "unlocked_by")) == [("First", "ada", "bob")]


@pytest.mark.parametrize(("reason", "told"), [(" \n", "nobody would know why"), ("x" * 501, "501 characters")])
def test_a_lock_without_a_reason_that_fits_is_none(plain: Environment, reason: str, told: str) -> None:
    with pytest.raises(NotPossible, match=told):
        locking.lock(plain, ADA, reason)
    Environment.objects.update(removing_since="2026-01-01T00:00Z")
    with pytest.raises(NotPossible, match="being removed"):
        locking.lock(plain, ADA, "Fine")


def test_the_environments_page_locks_and_unlocks_for_those_who_may(plain: Environment) -> None:
    user = User.objects.create_user("eva", is_staff=True)
    view, deploy, lock = (Permission.objects.get(codename=f"{name}_environment") for name in ("view", "deploy", "lock"))
    user.user_permissions.set([view, deploy])
    browser = Client()
    browser.force_login(user)
    page, act, end = (
        reverse(f"admin:projects_environment_{name}", args=[plain.pk]) for name in ("change", "lock", "unlock")
    )
    assert browser.post(act, {"reason": "x"}).status_code == 403
    assert "Lock…" not in browser.get(page).content.decode()
    user.user_permissions.add(lock)
    assert "Lock…" in browser.get(page).content.decode()
    assert "whoever asks" in browser.get(act).content.decode()
    assert "This field is required" in browser.post(act, {"reason": " "}).content.decode()
    told = browser.post(act, {"reason": "<b>Closing</b>"}, follow=True).content.decode()
    assert "“&lt;b&gt;Closing&lt;/b&gt;”" in told
    assert "Lock…" not in told
    queued = browser.post(reverse("admin:projects_environment_deploy", args=[plain.pk]), follow=True).content.decode()
    assert "is queued. It waits: Acme / Production is locked by eva" in queued
    assert browser.get(end).status_code == 405
    assert "is unlocked" in browser.post(end, follow=True).content.decode()
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")][::2] == [
        "Locked: <b>Closing</b>",
        "Unlocked.",
    ]


def test_the_command_line_locks_tells_and_unlocks(plain: Environment) -> None:
    def run(*argv: str) -> str:
        out = StringIO()
        call_command(*argv, stdout=out)
        return out.getvalue()

    assert "To unlock it: ./manage.py lock acme/production --end" in run("lock", plain.path, "--reason", "Closing")
    assert "It waits: Acme / Production is locked by" in run("deploy", plain.path)
    assert "Locked    by " in run("status", plain.path)
    assert json.loads(run("status", plain.path, "--json"))["lock"]["reason"] == "Closing"
    assert "is unlocked" in run("lock", plain.path, "--end")
    assert locks.current(plain) is None
    with pytest.raises(CommandError, match="is not locked"):
        run("lock", plain.path, "--end")


def test_a_push_to_a_locked_environment_waits_in_line(plain: Environment, queues: Queues) -> None:
    locking.lock(plain, ADA, "Closing")
    first: Any = request(plain, Trigger.PUSH)
    second = request(plain, Trigger.PUSH)
    first.refresh_from_db()
    assert (first.status, second.status) == (Status.SUPERSEDED, Status.QUEUED)
    assert queues.jobs == {}
