"""The webhook from outside: who gets in, what a delivery causes, and what it leaves behind."""

import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
import time_machine
from django.core.cache import cache
from django.db import OperationalError, connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from deployments import hook, intake
from deployments.models import Delivery, Deployment
from deployments.states import Status, Trigger
from projects import hosts
from projects.hosts import Push, RefChange
from projects.models import Environment, Project
from tests import factories
from tests.conftest import Queues

OLD, NEW, NEWER = "1" * 40, "2" * 40, "3" * 40
ZERO = "0" * 40
NO_ENTRY = {"status": "refused", "reason": "The signature does not fit."}

GIT_HOST = Client()

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme(queues: Queues) -> Project:
    return factories.project(repository_url="https://git.example.com/acme/addons.git")


@pytest.fixture
def production(acme: Project) -> Environment:
    return factories.environment(project=acme)


def push_to(branch: str = "main", after: str = NEW, **changed: Any) -> dict[str, Any]:
    commit = {"id": after, "message": "Fix the tax\n\nLonger.", "author": {"name": "Ann"}}
    return {
        "ref": f"refs/heads/{branch}",
        "before": OLD,
        "after": after,
        "deleted": after == ZERO,
        "commits": [commit],
        "head_commit": commit,
        "pusher": {"name": "ann"},
        "repository": {"full_name": "acme/addons"},
    } | changed


def sign(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def send(
    project: Project | None,
    body: bytes,
    *,
    slug: str = "acme",
    host: str = "github",
    event: str = "push",
    delivery: str = "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    content_type: str = "application/json",
    signature: str | None = None,
    **headers: str,
) -> Any:
    """As GitHub would, signed with the project's secret unless told otherwise."""
    given_headers = {"x-github-event": event, "x-github-delivery": delivery, **headers}
    if signature is None and project is not None:
        signature = sign(body, project.webhook_secret)
    if signature is not None:
        given_headers["x-hub-signature-256"] = signature
    return GIT_HOST.generic("POST", f"/webhooks/{host}/{slug}/", body, content_type, headers=given_headers)


def push(project: Project, delivery: str = "d-1", **changed: Any) -> Any:
    return send(project, json.dumps(push_to(**changed)).encode(), delivery=delivery)


# What a push causes


def test_a_push_to_a_mapped_branch_queues_a_deployment_and_says_which(
    production: Environment, queues: Queues, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        answer = push(production.project)

    deployment = Deployment.objects.get()
    assert answer.status_code == 202
    assert answer.json() == {
        "status": "accepted",
        "reason": "Queued: acme/production.",
        "delivery": Delivery.objects.get().pk,
        "environments": [
            {
                "environment": "acme/production",
                "verdict": "accepted",
                "reason": "Queued.",
                "deployment": deployment.pk,
                "commit": NEW,
            }
        ],
    }
    assert (deployment.status, deployment.trigger, deployment.commit) == (Status.QUEUED, Trigger.PUSH, NEW)
    assert (deployment.requester, deployment.subject, deployment.author) == ("ann", "Fix the tax", "Ann")
    assert deployment.delivery == Delivery.objects.get()
    assert queues.jobs["deployments"] == [("run_deployment", (deployment.pk,))]


def test_the_delivery_is_kept_with_its_verdict_and_how_long_it_took(production: Environment) -> None:
    push(production.project)

    kept = Delivery.objects.get()
    assert (kept.verdict, kept.event, kept.delivery_id, kept.status_code) == ("accepted", "push", "d-1", 202)
    assert json.loads(kept.body)["after"] == NEW
    assert kept.remote_address == "127.0.0.1"
    assert 0 < kept.seconds < 1


def test_a_ping_is_answered_and_queues_nothing(production: Environment) -> None:
    answer = send(production.project, b'{"zen": "Keep it logically awesome.", "hook_id": 1}', event="ping")

    assert answer.status_code == 200
    assert answer.json()["reason"] == "The ping arrived, and its signature is right."
    assert not Deployment.objects.exists()


def test_a_ping_with_a_wrong_signature_is_refused(production: Environment) -> None:
    assert send(production.project, b"{}", event="ping", signature=sign(b"{}", "guess")).status_code == 401


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"branch": "feature/x"}, "No environment of Acme is mapped to the branch feature/x."),
        ({"ref": "refs/tags/v1"}, "No rule of Acme deploys the tag v1."),
        ({"after": ZERO}, "A ref was deleted; that deploys nothing."),
        ({"ref": "refs/notes/x"}, "Only branches and tags deploy; this push moved refs/notes/x."),
    ],
)
def test_a_push_that_nobody_wants_is_a_polite_200_with_the_reason(
    production: Environment, changed: dict[str, Any], reason: str
) -> None:
    answer = push(production.project, **changed)

    assert (answer.status_code, answer.json()["status"], answer.json()["reason"]) == (200, "ignored", reason)
    assert not Deployment.objects.exists()


