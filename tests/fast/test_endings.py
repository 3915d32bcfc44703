"""How a deployment ends before its end: cancelled in any step, past a deadline; and how it is deployed again."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.urls import reverse

from deployments import retries, services
from deployments import run as run_module
from deployments.models import Deployment, Snapshot
from deployments.services import NotPossible, Who
from deployments.states import Status, StepKind, StepStatus, Trigger
from instances.models import Door
from instances.runtimes import runtime_for
from instances.runtimes.base import Exit, ServerUnreachable
from instances.runtimes.simulated import Faults
from ocore import waiting
from ocore.errors import ExpectedError
from projects.git.command import Git
from projects.models import Environment
from tests import factories
from tests.acme import ADA, Client, addon, log_of, running
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)
GRACE = Who("grace")


class NeverCalled(Exception):
    """It went on waiting although somebody cancelled."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "CHECK_SECONDS", 0)
    monkeypatch.setattr(waiting, "PULSE_SECONDS", 0.01)


def cancelled_while_silent(faults: Faults, verb: str) -> Callable[..., None]:
    """Somebody cancels, and the verb says nothing for long; what it waits with is all that can end it."""

    def wait(*_: Any) -> None:
        faults.raised.pop(verb)
        services.cancel(Deployment.objects.get(status=Status.RUNNING), GRACE)
        waiting.pause(5)
        raise NeverCalled

    return wait


# The verb that is silent, by what a person would call it.
SILENT = {
    "getting the base image": "images.ensure_base",
    "building": "images.build",
    "closing the door and draining": "edge.close",
    "stopping the old version": "containers.stop",
    "copying a large database": "databases.clone",
    "linking the filestore": "filestores.snapshot",
    "updating modules": "containers.run",
    "asking Odoo whether it is healthy": "containers.exec",
}


