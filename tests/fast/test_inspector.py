"""The delivery inspector: what came, replayed; a test delivery; the health of the hook; and the page that explains."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from deployments import hook, intake
from deployments.models import Delivery, Deployment
from deployments.states import Status
from projects.hosts import HOSTS
from projects.hosts.proof import signing_token
from projects.models import BranchRule, Environment, Project
from tests import factories
from tests.conftest import Queues
from tests.fast.test_webhook import BODY, NEW, NEWER, push, send, sign

pytestmark = pytest.mark.django_db


@pytest.fixture
def production(queues: Queues) -> Environment:
    project = factories.project(repository_url="https://git.example.com/acme/addons.git")
    return factories.environment(project=project)


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def url(row: Any, act: str = "change") -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{act}", args=[row.pk])


def text_of(answer: Any) -> str:
    return str(answer.content.decode())


# Replay


def test_a_replay_decides_by_todays_branches_and_is_marked_as_one(production: Environment, root: Client) -> None:
    push(production.project, branch="next")
    first = Delivery.objects.get()
    Environment.objects.update(branch="next")

    page = text_of(root.post(url(first, "replay"), follow=True))

    again = Delivery.objects.exclude(pk=first.pk).get()
    assert (first.verdict, again.verdict) == ("ignored", "accepted")
    assert (again.origin, again.replay_of, again.sent_by) == ("replay", first, "root")
    assert Deployment.objects.get().delivery == again
    assert "Replayed by hand: root" in page
    assert LogEntry.objects.filter(change_message__contains="Replayed").exists()


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_a_replay_does_nothing_twice(production: Environment, root: Client, status: Status) -> None:
    push(production.project)
    Deployment.objects.update(status=status)

    for _ in range(2):
        root.post(url(Delivery.objects.earliest("pk"), "replay"))

    assert Deployment.objects.count() == 1
    assert list(Delivery.objects.filter(origin="replay").values_list("verdict", flat=True)) == ["duplicate"] * 2


def test_a_form_is_replayed_from_what_was_kept_of_it(production: Environment) -> None:
    from urllib.parse import quote_plus

    form = b"payload=" + quote_plus(BODY.decode()).encode()
    send(production.project, form, content_type="application/x-www-form-urlencoded")

    assert intake.replay(Delivery.objects.get(), "ada").verdict == "duplicate"


def test_what_was_not_proven_cannot_be_replayed(production: Environment, root: Client) -> None:
    send(production.project, BODY, signature=sign(BODY, "guess"))
    refused = Delivery.objects.get()

    page = text_of(root.post(url(refused, "replay"), follow=True))

    assert "Only a delivery that was proven" in page
    assert ">Replay<" not in page
    assert not Deployment.objects.exists()


# A test delivery


@pytest.mark.parametrize("host", list(HOSTS))
def test_a_test_delivery_goes_through_the_endpoint_and_causes_nothing(
    production: Environment, root: Client, host: str
) -> None:
    Project.objects.update(host=host)

    page = text_of(root.post(url(production.project, "send_test"), follow=True))

    sent = Delivery.objects.get()
    assert (sent.origin, sent.sent_by, sent.status_code, sent.host) == ("test", "root", 200, host)
    assert "Not wanted, with 200" in page
    assert not Deployment.objects.exists()


def test_a_test_delivery_is_signed_by_gitlabs_own_token_where_there_is_one(production: Environment) -> None:
    Project.objects.update(host="gitlab")
    project = Project.objects.get()
    project.signing_token = signing_token("k" * 32)
    project.save()

    assert hook.send_test(project, "ada").status_code == 200


def test_a_broken_secret_is_told_by_the_test(production: Environment, root: Client) -> None:
    Project.objects.update(webhook_secret=" ")

    page = text_of(root.post(url(production.project, "send_test"), follow=True))

    assert "The endpoint answered 401" in page


# Health


def test_the_hook_is_as_healthy_as_the_git_hosts_own_last_calls(production: Environment) -> None:
    project = production.project
    assert hook.health(project).words == "Nothing has come from the git host yet."
    hook.send_test(project, "ada")
    assert hook.health(project).tone == "muted"
    send(None, BODY)
    assert (hook.health(project).tone, hook.health(project).refused) == ("bad", 1)
    push(project)
    assert (hook.health(project).tone, hook.health(project).last) == ("ok", Delivery.objects.latest("pk"))
    send(None, BODY)
    assert hook.health(project).tone == "wait"
    send(project, b"[]", delivery="d-9")
    assert hook.health(project).words == "The last delivery could not be read."


@pytest.mark.parametrize("host", list(HOSTS))
def test_the_card_says_what_to_paste_where(production: Environment, root: Client, host: str) -> None:
    Project.objects.update(host=host)
    project = Project.objects.get()

    page = text_of(root.get(url(project)))

    setup = HOSTS[host].setup
    assert f"/webhooks/{host}/acme/" in page
    assert setup.secret_label in page
    assert setup.path.split(" → ")[-1] in page
    assert project.webhook_secret not in page


def test_a_signing_token_is_kept_secret_and_must_be_one(production: Environment, root: Client) -> None:
    project = production.project
    project.signing_token = signing_token("k" * 32)
    project.save()

    assert project.signing_token not in text_of(root.get(url(project)))
    project.signing_token = "whsec_short"
    with pytest.raises(Exception, match="no signing token"):
        project.full_clean()


# Where would it go?


def test_the_page_explains_where_a_ref_would_go_and_why_not_elsewhere(production: Environment, root: Client) -> None:
    staging = factories.environment(name="Staging", slug="staging", branch="staging", kind="staging")
    BranchRule.objects.create(project=staging.project, environment=staging, pattern="v*", kind="tag", priority=1)

    def asked(**question: str) -> str:
        query = {"event": "moved", "kind": "branch", "name": "main", "message": ""} | question
        return text_of(root.get(url(production.project, "why"), query))

    assert "Queued: acme/production." in asked()
    assert "Its branch is staging, and none of its rules matches main." in asked()
    assert "Queued: acme/staging." in asked(kind="tag", name="v1")
    assert "Skipped: its head commit says" in asked(name="staging", message="[skip ci]")
    assert "A ref was deleted" in asked(event="deleted")
    assert "Only branches and tags deploy" in asked(name="refs/notes/x")
    assert "The ping arrived" in asked(event="ping")
    assert "&lt;script&gt;" in asked(name="<script>")
    assert "No ref has such characters" in asked(name="a\x01b")
    assert not Deployment.objects.exists()
    assert not Delivery.objects.exists()


def test_the_rules_are_edited_on_the_projects_page_and_ties_are_refused(production: Environment, root: Client) -> None:
    page = root.get(url(production.project))
    form = page.context["adminform"].form
    data = {name: value for name, value in form.initial.items() if value is not None and name != "host"}
    data |= {"host": "github", "name": "Acme", "slug": "acme"}
    for formset in page.context["inline_admin_formsets"]:
        data |= {
            f"{formset.formset.prefix}-{name}": value for name, value in formset.formset.management_form.initial.items()
        }
        for one in formset.formset.initial_forms:
            data |= {one.add_prefix(name): value for name, value in one.initial.items() if value is not None}
            data[one.add_prefix("id")] = one.instance.pk
            data[one.add_prefix("project")] = production.project.pk
    prefix = "branch_rules"
    rule = {"priority": 5, "kind": "branch", "pattern": "release/*", "environment": production.pk}
    data |= {f"{prefix}-TOTAL_FORMS": 2}
    data |= {f"{prefix}-0-{name}": value for name, value in rule.items()}
    tie = {f"{prefix}-1-{name}": value for name, value in (rule | {"pattern": "hotfix/*"}).items()}

    refused = root.post(url(production.project), data | tie)
    saved = root.post(url(production.project), data | tie | {f"{prefix}-1-priority": 6})

    assert "duplicate" in text_of(refused)
    assert saved.status_code == 302, text_of(saved)
    assert [one.pattern for one in BranchRule.objects.all()] == ["release/*", "hotfix/*"]


def test_the_list_shows_what_moved_and_where_it_came_from(production: Environment, root: Client) -> None:
    push(production.project)
    push(production.project, "d-2", after=NEWER)

    page = text_of(root.get(reverse("admin:deployments_delivery_changelist")))

    assert page.count('class="field-refs">main<') == 2
    assert "127.0.0.1" in page
    assert json.loads(Delivery.objects.latest("pk").body)["after"] == NEWER != NEW


# Whatever comes, by the endpoint of every host


@pytest.mark.parametrize("host", ["gitlab", "azure_devops"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"[" * 100_000,
        b'{"object_kind": "push", "ref": "refs/heads/\\ud800", "after": "x"}',
        b'{"object_kind": "push", "ref": {"a": 1}}',
        json.dumps({"object_kind": "push", "ref": "refs/heads/" + "x" * 900, "after": NEW}).encode(),
        json.dumps({"object_kind": "push", "ref": "refs/tags/-x", "before": "0" * 40, "after": NEW}).encode(),
        json.dumps({"object_kind": "x" * 5000, "project": {"path_with_namespace": "a\x00b"}}).encode(),
        json.dumps({"eventType": "git.push", "resource": {"refUpdates": [7, {"name": 1}]}}).encode(),
        json.dumps({"eventType": "git.push", "id": "é" * 500, "resource": []}).encode(),
    ],
)
def test_proven_bytes_of_any_kind_are_answered_and_kept(production: Environment, host: str, body: bytes) -> None:
    Project.objects.update(host=host)
    BranchRule.objects.create(
        project=production.project, environment=production, pattern="**", kind="branch", priority=1
    )
    proof = {"x-gitlab-token": production.project.webhook_secret, "x-ocore-token": production.project.webhook_secret}

    answer = send(None, body, host=host, **proof)

    assert answer.status_code in (200, 202, 400)
    assert answer.json()["reason"]
    assert Delivery.objects.get().status_code == answer.status_code