def test_an_event_that_is_no_push_is_a_polite_200(production: Environment) -> None:
    answer = send(production.project, b'{"action": "opened"}', event="issues")

    assert answer.status_code == 200
    assert answer.json()["reason"] == "Nothing to deploy in the event “issues”."


def test_branches_whose_last_part_is_mapped_are_other_branches(production: Environment) -> None:
    assert push(production.project, branch="feature/main").json()["status"] == "ignored"


def test_with_auto_deploy_off_the_commits_are_looked_up_as_pending(
    production: Environment, queues: Queues, django_capture_on_commit_callbacks: Any
) -> None:
    Project.objects.update(auto_deploy=False)

    with django_capture_on_commit_callbacks(execute=True):
        answer = push(production.project)

    assert answer.status_code == 200
    assert answer.json()["environments"][0]["reason"] == (
        "Auto-deploy of acme/production is off (from project Acme); the commits are shown as pending."
    )
    assert queues.jobs == {"slow": [("refresh_pending", (production.pk,))]}
    assert not Deployment.objects.exists()


def test_an_environment_switches_on_again_what_its_project_switched_off(production: Environment) -> None:
    Project.objects.update(auto_deploy=False)
    Environment.objects.update(auto_deploy=True)

    assert push(production.project).status_code == 202


def test_a_project_without_a_repository_says_so_politely(production: Environment) -> None:
    Project.objects.update(repository_url="")

    answer = push(production.project)

    assert answer.status_code == 200
    assert answer.json()["reason"] == "Acme has no git repository, so there is no “main” to deploy."


@pytest.mark.parametrize(
    "repository",
    [
        {"full_name": "evil/addons"},
        {"full_name": "acme/other", "clone_url": "https://git.example.com/acme/other.git"},
        {"clone_url": "https://git.example.com/evil/addons.git"},
    ],
)
def test_a_push_of_another_repository_deploys_nothing_and_says_why(
    production: Environment, repository: dict[str, Any]
) -> None:
    answer = push(production.project, repository=repository)

    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
    named = repository.get("full_name") or repository["clone_url"]
    assert answer.json()["reason"].startswith(
        f"The push is of the repository {named}; Acme is deployed from https://git.example.com/acme/addons.git."
    )
    assert not Deployment.objects.exists()


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://git.example.com/acme/addons.git", {"full_name": "Acme/Addons"}),
        ("https://git.example.com/Acme/addons", {"clone_url": "https://other.example.com/acme/addons.git"}),
        ("git@git.example.com:acme/addons.git", {"full_name": "acme/addons"}),
        ("ssh://git@git.example.com:2222/acme/addons.git/", {"full_name": "acme/addons"}),
        ("https://git.example.com/group/acme/addons.git", {"full_name": "group/acme/addons"}),
        ("https://git.example.com/addons.git", {"full_name": "acme/addons"}),
        ("https://git.example.com/acme/addons.git", {"full_name": "new/name", "ssh_url": "git@x:acme/addons.git"}),
        ("https://git.example.com/acme/addons.git", {}),
        ("https://git.example.com/acme/addons.git", "no mapping"),
        ("file:///srv/git/addons", {"full_name": "somebody/else"}),
    ],
)
def test_the_repository_is_recognised_by_its_path_on_whatever_host(
    production: Environment, url: str, repository: Any
) -> None:
    Project.objects.update(repository_url=url)

    assert push(production.project, repository=repository).status_code == 202


def test_an_environment_that_is_being_removed_is_left_alone(production: Environment) -> None:
    Environment.objects.update(removing_since=timezone.now())

    answer = push(production.project)

    assert (answer.status_code, answer.json()["reason"]) == (200, "Acme / Production is being removed.")


def test_every_environment_of_the_branch_is_deployed(production: Environment) -> None:
    factories.environment(name="Mirror", slug="mirror", branch="main")
    factories.environment(name="Staging", slug="staging", branch="staging")

    answer = push(production.project)

    assert answer.json()["reason"] == "Queued: acme/production, acme/mirror."
    assert {one.environment.slug for one in Deployment.objects.all()} == {"mirror", "production"}


