"""The admin's buttons, pressed: each does what it says, tells what it did, and leaves its trace."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from redis.exceptions import ConnectionError

from deployments.models import Deployment, Snapshot
from deployments.states import Status, Trigger
from instances.models import Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import ServerUnreachable
from projects.models import Environment, Project, Server
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own transaction never commits, so what waits for that is done at once."""
    monkeypatch.setattr(transaction, "on_commit", lambda function, **_: function())


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def plain(queues: Any) -> Environment:
    """Live, of a project without a repository, deployed through the whole pipeline; its data is kept each time."""
    return factories.environment(branch="", strategy="recreate")


def url(row: Any, act: str, *more: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{act}", args=[row.pk, *more])


def text_of(answer: Any) -> str:
    return answer.content.decode()


def go_live(root: Client, environment: Environment, queues: Any) -> Deployment:
    root.post(url(environment, "deploy"), {"forced": "1"})
    queues.run_all()
    return Deployment.objects.get(environment=environment, live=True)


def test_deploy_now_queues_a_deployment_in_the_users_name_and_shows_it(
    root: Client, plain: Environment, queues: Any
) -> None:
    answer = root.post(url(plain, "deploy"), follow=True)
    deployment = Deployment.objects.get()
    assert answer.redirect_chain[0][0] == deployment.get_absolute_url()
    assert "is queued" in text_of(answer)
    assert (deployment.trigger, deployment.requester) == (Trigger.MANUAL, "root")
    assert deployment.requested_by.username == "root"
    assert LogEntry.objects.filter(object_id=str(plain.pk), change_message__contains=f"#{deployment.pk}").exists()
    queues.run_all()
    deployment.refresh_from_db()
    assert deployment.status == Status.SUCCEEDED
    page = text_of(root.get(deployment.get_absolute_url()))
    assert "Succeeded" in page
    assert "Live at" in page


def test_a_typed_tag_or_commit_is_what_is_deployed(root: Client, queues: Any) -> None:
    environment = factories.environment(project=factories.project(repository_url="https://git.example.com/a.git"))
    root.post(url(environment, "deploy"), {"ref": " v1.2 ", "forced": "1"})
    deployment = Deployment.objects.get()
    assert (deployment.ref, deployment.forced) == ("v1.2", True)


@pytest.mark.parametrize("ref", ["--upload-pack=x", "a b", "x..y"])
def test_a_ref_that_is_none_is_refused_with_a_message(root: Client, queues: Any, ref: str) -> None:
    environment = factories.environment(project=factories.project(repository_url="https://git.example.com/a.git"))
    answer = root.post(url(environment, "deploy"), {"ref": ref}, follow=True)
    assert "is no branch, tag or commit id" in text_of(answer)
    assert not Deployment.objects.exists()


def test_what_cannot_be_deployed_says_why_and_what_to_do(root: Client, plain: Environment) -> None:
    answer = root.post(url(plain, "deploy"), {"ref": "main"}, follow=True)
    assert "has no git repository" in text_of(answer)
    assert "give the project a repository" in text_of(answer)


def test_cancel_ends_a_queued_deployment_and_says_so(root: Client, plain: Environment, queues: Any) -> None:
    root.post(url(plain, "deploy"))
    deployment = Deployment.objects.get()
    assert url(deployment, "cancel") in text_of(root.get(deployment.get_absolute_url()))
    answer = root.post(url(deployment, "cancel"), follow=True)
    deployment.refresh_from_db()
    assert (deployment.status, deployment.cancelled_by) == (Status.CANCELLED, "root")
    assert "is cancelled" in text_of(answer)
    assert url(deployment, "cancel") not in text_of(answer)


def test_cancel_past_the_point_of_no_return_is_refused_with_advice(root: Client, plain: Environment) -> None:
    deployment = factories.deployment(plain, status=Status.RUNNING, switched_at=timezone.now())
    assert url(deployment, "cancel") not in text_of(root.get(deployment.get_absolute_url()))
    answer = root.post(url(deployment, "cancel"), follow=True)
    assert "point of no return" in text_of(answer)


def test_roll_back_says_before_what_it_brings_back_and_how_old_the_data_are(
    root: Client, plain: Environment, queues: Any
) -> None:
    first = go_live(root, plain, queues)
    second = go_live(root, plain, queues)
    taken_at = timezone.now() - timedelta(days=3)
    Snapshot.objects.filter(of=first).update(taken_at=taken_at)
    Deployment.objects.filter(pk=first.pk).update(addons={"acme": {"version": "19.0.1.0"}})
    Deployment.objects.filter(pk=second.pk).update(addons={"acme": {"version": "19.0.2.0"}})
    offers = text_of(root.get(url(plain, "roll_back")))
    assert url(plain, "roll_back_to", first.pk) in offers
    page = text_of(root.get(url(plain, "roll_back_to", first.pk)))
    assert f"{taken_at:%Y-%m-%d %H:%M:%S} UTC" in page
    assert "3 days ago" in page
    assert "safety snapshot" in page
    assert "another version of acme" in page
    assert Deployment.objects.count() == 2, "looking changes nothing"


@pytest.mark.parametrize("data", ["with", "without"])
def test_roll_back_deploys_the_earlier_one_with_or_without_its_data(
    root: Client, plain: Environment, queues: Any, data: str
) -> None:
    first = go_live(root, plain, queues)
    go_live(root, plain, queues)
    answer = root.post(url(plain, "roll_back_to", first.pk), {"data": data})
    deployment = Deployment.objects.latest()
    assert answer.url == deployment.get_absolute_url()
    assert (deployment.trigger, deployment.rollback_to) == (Trigger.ROLLBACK, first)
    assert (deployment.restores is not None) == (data == "with")
    queues.run_all()
    deployment.refresh_from_db()
    assert deployment.status == Status.SUCCEEDED, deployment.error
    assert "Goes back to" in text_of(root.get(deployment.get_absolute_url()))


def test_roll_back_to_what_never_went_live_or_belongs_elsewhere_is_refused(root: Client, plain: Environment) -> None:
    failed = factories.deployment(plain, status=Status.FAILED)
    assert "never went live" in text_of(root.get(url(plain, "roll_back_to", failed.pk), follow=True))
    other = factories.deployment(factories.environment(name="Other", slug="other"), live=False)
    assert root.get(url(plain, "roll_back_to", other.pk)).status_code == 404


def test_an_environment_is_removed_only_by_typing_its_path(root: Client, queues: Any) -> None:
    environment = factories.environment(name="Test", slug="test", kind=Environment.Kind.STAGING, branch="")
    deployment = go_live(root, environment, queues)
    page = text_of(root.get(url(environment, "delete")))
    for part in (environment.database, environment.url, environment.instances.get().container, "acme/test"):
        assert part in page
    answer = root.post(url(environment, "delete"), {"path": "acme/tets", "post": "yes"})
    assert answer.status_code == 400
    assert "Type acme/test to remove it" in text_of(answer)
    assert Environment.objects.get().removing_since is None
    answer = root.post(url(environment, "delete"), {"path": "acme/test"}, follow=True)
    assert "is being removed" in text_of(answer)
    assert "Being removed" in text_of(answer)
    queues.run_all()
    assert not Environment.objects.exists()
    assert not Deployment.objects.filter(pk=deployment.pk).exists()


def test_production_that_runs_cannot_be_removed(root: Client, plain: Environment, queues: Any) -> None:
    go_live(root, plain, queues)
    assert "Stop its instances first" in text_of(root.get(url(plain, "delete")))
    root.post(url(plain, "delete"), {"path": plain.path})
    assert Environment.objects.get().removing_since is None


def test_a_removal_that_stopped_shows_its_problem_and_can_be_tried_again(root: Client, plain: Environment) -> None:
    Environment.objects.update(removing_since=timezone.now(), removal_problem="The engine does not answer.")
    page = text_of(root.get(url(plain, "change")))
    assert "The engine does not answer." in page
    assert url(plain, "delete") in page


def test_a_removal_whose_server_does_not_answer_says_that_it_goes_on_by_itself(
    root: Client, plain: Environment
) -> None:
    now = timezone.now()
    Environment.objects.update(removing_since=now, removal_due=now, removal_problem="The engine does not answer.")
    page = text_of(root.get(url(plain, "change")))
    assert "It goes on once its server answers: The engine does not answer." in page
    assert "Try again" not in page


def test_nothing_ours_can_be_deleted_in_bulk(root: Client, plain: Environment) -> None:
    for row in (plain, plain.project, plain.server, plain.instances.get()):
        changelist = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_changelist")
        root.post(changelist, {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
        assert type(row).objects.filter(pk=row.pk).exists()


def test_a_project_or_server_with_environments_stays_and_goes_without(root: Client, plain: Environment) -> None:
    for row in (plain.project, plain.server):
        answer = root.post(url(row, "delete"), {"post": "yes"})
        assert "would require deleting the following protected" in text_of(answer)
        assert type(row).objects.filter(pk=row.pk).exists()
    Instance.objects.all().delete()
    plain.delete()
    for row in (plain.project, plain.server):
        assert root.post(url(row, "delete"), {"post": "yes"}).status_code == 302
        assert not type(row).objects.filter(pk=row.pk).exists()


def test_an_instance_is_stopped_started_and_restarted(root: Client, plain: Environment, queues: Any) -> None:
    go_live(root, plain, queues)
    instance = plain.instances.get()
    for act, state in (("stop", "stopped"), ("start", "running"), ("restart", "running")):
        answer = root.post(url(instance, act), follow=True)
        assert "is being" in text_of(answer)
        queues.run_all()
        instance.refresh_from_db()
        assert instance.state == state, instance.problem


def test_an_instance_that_was_never_deployed_cannot_be_started(root: Client, plain: Environment) -> None:
    answer = root.post(url(plain.instances.get(), "start"), follow=True)
    assert "has not been deployed yet" in text_of(answer)


def test_a_server_is_asked_now_and_its_problem_is_shown(root: Client, faults: Any) -> None:
    server = factories.server()
    answer = root.post(url(server, "check_now"), follow=True)
    server.refresh_from_db()
    assert "answers" in text_of(answer)
    assert server.facts["cpus"] == 2
    faults.raised["facts"] = ServerUnreachable("Sim is down.")
    page = text_of(root.post(url(server, "check_now"), follow=True))
    assert page.count("Sim is down.") == 2, "as a message, and on the page"
    faults.clear()
    root.post(url(server, "check_now"))
    assert Server.objects.get().problem == ""


def test_the_webhook_secret_is_shown_by_its_button_only_and_each_look_is_recorded(root: Client) -> None:
    project = factories.project(repository_url="https://git.example.com/acme.git")
    page = text_of(root.get(url(project, "change")))
    assert project.webhook_secret not in page
    assert project.webhook_path in page
    shown = root.post(url(project, "webhook_secret"))
    assert project.webhook_secret in text_of(shown)
    assert "no-store" in shown.headers["Cache-Control"]
    assert LogEntry.objects.filter(object_id=str(project.pk), change_message__contains="secret shown").count() == 1
    assert project.webhook_secret not in str(list(LogEntry.objects.values()))


def test_a_new_webhook_secret_leaves_the_old_one_for_a_while(root: Client) -> None:
    project = factories.project(repository_url="https://git.example.com/acme.git")
    old = project.webhook_secret
    answer = root.post(url(project, "rotate_webhook_secret"), follow=True)
    project = Project.objects.get()
    assert project.webhook_secret != old
    assert old in project.webhook_secrets
    assert "the old one is accepted until" in text_of(answer)
    assert old not in text_of(answer)


def test_odoos_password_is_shown_by_its_button_only(root: Client, plain: Environment) -> None:
    assert plain.odoo_admin_password not in text_of(root.get(url(plain, "change")))
    shown = root.post(url(plain, "odoo_password"))
    assert plain.odoo_admin_password in text_of(shown)
    assert "no-store" in shown.headers["Cache-Control"]
    assert LogEntry.objects.filter(change_message__contains="administrator shown").count() == 1


def test_a_dump_is_streamed_to_whom_may_have_it(root: Client, plain: Environment, queues: Any) -> None:
    first = go_live(root, plain, queues)
    go_live(root, plain, queues)
    snapshot = Snapshot.objects.get(of=first)
    page = text_of(root.get(url(snapshot, "change")))
    assert snapshot.dump_sha256 in page
    answer = root.get(url(snapshot, "download"))
    assert answer.streaming
    assert b"".join(answer.streaming_content).startswith(b"simulated dump of")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert LogEntry.objects.filter(change_message__contains="Dump downloaded").count() == 1


def test_no_other_file_can_be_downloaded_as_a_dump(root: Client, plain: Environment, settings: Any) -> None:
    (Path(settings.STATE_DIR) / "django-secret-key").write_text("s3cret")
    deployment = factories.deployment(plain)
    snapshot = Snapshot.objects.create(environment=plain, deployment=deployment)
    for path in ("", "django-secret-key", "dumps/../django-secret-key", "/etc/passwd", "dumps"):
        Snapshot.objects.update(dump_path=path)
        answer = root.get(url(snapshot, "download"), follow=True)
        assert "There is no dump of the snapshot" in text_of(answer)


def test_an_instance_is_removed_with_its_container_while_the_others_serve_on(root: Client, queues: Any) -> None:
    environment = factories.environment(branch="")
    second = Instance.objects.create(environment=environment, name="second", slug="second")
    go_live(root, environment, queues)
    second.refresh_from_db()
    assert "Stop it first" in text_of(root.get(url(second, "delete")))
    root.post(url(second, "delete"), {"post": "yes"})
    queues.run_all()
    assert environment.instances.count() == 2, "production is stopped first"
    root.post(url(second, "stop"))
    queues.run_all()
    assert second.container in text_of(root.get(url(second, "delete")))
    root.post(url(second, "delete"), {"post": "yes"})
    queues.run_all()
    assert [one.slug for one in environment.instances.all()] == ["main"]
    runtime = runtime_for(environment.server)
    assert runtime.containers.find(second.container) is None
    assert runtime.edge.fetch(environment.hostname, "/web/health").ok


def test_the_only_instance_that_serves_cannot_be_removed(root: Client, plain: Environment, queues: Any) -> None:
    go_live(root, plain, queues)
    instance = plain.instances.get()
    root.post(url(instance, "stop"))
    queues.run_all()
    answer = root.post(url(instance, "delete"), {"post": "yes"})
    assert "Remove the environment instead" in text_of(answer)
    assert plain.instances.exists()


def test_an_instance_without_a_container_goes_at_once(root: Client, plain: Environment) -> None:
    second = Instance.objects.create(environment=plain, name="second", slug="second")
    assert root.post(url(second, "delete"), {"post": "yes"}).status_code == 302
    assert not Instance.objects.filter(pk=second.pk).exists()


def test_without_redis_an_instance_stays_as_it_was_and_the_message_says_why(
    root: Client, plain: Environment, queues: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_live(root, plain, queues)
    instance = plain.instances.get()

    def unreachable(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr("deployments.queues.enqueue_control", unreachable)
    answer = root.post(url(instance, "restart"), follow=True)
    assert "Redis does not answer" in text_of(answer)
    instance.refresh_from_db()
    assert instance.state == Instance.State.RUNNING