@pytest.mark.parametrize("what", SILENT)
def test_cancelling_ends_what_is_silent_and_puts_everything_back(
    what: str, deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    first = deployed
    client = Client(production)
    client.write("order 1")
    before = running(production)
    remote.commit("Second", addon("1.1"))
    faults.raised[SILENT[what]] = cancelled_while_silent(faults, SILENT[what])

    second = deploy()

    assert second.status == Status.CANCELLED, log_of(second)
    assert second.cancelled_by == "grace"
    assert second.error.startswith("Cancelled by grace. ")
    if second.steps.filter(kind=StepKind.ROLLBACK).exists():
        assert "Taken back: " in second.error
        assert second.error.endswith("Everything is as it was before.")
    else:
        assert second.error.endswith("Nothing had been changed.")
    assert running(production) == before
    assert client.found == ["order 1"]
    assert client.write("order 2"), "the door is open"
    assert not Door.objects.exists()
    assert not [name for name in runtime_for(production.server).databases.list() if "__s" in name]
    assert Deployment.objects.get(live=True) == first


def test_cancelling_ends_a_silent_git(
    deploy: Any, production: Environment, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    run = Git.run

    def silent(git: Git, *arguments: str, **options: Any) -> Any:
        commands.append(arguments[0])
        if arguments[0] == "fetch":
            services.cancel(Deployment.objects.get(status=Status.RUNNING), GRACE)
            # git waits for a standard input that never ends
            return run(git, "-c", "alias.wait=!exec sleep 30", "wait", **options)
        return run(git, *arguments, **options)

    monkeypatch.setattr(Git, "run", silent)

    first = deploy()

    assert "fetch" in commands
    assert first.status == Status.CANCELLED, log_of(first)
    assert first.seconds is not None
    assert first.seconds < 5


def test_cancelling_a_queued_one_is_immediate_and_a_second_time_it_says_that_it_has_ended(
    production: Environment, queues: Queues
) -> None:
    queued = services.request_deployment(production, Trigger.MANUAL, ADA)

    services.cancel(queued, GRACE)

    assert queued.status == Status.CANCELLED
    with pytest.raises(NotPossible, match="It has ended"):
        services.cancel(queued, GRACE)


def test_cancelling_during_a_rollback_says_why_not(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.exits["update"] = Exit(255, "ParseError")
    said: list[NotPossible] = []

    def cancel(*_: Any) -> None:
        with pytest.raises(NotPossible) as refused:
            services.cancel(Deployment.objects.get(status=Status.ROLLING_BACK), GRACE)
        said.append(refused.value)

    faults.raised["databases.put_back"] = cancel

    assert deploy().status == Status.ROLLED_BACK
    assert "is being taken back already" in said[0].message
    assert "never stopped half-way" in said[0].advice


def test_cancelling_twice_says_who_was_first(production: Environment) -> None:
    underway = factories.deployment(production, status=Status.RUNNING)
    services.cancel(underway, GRACE)

    with pytest.raises(NotPossible, match="being cancelled already, by grace"):
        services.cancel(underway, ADA)


@pytest.mark.parametrize(
    ("step", "verb", "limits", "says", "end"),
    [
        (StepKind.BUILD, "images.build", (0.05, 9), "took longer than 0.05 s", Status.FAILED),
        (StepKind.SNAPSHOT, "databases.clone", (9, 0.05), "said nothing for 0.05 s", Status.ROLLED_BACK),
        (StepKind.DEPLOY, "containers.run", (9, 0.05), "said nothing for 0.05 s", Status.ROLLED_BACK),
        (StepKind.HEALTH_CHECK, "containers.exec", (0.05, 9), "took longer than 0.05 s", Status.ROLLED_BACK),
    ],
)
def test_past_its_deadline_a_step_is_ended_and_taken_back(
    step: StepKind,
    verb: str,
    limits: tuple[float, float],
    says: str,
    end: Status,
    deployed: Deployment,
    deploy: Any,
    production: Environment,
    remote: GitRemote,
    faults: Faults,
    settings: Any,
) -> None:
    before = running(production)
    remote.commit("Second", addon("1.1"))

    def hang(*_: Any) -> None:
        faults.raised.pop(verb)
        settings.OCORE_DEADLINES = settings.OCORE_DEADLINES | {step: limits}
        waiting.pause(5)
        raise NeverCalled

    faults.raised[verb] = hang
    second = deploy()

    assert second.status == end, log_of(second)
    assert f"The step “{step.label}” {says}" in second.error
    assert second.detail
    assert f"OCORE_DEADLINES={step}=" in second.advice
    assert running(production) == before
    assert Client(production).write("order")


def test_the_last_words_before_a_deadline_are_kept(
    deploy: Any, production: Environment, faults: Faults, settings: Any
) -> None:
    def hang(*_: Any) -> None:
        settings.OCORE_DEADLINES = settings.OCORE_DEADLINES | {"build": (9, 0)}
        waiting.pause(5)

    faults.raised["images.build"] = hang

    assert "addons: acme_notes" in deploy().detail


def test_a_deployment_has_a_deadline_in_all(deploy: Any, faults: Faults, settings: Any) -> None:
    def hang(*_: Any) -> None:
        settings.OCORE_DEPLOYMENT_TIMEOUT = 0
        waiting.pause(5)

    faults.raised["images.build"] = hang
    first = deploy()

    assert first.status == Status.FAILED
    assert "took longer than 0 s in all" in first.error


def test_together_calls_the_others_away_when_one_fails() -> None:
    ended: list[str] = []

    def long() -> None:
        try:
            waiting.pause(20)
        finally:
            ended.append("long")

    def fails() -> None:
        raise ExpectedError("no")

    with pytest.raises(ExpectedError, match="no"):
        waiting.together(long, fails)
    assert ended == ["long"]


def test_who_works_beside_a_failure_is_called_away_with_it() -> None:
    """Not only the other threads: a build isn't brought to its end where PostgreSQL can't be prepared."""

    def fail() -> None:
        raise ServerUnreachable("It does not answer.")

    began = time.monotonic()

    def work() -> None:
        with waiting.heeding(lambda: None), waiting.beside(fail):
            waiting.pause(20)

    with pytest.raises(ServerUnreachable):
        work()
    assert time.monotonic() - began < 10


def test_undisturbed_nobody_is_called_away() -> None:
    def check() -> None:
        raise ExpectedError("away")

    with waiting.heeding(check):
        with waiting.undisturbed():
            waiting.pulse()
        with pytest.raises(ExpectedError, match="away"):
            waiting.aside(lambda: waiting.time.sleep(0.1))


@pytest.fixture
def failed(deployed: Deployment, deploy: Any, remote: GitRemote, faults: Faults, once: Any) -> Deployment:
    """Built, and then not healthy."""
    remote.commit("Second", addon("1.1"))

    def make() -> None:
        faults.exits["update"] = Exit(255, "ParseError")
        assert deploy().status == Status.ROLLED_BACK

    once("failed", make)
    return Deployment.objects.get(status=Status.ROLLED_BACK)


def again(deployment: Deployment, queues: Queues) -> Deployment:
    deployment = Deployment.objects.select_related("environment__project").get(pk=deployment.pk)
    made = retries.retry(deployment, GRACE, Trigger.MANUAL)
    queues.run_all()
    made.refresh_from_db()
    return made


def test_deploying_again_uses_the_image_that_is_built_while_the_git_host_is_down(
    failed: Deployment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    remote.path.rename(remote.path.with_name("gone"))

    retry = again(failed, queues)

    assert retry.status == Status.SUCCEEDED, log_of(retry)
    assert (retry.retries, list(failed.retried_by.all())) == (failed, [retry])
    assert (retry.commit, retry.subject, retry.image) == (failed.commit, "Second", failed.image)
    build = retry.steps.get(kind=StepKind.BUILD)
    assert build.status == StepStatus.SKIPPED
    assert build.outcome.startswith(f"Built before, for {failed}: ")
    assert not [call for call in faults.calls if call.startswith("images.build")]


def test_a_rollback_by_hand_needs_no_git_host(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    first = deployed
    remote.commit("Second", addon("1.1"))
    deploy()
    remote.path.rename(remote.path.with_name("gone"))

    back = services.roll_back(production, ADA, target=first)
    queues.run_all()

    back.refresh_from_db()
    assert back.status == Status.SUCCEEDED, log_of(back)
    assert back.image == first.image


def test_what_does_not_hold_any_more_is_done_anew(
    failed: Deployment, production: Environment, queues: Queues, faults: Faults
) -> None:
    runtime_for(production.server).images.remove(failed.image)

    retry = again(failed, queues)

    assert retry.status == Status.SUCCEEDED, log_of(retry)
    assert [call for call in faults.calls if call.startswith("images.build")]


def test_a_retry_takes_its_own_commit_and_todays_settings(
    failed: Deployment, production: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    remote.commit("Third", addon("1.2"))
    Environment.objects.filter(pk=production.pk).update(pip_packages=["phonenumbers"], workers=2)

    offer = retries.retry_offer(Deployment.objects.get(pk=failed.pk))
    retry = again(failed, queues)

    assert not offer.reuses
    assert "today's packages" in offer.anew[0]
    assert {one.label for one in offer.settings} >= {"workers"}
    assert retry.commit == failed.commit
    assert retry.image != failed.image
    assert retry.configuration["environment"]["workers"]["value"] == 2


def test_the_offer_says_what_is_used_again_and_what_is_done_anew(failed: Deployment) -> None:
    offer = retries.retry_offer(failed)

    assert f"built for {failed}" in offer.reuses[0]
    assert "if it is still on" in offer.reuses[0]
    assert offer.anew[-1].startswith("Snapshot, deploy and health check")


def test_a_retry_of_what_never_got_a_commit_takes_the_branch(
    deploy: Any, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    faults.raised["facts"] = ExpectedError("The server is away.")
    ended = deploy()
    faults.clear()

    assert "never got a commit" in retries.retry_offer(ended).anew[0]
    retry = again(ended, queues)
    assert (retry.status, retry.commit) == (Status.SUCCEEDED, remote.sha("main")), log_of(retry)


def test_a_retry_of_a_rollback_with_data_puts_the_same_data_back(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    first = deployed
    client = Client(production)
    client.write("then")
    remote.commit("Second", addon("1.1"))
    deploy()
    client.write("now")
    faults.raised["containers.create"] = ExpectedError("no memory left")
    back = services.roll_back(production, ADA, target=first, with_data=True)
    queues.run_all()
    back.refresh_from_db()
    assert back.status == Status.ROLLED_BACK
    faults.clear()

    retry = again(back, queues)

    assert retry.status == Status.SUCCEEDED, log_of(retry)
    assert (retry.trigger, retry.rollback_to, client.found) == (Trigger.ROLLBACK, first, ["then"])
    Snapshot.objects.filter(pk=back.restores_id).update(state=Snapshot.State.GONE)
    with pytest.raises(NotPossible, match="which is gone"):
        retries.retry_offer(Deployment.objects.get(pk=back.pk))


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"status": Status.QUEUED}, "is queued in"),
        ({"status": Status.RUNNING}, "is running in"),
        ({"status": Status.ROLLBACK_FAILED}, "a person must look"),
    ],
)
def test_a_retry_is_refused_with_the_reason(others: dict[str, Any], says: str, production: Environment) -> None:
    ended = factories.deployment(production, status=Status.FAILED)
    factories.deployment(production, **others)

    with pytest.raises(NotPossible, match=says):
        retries.retry(ended, GRACE, Trigger.MANUAL)


def test_what_has_not_ended_is_not_deployed_again(production: Environment) -> None:
    with pytest.raises(NotPossible, match="has not ended yet"):
        retries.retry_offer(factories.deployment(production, status=Status.RUNNING))


def test_the_page_says_it_first_and_then_deploys_again(
    production: Environment, queues: Queues, admin_client: Any
) -> None:
    ended = factories.deployment(production, status=Status.FAILED, commit="a" * 40)
    url = reverse("admin:deployments_deployment_deploy_again", args=[ended.pk])
    page = reverse("admin:deployments_deployment_change", args=[ended.pk])

    assert url in admin_client.get(page).content.decode()
    assert "Fetch and build" in admin_client.get(url).content.decode()
    assert not Deployment.objects.exclude(pk=ended.pk).exists(), "looking changes nothing"
    answer = admin_client.post(url)

    made = Deployment.objects.get(retries=ended)
    assert answer.url == made.get_absolute_url()
    assert "A retry of" in admin_client.get(answer.url).content.decode()
    assert "Deployed again by" in admin_client.get(page).content.decode()


def test_deploying_again_needs_the_right_to_deploy(
    production: Environment, client: Any, django_user_model: Any
) -> None:
    ended = factories.deployment(production, status=Status.FAILED)
    user = django_user_model.objects.create_user("viewer", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_deployment"))
    client.force_login(user)
    url = reverse("admin:deployments_deployment_deploy_again", args=[ended.pk])

    assert client.get(url).status_code == 403
    assert client.post(url).status_code == 403
    assert url not in client.get(reverse("admin:deployments_deployment_change", args=[ended.pk])).content.decode()


def test_the_command_line_deploys_again(production: Environment, queues: Queues, capsys: Any) -> None:
    ended = factories.deployment(production, status=Status.FAILED, commit="a" * 40)

    call_command("deploy", "acme/production", "--again", f"#{ended.pk}")

    made = Deployment.objects.get(retries=ended)
    said = capsys.readouterr().out
    assert "Fetch and build" in said
    assert f"#{made.pk}" in said
    assert f"#{ended.pk} again" in said
    with pytest.raises(CommandError, match="is no deployment of"):
        call_command("deploy", "acme/production", "--again", "4711")