def test_one_wanted_and_one_unwanted_environment_is_accepted_and_tells_both(production: Environment) -> None:
    factories.environment(name="Manual", slug="manual", branch="main", auto_deploy=False)

    answer = push(production.project)

    assert answer.status_code == 202
    assert {one["environment"]: one["verdict"] for one in answer.json()["environments"]} == {
        "acme/manual": "ignored",
        "acme/production": "accepted",
    }


class ManyRefs:
    """A git host that reports several refs at once, as Bitbucket does."""

    name, title = "github", "Many refs"

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Any) -> None:
        hosts.github.GitHub().verify(body, headers, secrets)  # type: ignore[attr-defined]

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        changes = (
            RefChange("refs/heads/main", "branch", "main", OLD, NEW, NEW),
            RefChange("refs/tags/v1", "tag", "v1", ZERO, NEW, NEW, created=True),
            RefChange("refs/heads/staging", "branch", "staging", OLD, NEWER, NEWER),
            RefChange("refs/heads/gone", "branch", "gone", OLD, ZERO, "", deleted=True),
        )
        return Push("mixed", "push", "many", changes=changes, pusher="ann")


def test_each_of_several_moved_refs_is_looked_at(production: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.environment(name="Staging", slug="staging", branch="staging")
    factories.environment(name="Gone", slug="gone", branch="gone")
    monkeypatch.setitem(hosts.HOSTS, "github", ManyRefs())

    answer = send(production.project, b"{}")

    assert answer.status_code == 202
    assert {one.environment.slug: one.commit for one in Deployment.objects.all()} == {
        "production": NEW,
        "staging": NEWER,
    }


def test_a_newer_push_replaces_the_queued_one(production: Environment) -> None:
    push(production.project)
    push(production.project, "d-2", after=NEWER)

    newer, older = Deployment.objects.all()
    assert (older.status, older.superseded_by, newer.status) == (Status.SUPERSEDED, newer, Status.QUEUED)
    outcome = Delivery.objects.get(delivery_id="d-2").outcome[0]
    assert outcome["supersedes"] == older.pk
    assert outcome["reason"] == f"Queued; it supersedes #{older.pk}, which waited."


def test_a_newer_push_leaves_the_running_one_alone(production: Environment) -> None:
    running = factories.deployment(production, commit=NEW, status=Status.RUNNING)

    push(production.project, after=NEWER)

    running.refresh_from_db()
    assert running.status == Status.RUNNING
    assert Deployment.objects.get(commit=NEWER).status == Status.QUEUED


def test_a_worker_that_takes_the_queued_one_at_that_instant_doesnt_lose_the_newer_push(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(production.project)
    queued = Deployment.objects.get()
    move = Deployment.move

    def taken_first(self: Deployment, to: Status, **fields: Any) -> None:
        Deployment.objects.filter(pk=self.pk).update(status=Status.RUNNING, token=F("token") + 1)
        move(self, to, **fields)

    monkeypatch.setattr(Deployment, "move", taken_first)
    answer = push(production.project, "d-2", after=NEWER)

    queued.refresh_from_db()
    assert (answer.status_code, queued.status) == (202, Status.RUNNING)
    assert Deployment.objects.get(commit=NEWER).status == Status.QUEUED


# Once only


def test_the_same_delivery_again_is_a_polite_duplicate(production: Environment) -> None:
    push(production.project)
    Deployment.objects.update(status=Status.FAILED)

    again = push(production.project)

    assert (again.status_code, again.json()["status"]) == (200, "duplicate")
    assert again.json()["reason"] == "Delivery d-1 was received before."
    assert Deployment.objects.count() == 1
    assert sorted(Delivery.objects.values_list("verdict", flat=True)) == ["accepted", "duplicate"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.QUEUED, "is queued there"),
        (Status.RUNNING, "is running there"),
        (Status.ROLLING_BACK, "is being rolled back there"),
    ],
)
def test_the_same_commit_under_a_fresh_id_is_a_duplicate_while_it_is_at_work(
    production: Environment, status: Status, words: str
) -> None:
    same = factories.deployment(production, commit=NEW, status=status)

    answer = push(production.project, "fresh")

    assert (answer.status_code, answer.json()["status"]) == (200, "duplicate")
    assert answer.json()["reason"] == f"{NEW[:10]} {words} as #{same.pk}."
    assert Deployment.objects.count() == 1


def test_what_is_live_already_is_not_deployed_again(production: Environment) -> None:
    live = factories.deployment(production, commit=NEW, live=True)

    answer = push(production.project, "fresh")

    assert answer.json()["reason"] == f"{NEW[:10]} is live there as #{live.pk}."
    assert Deployment.objects.count() == 1


def test_a_push_back_to_what_is_live_counts_when_something_else_is_on_its_way(production: Environment) -> None:
    factories.deployment(production, commit=NEW, live=True)
    factories.deployment(production, commit=NEWER, status=Status.QUEUED)

    assert push(production.project, "fresh").status_code == 202
    assert Deployment.objects.filter(status=Status.QUEUED).get().commit == NEW


@pytest.mark.parametrize("status", [Status.FAILED, Status.ROLLED_BACK, Status.CANCELLED])
def test_a_commit_that_did_not_make_it_may_be_pushed_again(production: Environment, status: Status) -> None:
    factories.deployment(production, commit=NEW, status=status)

    assert push(production.project, "fresh").status_code == 202


def test_one_environment_that_has_it_doesnt_keep_it_from_the_other(production: Environment) -> None:
    factories.deployment(production, commit=NEW, live=True)
    factories.environment(name="Mirror", slug="mirror", branch="main")

    answer = push(production.project)

    assert answer.status_code == 202
    assert Deployment.objects.filter(status=Status.QUEUED).get().environment.slug == "mirror"


def test_two_projects_may_get_the_same_delivery_id(production: Environment) -> None:
    other = factories.project(name="Beta", slug="beta", repository_url="https://git.example.com/beta.git")
    push(production.project)

    answer = send(other, json.dumps(push_to()).encode(), slug="beta", delivery="d-1")

    assert answer.json()["status"] == "ignored"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ids", [["same"] * 6, [f"fresh-{number}" for number in range(6)]])
def test_racing_duplicates_all_get_a_2xx_and_one_deployment(queues: Queues, ids: list[str]) -> None:
    project = factories.project(repository_url="https://git.example.com/acme/addons.git")
    factories.environment(project=project)
    answers: list[int] = []
    barrier = threading.Barrier(len(ids))

    def deliver(delivery: str) -> None:
        barrier.wait()
        try:
            answers.append(push(project, delivery).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=deliver, args=(delivery,)) for delivery in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [200] * 5 + [202]
    assert Deployment.objects.count() == 1


# Who gets in


def refused(answer: Any) -> bool:
    return answer.status_code == 401 and answer.json() == NO_ENTRY


BODY = json.dumps(push_to()).encode()


@pytest.mark.parametrize(
    "signature",
    [
        sign(BODY, "another secret"),
        sign(BODY + b" ", "x"),
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        "sha1=" + hmac.new(b"x", BODY, hashlib.sha1).hexdigest(),
        "ÿ" * 64,
    ],
)
def test_a_signature_that_doesnt_fit_is_refused_with_one_constant_answer(
    production: Environment, signature: str
) -> None:
    assert refused(send(production.project, BODY, signature=signature))
    assert not Deployment.objects.exists()


def test_a_missing_signature_and_an_unknown_project_or_host_get_the_same_answer(production: Environment) -> None:
    right = sign(BODY, production.project.webhook_secret)

    answers = [
        send(None, BODY),
        send(None, BODY, slug="nobody"),
        send(None, BODY, slug="nobody", signature=right),
        send(None, BODY, host="gitlab", signature=right),
    ]

    assert all(refused(answer) for answer in answers)
    assert len({answer.content for answer in answers}) == 1
    assert len({tuple(sorted(answer.headers)) for answer in answers}) == 1


def test_who_has_the_secret_is_told_that_the_address_is_for_another_host(production: Environment) -> None:
    project = production.project
    answer = send(project, BODY, host="gitlab", **{"x-gitlab-token": project.webhook_secret})

    assert answer.status_code == 401
    assert "This is the address for GitLab, and Acme is deployed from GitHub." in answer.json()["reason"]
    kept = Delivery.objects.get()
    assert (kept.project, kept.verdict, kept.reason) == (project, "refused", answer.json()["reason"])
    assert hook.health(project).label == "Not used yet", "the secret is right, and that hook is not this host's"
    assert not Deployment.objects.exists()


def test_only_the_sha1_signature_is_not_enough(production: Environment) -> None:
    sha1 = "sha1=" + hmac.new(production.project.webhook_secret.encode(), BODY, hashlib.sha1).hexdigest()

    assert refused(send(None, BODY, **{"x-hub-signature": sha1}))


def test_the_signature_of_another_body_is_refused(production: Environment) -> None:
    other = json.dumps(push_to(after=NEWER)).encode()

    assert refused(send(production.project, BODY, signature=sign(other, production.project.webhook_secret)))


def test_the_signature_is_of_the_bytes_not_of_the_content(production: Environment) -> None:
    pretty = json.dumps(push_to(), indent=4).encode()

    assert send(production.project, pretty).status_code == 202


@pytest.mark.parametrize("secret", ["", " "])
def test_without_a_secret_nobody_gets_in(production: Environment, secret: str) -> None:
    Project.objects.update(webhook_secret=secret)

    assert refused(send(production.project, BODY, signature=sign(BODY, secret)))


def test_another_projects_secret_is_no_entry(production: Environment) -> None:
    other = factories.project(name="Beta", slug="beta")

    assert refused(send(production.project, BODY, signature=sign(BODY, other.webhook_secret)))


def test_after_a_rotation_the_old_secret_is_accepted_for_the_grace_period_only(
    production: Environment, settings: Any
) -> None:
    settings.OCORE_SECRET_GRACE_SECONDS = 3600
    project = production.project
    old = project.webhook_secret
    with time_machine.travel("2026-03-01 12:00:00Z", tick=False):
        project.rotate_webhook_secret()

    def answer(minutes: int, secret: str) -> int:
        with time_machine.travel(datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=minutes)):
            return send(None, BODY, signature=sign(BODY, secret), delivery=f"{minutes} {secret}").status_code

    assert project.webhook_secret != old
    assert answer(1, project.webhook_secret) == 202
    assert answer(59, old) == 200
    assert answer(61, old) == 401
    assert answer(61, project.webhook_secret) == 200


def test_a_second_rotation_ends_the_first_secret(production: Environment) -> None:
    project = production.project
    first = project.webhook_secret
    project.rotate_webhook_secret()
    second = project.webhook_secret
    project.rotate_webhook_secret()

    assert refused(send(None, BODY, signature=sign(BODY, first)))
    assert send(None, BODY, signature=sign(BODY, second)).status_code == 202


def test_a_refused_call_cannot_occupy_the_id_of_a_real_one(production: Environment) -> None:
    send(production.project, BODY, signature=sign(BODY, "guess"), delivery="d-1")

    assert push(production.project, "d-1").status_code == 202


def test_a_refused_call_leaves_its_reason_but_neither_body_nor_much_else(production: Environment) -> None:
    send(production.project, BODY, signature="sha256=" + "0" * 64, **{f"x-{n}": "y" * 5000 for n in range(60)})

    kept = Delivery.objects.get()
    assert (kept.verdict, kept.body, kept.status_code) == ("refused", "", 401)
    assert "doesn't match" in kept.reason
    assert kept.headers["X-Github-Event"] == "push"
    assert len(json.dumps(kept.headers)) < 1000


def test_strangers_fill_a_project_with_so_many_refused_calls_a_minute_and_no_more(
    production: Environment, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.OCORE_REFUSED_PER_MINUTE = 3
    cache.clear()
    other = factories.project(name="Beta", slug="beta")

    with time_machine.travel("2026-03-01 12:00:00Z", tick=False):
        answers = [send(None, BODY) for _ in range(5)]
        send(None, BODY, slug="beta")
    with time_machine.travel("2026-03-01 12:01:01Z", tick=False):
        answers.append(send(None, BODY))
        accepted = push(production.project)

    assert all(refused(answer) for answer in answers)
    assert Delivery.objects.filter(project=production.project, verdict="refused").count() == 3 + 1
    assert Delivery.objects.filter(project=other).count() == 1
    assert accepted.status_code == 202
    assert [record.message for record in caplog.records if "not all are kept" in record.message] == [
        "Refused calls for Acme come so often that not all are kept. "
        "The latest: the signature (X-Hub-Signature-256) is missing"
    ]


def test_a_refused_call_asks_the_database_the_same_whether_the_project_exists_or_not(
    production: Environment, settings: Any
) -> None:
    settings.OCORE_REFUSED_PER_MINUTE = 1

    def statements(slug: str) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert refused(send(None, BODY, slug=slug))
        shapes = [re.sub(r"'[^']*'|\b\d+\b", "?", query["sql"])[:60] for query in captured.captured_queries]
        return [re.sub(r"SAVEPOINT.*", "SAVEPOINT", shape.removeprefix("RELEASE ")) for shape in shapes]

    kept, too_many, unknown = statements("acme"), statements("acme"), statements("nobody")

    assert any("INSERT" in statement for statement in kept)
    assert too_many == unknown
    assert [one for one in unknown if "SAVEPOINT" not in one] == [one for one in kept if "SAVEPOINT" not in one]
    assert Delivery.objects.count() == 1


def test_calls_for_unknown_projects_leave_nothing(acme: Project) -> None:
    send(None, BODY, slug="nobody")

    assert not Delivery.objects.exists()


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete", "options"])
def test_only_post_is_taken(production: Environment, method: str) -> None:
    answer = getattr(Client(), method)("/webhooks/github/acme/?ref=main")

    assert (answer.status_code, answer["Allow"]) == (405, "POST")


def test_a_form_is_read_and_its_raw_bytes_are_what_is_signed(production: Environment) -> None:
    form = b"payload=" + quote_plus(BODY.decode()).encode()

    accepted = send(production.project, form, content_type="application/x-www-form-urlencoded")
    signed_inside = sign(BODY, production.project.webhook_secret)

    assert accepted.status_code == 202
    assert refused(
        send(None, form, content_type="application/x-www-form-urlencoded", signature=signed_inside, delivery="d-2")
    )


@pytest.mark.parametrize("length", [str(26 * 1024 * 1024), "9" * 5000, "-1", "²", "many"])
def test_the_announced_length_is_refused_before_anything_is_read(production: Environment, length: str) -> None:
    class Untouched:
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

        readline = read

    answer = Client().generic("POST", "/webhooks/github/acme/", **{"wsgi.input": Untouched(), "CONTENT_LENGTH": length})

    assert answer.status_code == 413
    assert not Delivery.objects.exists()


def test_a_body_as_large_as_allowed_is_taken(production: Environment, settings: Any) -> None:
    body = json.dumps(push_to(padding="x" * 3_000_000)).encode()
    settings.OCORE_WEBHOOK_MAX_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = len(body)

    assert send(production.project, body).status_code == 202
    assert send(production.project, body + b" ").status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff\xfe",
        b"null",
        b"[]",
        b'{"ref": 1}',
        b"[" * 100_000,
        b'{"after": ' + b"9" * 5000 + b"}",
        b'{"ref": NaN}',
        json.dumps(push_to(ref="refs/heads/\x00")).encode(),
        json.dumps(push_to(ref="refs/heads/\ud800")).encode(),
        json.dumps(push_to(after="--upload-pack=x")).encode(),
    ],
)
def test_signed_nonsense_is_a_400_that_is_kept(production: Environment, body: bytes) -> None:
    answer = send(production.project, body)

    assert (answer.status_code, answer.json()["status"]) == (400, "unreadable")
    assert Delivery.objects.get().verdict == "unreadable"
    assert not Deployment.objects.exists()


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    body=st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(sorted(push_to())), SCRAPS).map(
        lambda changed: json.dumps(push_to() | changed).encode()
    ),
    event=st.sampled_from(["push", "ping", "create", "delete", "", "x" * 300]),
    signed=st.booleans(),
    content_type=st.sampled_from(
        ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=x", ""]
    ),
)
def test_no_body_is_ever_a_server_error(
    production: Environment, body: bytes, event: str, signed: bool, content_type: str
) -> None:
    project = production.project
    signature = sign(body, project.webhook_secret if signed else "guess")

    answer = send(project, body, event=event, content_type=content_type, signature=signature, delivery="")

    assert answer.status_code in ((200, 202, 400) if signed else (401,))
    assert json.loads(answer.content)["reason"]


# What stays, and how long it takes


def test_secrets_are_in_neither_the_stored_headers_nor_the_body(production: Environment) -> None:
    project = production.project
    body = json.dumps(push_to(secret=project.webhook_secret, hook={"config": {"token": "hunter22"}})).encode()

    send(
        project,
        body,
        cookie="sessionid=canary-1",
        authorization="Bearer canary-2",
        **{"x-gitlab-token": "canary-3", "referer": "https://user:canary-4@git.example.com/"},
    )

    kept = Delivery.objects.get()
    stored = json.dumps([kept.headers, kept.body, kept.reason, kept.outcome])
    for secret in (project.webhook_secret, "hunter22", "canary", sign(body, project.webhook_secret)):
        assert secret not in stored
    assert kept.headers["X-Github-Event"] == "push"


def test_without_redis_a_push_is_still_accepted_and_stays_queued(
    production: Environment, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def down(name: str) -> None:
        raise RedisConnectionError("Connection refused")

    monkeypatch.setattr("django_rq.get_queue", down)

    with django_capture_on_commit_callbacks(execute=True):
        answer = push(production.project)

    assert answer.status_code == 202
    assert Deployment.objects.get().status == Status.QUEUED


def test_without_redis_pending_commits_wait_for_the_next_look(
    production: Environment, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    Project.objects.update(auto_deploy=False)

    def down(name: str) -> None:
        raise RedisConnectionError("Connection refused")

    monkeypatch.setattr("django_rq.get_queue", down)

    with django_capture_on_commit_callbacks(execute=True):
        assert push(production.project).status_code == 200


def test_what_goes_wrong_after_a_push_was_stored_is_no_error_to_the_git_host(
    production: Environment, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def locked(server: int) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr("deployments.schedule.hand_out", locked)

    with django_capture_on_commit_callbacks(execute=True):
        answer = push(production.project)

    assert answer.status_code == 202
    assert Deployment.objects.get().status == Status.QUEUED, "the clock hands it out"


def test_without_our_own_database_a_git_host_is_told_to_come_again(
    production: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(*args: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr("deployments.intake.receive", locked)

    answer = push(production.project)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert "stored" in answer.json()["reason"]
    assert "was not stored" in caplog.text


def _queries(project: Project, delivery: str, **changed: Any) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert push(project, delivery, **changed).status_code == 202
    return len(captured)


def test_the_number_of_queries_is_small_and_does_not_grow(production: Environment) -> None:
    first = _queries(production.project, "first")
    Deployment.objects.update(status=Status.SUCCEEDED)
    for number in range(30):
        factories.deployment(production, commit=f"{number:040d}")
        factories.environment(name=f"Other {number}", slug=f"other-{number}", branch="other")
    commits = [{"id": f"{number:040d}", "message": "x", "author": {"name": "y"}} for number in range(500)]

    later = _queries(production.project, "later", after=NEWER, commits=commits)

    assert later == first <= 17


def test_threads_write_in_turn_and_wait_for_it_only_so_long(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with intake._in_turn() as turn:
        assert intake._writing.locked() == (connection.vendor == "sqlite"), "PostgreSQL lets several write at once"
        turn.close()
        assert not intake._writing.locked(), "before Redis is told"
    monkeypatch.setattr(intake, "TURN_SECONDS", 0.01)
    with intake._writing:
        assert push(production.project, "while another writes for long").status_code == 202


def test_a_push_is_answered_within_milliseconds(production: Environment) -> None:
    push(production.project, "warm")
    times = []
    for number in range(9):
        started = time.perf_counter()
        push(production.project, f"d-{number}", after=f"{number:040x}"[::-1].replace("0", "a"))
        times.append(time.perf_counter() - started)

    assert min(times) < 0.1  # the others met a busy machine


# CSRF


def _views(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for one in resolver.url_patterns:
        path = prefix + str(one.pattern)
        if isinstance(one, URLPattern):
            yield path, one.callback
        else:
            yield from _views(one, path)


def test_only_the_webhook_and_the_api_which_read_no_cookie_have_no_csrf_protection() -> None:
    views = dict(_views(get_resolver()))

    exempt = {path for path, view in views.items() if getattr(view, "csrf_exempt", False)}

    assert len(views) > 20
    assert {path for path in exempt if not path.startswith("api/v1/")} == {"webhooks/<slug:host>/<slug:slug>/"}


def test_other_posts_without_a_token_are_refused(production: Environment) -> None:
    strict = Client(enforce_csrf_checks=True)

    assert strict.post("/admin/login/", {"username": "x"}).status_code == 403
    assert strict.post("/webhooks/github/acme/", b"x", content_type="application/json").status_code == 401


def test_the_webhook_neither_reads_nor_sets_a_cookie(production: Environment) -> None:
    answer = push(production.project)

    assert not answer.cookies
    assert "Vary" not in answer.headers
