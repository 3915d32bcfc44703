"""The pipeline's logic on a simulated server: what it does, and what it takes back, in which order."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from deployments import ahead, pipeline, recovery, services
from deployments.models import Deployment, Snapshot, Step
from deployments.services import Who
from deployments.states import Status, StepKind, StepStatus, Trigger
from deployments.steps import planning
from instances.models import Door, Incident, Instance
from instances.runtimes import runtime_for, simulated
from instances.runtimes.base import Answer, BuildFailed, DatabaseError, EdgeError, Exit, RunFailed, ServerUnreachable
from instances.runtimes.simulated import Faults
from projects.models import Environment
from tests import factories
from tests.acme import ADA, Client, addon, log_of, running
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)


def kinds(deployment: Deployment) -> list[tuple[str, str]]:
    return [(step.kind, step.status) for step in deployment.steps.all()]


def test_the_first_deployment_creates_everything_and_goes_live(deployed: Deployment, production: Environment) -> None:
    first = deployed

    assert first.status == Status.SUCCEEDED, log_of(first)
    assert first.live
    assert first.subject == "First"
    assert kinds(first) == [
        (StepKind.BUILD, StepStatus.SUCCEEDED),
        (StepKind.SNAPSHOT, StepStatus.SKIPPED),
        (StepKind.DEPLOY, StepStatus.SUCCEEDED),
        (StepKind.HEALTH_CHECK, StepStatus.SUCCEEDED),
        (StepKind.COMPLETE, StepStatus.SUCCEEDED),
    ]
    assert running(production) == [f"ocore-test-acme-production-main-d{first.pk}"]
    assert Client(production).write("order 1")
    assert production.instances.get().state == Instance.State.RUNNING


def test_a_second_push_updates_the_changed_module_and_removes_the_old_container(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    client = Client(production)
    client.write("order 1")
    remote.commit("Second", addon("1.1"))

    second = deploy()

    assert second.status == Status.SUCCEEDED, log_of(second)
    assert "Will update acme_notes: its files changed" in log_of(second)
    assert running(production) == [f"ocore-test-acme-production-main-d{second.pk}"]
    assert client.found == client.accepted
    assert Deployment.objects.filter(environment=production, live=True).get() == second
    snapshot = Snapshot.objects.get(deployment=second)
    assert snapshot.state == Snapshot.State.READY
    assert snapshot.dump_sha256


def test_a_push_that_changes_nothing_that_runs_leaves_the_container_alone(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    first = deployed
    remote.commit("Only words", {"README.md": "Hello"})
    faults.calls.clear()

    second = deploy()

    assert second.status == Status.SUCCEEDED, log_of(second)
    assert second.live
    assert running(production) == [f"ocore-test-acme-production-main-d{first.pk}"]
    assert not [call for call in faults.calls if call.startswith(("edge.close", "containers.stop"))]


def test_the_recreate_strategy_replaces_the_container_even_then(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    Environment.objects.filter(pk=production.pk).update(strategy="recreate")
    remote.commit("Only words", {"README.md": "Hello"})

    second = deploy()

    assert running(production) == [f"ocore-test-acme-production-main-d{second.pk}"]


def test_pending_commits_are_counted_again_however_a_deployment_ends(
    deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    def pending() -> list[str]:
        production.refresh_from_db()
        return [one["subject"] for one in production.pending.get("commits", [])]

    deploy()
    assert pending() == []
    remote.commit("Second", addon("1.1"))
    faults.exits["update"] = Exit(255, "ParseError")
    assert deploy().status == Status.ROLLED_BACK
    assert pending() == ["Second"]
    faults.clear()
    remote.commit("Third", addon("1.2"))
    deploy()
    assert pending() == []


# What is broken for the deployment whose containers end in `new`.
BREAKS: dict[str, Any] = {
    "the module update fails": lambda faults, new: faults.exits.update({"update": Exit(255, "ParseError")}),
    "the new version never gets healthy": lambda faults, new: faults.unhealthy.update({new: Answer(500, "broken")}),
    "the new container does not start": lambda faults, new: faults.raised.update(
        {"containers.create": RunFailed("no memory left")}
    ),
    "joining the edge fails": lambda faults, new: faults.raised.update(
        {"containers.join_edge": _for_only(new, RunFailed("no network"))}
    ),
    "the clone fails": lambda faults, new: faults.raised.update({"databases.clone": DatabaseError("disk full")}),
    "the filestore cannot be kept": lambda faults, new: faults.raised.update(
        {"filestores.snapshot": RunFailed("no space left")}
    ),
    "the door does not close": lambda faults, new: faults.raised.update({"edge.close": RunFailed("edge is down")}),
    "a defect of ours": lambda faults, new: faults.raised.update({"containers.create": ZeroDivisionError("bug")}),
}


def _for_only(part: str, error: Exception) -> Any:
    def fail(name: str, *_: Any) -> None:
        if name.endswith(part):
            raise error

    return fail


@pytest.mark.parametrize("broken", BREAKS)
def test_whatever_breaks_the_old_version_serves_with_every_accepted_write(
    broken: str,
    deployed: Deployment,
    deploy: Any,
    production: Environment,
    remote: GitRemote,
    faults: Faults,
    queues: Queues,
) -> None:
    first = deployed
    client = Client(production)
    client.write("order 1")
    before = running(production)
    remote.commit("Second", addon("1.1"))
    BREAKS[broken](faults, f"-d{first.pk + 1}")

    if "defect" in broken:
        with pytest.raises(ZeroDivisionError):
            deploy()
        second = Deployment.objects.get(environment=production, status=Status.ROLLED_BACK)
    else:
        second = deploy()
    faults.raised.clear()

    assert second.status == Status.ROLLED_BACK, log_of(second)
    assert second.error
    assert running(production) == before
    assert client.found == ["order 1"]
    assert client.write("order 2"), "the door is open again"
    assert Deployment.objects.get(environment=production, live=True) == first
    assert not Door.objects.exists()
    databases = runtime_for(production.server).databases.list()
    assert not [name for name in databases if "__s" in name], "the clone was put back or removed"


def test_a_new_container_that_was_killed_is_not_waited_for(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    first = deployed
    Environment.objects.filter(pk=production.pk).update(health_deadline=120)
    new = f"-d{first.pk + 1}"
    remote.commit("Second", addon("1.1"))

    def killed(name: str, *_: Any) -> None:
        if name.endswith(new):
            runtime_for(production.server).containers.stop(name)

    faults.raised["containers.exec"] = killed
    second = deploy()

    assert second.status == Status.ROLLED_BACK, log_of(second)
    assert (second.seconds or 0) < 30
    assert "Not healthy any more: The container" in second.error
    assert "(exited" in second.error
    assert "started again by its engine" in second.advice
    assert running(production) == [f"ocore-test-acme-production-main-d{first.pk}"]


def test_postgresql_that_stops_under_a_deployment_is_an_incident_and_named(
    deploy: Any, production: Environment, remote: GitRemote, faults: Faults, settings: Any
) -> None:
    settings.OCORE_ROLLBACK_SECONDS = 30
    deploy()
    remote.commit("Second", addon("1.1"))

    def falls(*_: Any) -> None:
        faults.raised.clear()
        runtime_for(production.server).containers.stop("simulated-postgres")
        raise RunFailed("Could not run sh in the container simulated-postgres.")

    faults.raised["databases.clone"] = falls
    second = deploy()

    assert second.status == Status.ROLLED_BACK, log_of(second)
    assert second.error.startswith("PostgreSQL on Sim (simulated) had stopped: Its container simulated-postgres")
    assert "Could not run sh" in second.detail
    assert "Deploy again" in second.advice
    (incident,) = Incident.objects.all()
    assert (incident.part, incident.server) == (Incident.Part.POSTGRES, production.server)


def test_what_has_not_been_there_before_the_first_deployment_has_not_fallen(
    deploy: Any, production: Environment, faults: Faults
) -> None:
    faults.raised["prepare"] = RunFailed("no memory left")

    assert deploy().error == "no memory left"
    assert not Incident.objects.exists()


@pytest.mark.parametrize("ago", [timedelta(hours=1), timedelta(days=3)])
def test_a_lost_dump_is_asked_for_again_however_long_the_portal_was_away(
    ago: timedelta, deployed: Deployment, deploy: Any, remote: GitRemote
) -> None:
    remote.commit("Second", addon("1.1"))
    second = deploy()
    Deployment.objects.filter(pk=second.pk).update(finished_at=timezone.now() - ago)
    assert recovery.undumped() == []
    kept = Snapshot.objects.filter(deployment=second)

    kept.update(dump_path="")
    assert recovery.undumped() == [second.pk]

    kept.update(dump_removed_at=timezone.now())
    assert recovery.undumped() == [], "it was made, and removed as too old"
    kept.update(dump_removed_at=None, state=Snapshot.State.GONE)
    assert recovery.undumped() == []


def test_lost_dumps_are_asked_for_a_few_at_a_time_the_newest_first(
    deployed: Deployment, deploy: Any, remote: GitRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    pks = []
    for version in ("1.1", "1.2"):
        remote.commit(version, addon(version))
        pks.append(deploy().pk)
        Deployment.objects.filter(pk=pks[-1]).update(finished_at=timezone.now() - timedelta(hours=10 - len(pks)))
    Snapshot.objects.update(dump_path="")
    assert recovery.undumped() == pks[::-1]
    monkeypatch.setattr(recovery, "DUMPS_AT_ONCE", 1)
    assert recovery.undumped() == pks[1:]


def test_a_worker_that_is_lost_in_the_build_advises_what_is_true(
    production: Environment, queues: Queues, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = services.request_deployment(production, Trigger.PUSH, ADA)
    monkeypatch.setitem(pipeline.STEPS, StepKind.BUILD, SimpleNamespace(perform=_die))
    with pytest.raises(Killed):
        pipeline.run(first.pk)
    _make_stale(first)

    pipeline.recover(first.pk)

    first.refresh_from_db()
    assert (first.status, first.error) == (Status.FAILED, "The worker was lost.")
    assert first.advice == "Nothing had been changed. Deploy again."


def test_a_rollback_whose_worker_was_lost_is_to_be_asked_for_again(
    deployed: Deployment,
    deploy: Any,
    production: Environment,
    remote: GitRemote,
    queues: Queues,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote.commit("Second", addon("1.1"))
    deploy()
    back = services.roll_back(production, Who("ann"))
    monkeypatch.setitem(pipeline.STEPS, StepKind.BUILD, SimpleNamespace(perform=_die))
    with pytest.raises(Killed):
        pipeline.run(back.pk)
    _make_stale(back)

    pipeline.recover(back.pk)

    back.refresh_from_db()
    assert back.advice.endswith("Roll back again.")


def test_what_was_made_for_an_update_goes_when_there_is_nothing_to_update_any_more(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    """Somebody uninstalls the module between the plan and the closed door."""
    remote.commit("Second", addon("1.1"))

    def uninstalled(*_: Any) -> None:
        faults.raised.clear()
        with runtime_for(production.server)._store.open() as state:
            state["databases"][production.database]["modules"]["acme_notes"] = ["uninstalled", ""]

    faults.raised["edge.close"] = uninstalled
    faults.calls.clear()

    second = deploy()

    assert second.status == Status.SUCCEEDED, log_of(second)
    assert f"containers.create ocore-test-acme-production--update-d{second.pk}" in faults.calls
    assert not [call for call in faults.calls if call.startswith("containers.run")]
    assert running(production) == [f"ocore-test-acme-production-main-d{second.pk}"]
    assert not [one for one in runtime_for(production.server).containers.list({}) if "--update-" in one.name]


def test_a_deployment_that_is_cancelled_while_the_door_closes_leaves_nothing_of_what_was_made(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    first = deployed
    remote.commit("Second", addon("1.1"))

    def cancel(*_: Any) -> None:
        faults.raised.clear()
        services.cancel(Deployment.objects.get(status=Status.RUNNING), Who("grace"))

    faults.raised["edge.close"] = cancel

    second = deploy()

    assert second.status == Status.CANCELLED, log_of(second)
    names = {
        one.name for one in runtime_for(production.server).containers.list({"io.ocore.environment": production.key})
    }
    assert names == {f"ocore-test-acme-production-main-d{first.pk}"}


def test_a_failed_build_changes_nothing(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    before = running(production)
    remote.commit("Second", addon("1.1"))
    faults.raised["images.build"] = BuildFailed("pip could not find a package", detail="No matching distribution")
    faults.calls.clear()

    second = deploy()

    assert second.status == Status.FAILED
    assert second.error == "pip could not find a package"
    assert second.detail == "No matching distribution"
    assert second.advice
    assert running(production) == before
    assert not [call for call in faults.calls if call.startswith(("edge.close", "containers.stop", "databases.clone"))]


def test_a_first_deployment_that_fails_leaves_nothing_behind(
    deploy: Any, production: Environment, faults: Faults
) -> None:
    faults.exits["update"] = Exit(255, "ImportError")

    first = deploy()

    assert first.status == Status.ROLLED_BACK, log_of(first)
    assert running(production) == []
    assert production.database not in runtime_for(production.server).databases.list()
    faults.exits.clear()
    assert deploy().status == Status.SUCCEEDED


def test_a_rollback_that_fails_is_loud_and_keeps_the_door_closed(
    deployed: Deployment,
    deploy: Any,
    production: Environment,
    remote: GitRemote,
    faults: Faults,
    caplog: pytest.LogCaptureFixture,
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.exits["update"] = Exit(255, "ParseError")
    faults.raised["databases.put_back"] = DatabaseError("PostgreSQL is gone")

    second = deploy()

    assert second.status == Status.ROLLBACK_FAILED
    assert "PostgreSQL is gone" in second.error
    assert any(record.levelname == "CRITICAL" for record in caplog.records)
    assert Door.objects.filter(environment=production).exists()
    assert not Client(production).write("into the unknown")


def test_a_module_missing_from_the_repository_is_refused_before_anything_is_touched(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    remote.commit("Second", {"other/__manifest__.py": "{'name': 'Other'}\n", "acme_notes/__manifest__.py": None})
    faults.calls.clear()

    second = deploy()

    assert second.status == Status.FAILED
    assert "acme_notes" in second.error
    assert not [call for call in faults.calls if call.startswith("edge.close")]


def test_another_odoo_version_is_refused_before_anything_is_touched(
    deployed: Deployment, deploy: Any, production: Environment, faults: Faults
) -> None:
    Environment.objects.filter(pk=production.pk).update(odoo_version="18.0")
    production.refresh_from_db()
    faults.calls.clear()

    second = deploy(forced=True)

    assert second.status == Status.FAILED
    assert "19.0" in second.error
    assert "18.0" in second.error
    assert not [call for call in faults.calls if call.startswith("edge.close")]


def test_an_unreachable_server_is_said_and_kept_on_its_row(
    deploy: Any, production: Environment, faults: Faults
) -> None:
    faults.raised["facts"] = ServerUnreachable("Server Sim does not answer.")

    first = deploy()

    production.server.refresh_from_db()
    assert first.status == Status.FAILED
    assert production.server.problem == "Server Sim does not answer."


def test_a_full_disk_is_noticed_before_anything_starts(
    deploy: Any, production: Environment, settings: Any, faults: Faults
) -> None:
    settings.OCORE_MIN_FREE_BYTES = 10**15

    first = deploy()

    assert first.status == Status.FAILED
    assert "disk left" in first.error
    assert not [call for call in faults.calls if call.startswith("images")]


def test_an_unknown_branch_is_named(deploy: Any) -> None:
    first = deploy(ref="nowhere")

    assert first.status == Status.FAILED
    assert "nowhere" in first.error


def test_a_repository_without_an_addon_says_so(deploy: Any, remote: GitRemote) -> None:
    remote.commit("Gone", dict.fromkeys(addon()) | {"README.md": "empty"})

    first = deploy()

    assert first.status == Status.FAILED
    assert "addon" in first.error.lower()


def test_a_plain_project_deploys_odoo_without_a_repository(queues: Queues, faults: Faults) -> None:
    environment = factories.environment(project=factories.project(), branch="")

    deployment = services.request_deployment(environment, Trigger.MANUAL, ADA)
    queues.run_all()

    deployment.refresh_from_db()
    assert deployment.status == Status.SUCCEEDED, log_of(deployment)
    assert deployment.image == "odoo:19.0"


def test_the_same_commit_is_built_once_for_staging_and_production(
    deploy: Any, production: Environment, queues: Queues, faults: Faults
) -> None:
    staging = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")
    deploy()
    services.request_deployment(staging, Trigger.MANUAL, ADA)
    queues.run_all()

    assert len([call for call in faults.calls if call.startswith("images.build")]) == 1
    assert Deployment.objects.get(environment=staging).image == Deployment.objects.get(environment=production).image


def test_a_newer_request_supersedes_the_queued_one_and_links_to_it(production: Environment, queues: Queues) -> None:
    older = services.request_deployment(production, Trigger.PUSH, ADA)
    newer = services.request_deployment(production, Trigger.PUSH, ADA)

    older.refresh_from_db()
    assert older.status == Status.SUPERSEDED
    assert older.superseded_by == newer


def test_only_one_of_two_workers_runs_a_deployment(production: Environment, queues: Queues, faults: Faults) -> None:
    deployment = services.request_deployment(production, Trigger.MANUAL, ADA)
    pipeline.run(deployment.pk)

    with pytest.raises(pipeline.Busy):
        pipeline.run(deployment.pk)


def test_a_second_deployment_waits_for_the_one_underway(production: Environment, queues: Queues) -> None:
    underway = factories.deployment(production, status=Status.RUNNING, heartbeat_at=timezone.now())
    queued = services.request_deployment(production, Trigger.MANUAL, ADA)

    with pytest.raises(pipeline.Busy):
        pipeline.run(queued.pk)

    queued.refresh_from_db()
    assert queued.status == Status.QUEUED
    recovery.reconcile()
    assert not queues.jobs.get("deployments")
    Deployment.objects.filter(pk=underway.pk).update(status=Status.FAILED)
    recovery.reconcile()
    assert queues.jobs["deployments"] == [("run_deployment", (queued.pk,))]


def test_cancelling_a_running_deployment_puts_everything_back(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    before = running(production)
    remote.commit("Second", addon("1.1"))

    def cancel(*_: Any) -> None:
        faults.raised.clear()
        services.cancel(Deployment.objects.get(status=Status.RUNNING), Who("grace"))

    faults.raised["databases.clone"] = cancel
    second = deploy()

    assert second.status == Status.CANCELLED, log_of(second)
    assert second.cancelled_by == "grace"
    assert running(production) == before
    assert Client(production).write("order")


def test_cancelling_past_the_point_of_no_return_is_refused_with_the_reason(
    deploy: Any, production: Environment, faults: Faults
) -> None:
    refused: list[str] = []

    def cancel(*_: Any) -> None:
        with pytest.raises(services.NotPossible) as error:
            services.cancel(Deployment.objects.get(status=Status.RUNNING), ADA)
        refused.append(error.value.message)

    faults.raised["edge.open"] = cancel

    assert deploy().status == Status.SUCCEEDED
    assert "point of no return" in refused[0]


def test_a_rollback_by_hand_with_data_brings_both_back_and_keeps_today(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    first = deployed
    client = Client(production)
    client.write("before the second")
    remote.commit("Second", addon("1.1"))
    second = deploy()
    client.write("after the second")

    back = services.roll_back(production, ADA, target=first, with_data=True)
    queues.run_all()

    back.refresh_from_db()
    assert back.status == Status.SUCCEEDED, log_of(back)
    assert back.image == first.image
    assert client.found == ["before the second"]
    safety = Snapshot.objects.get(deployment=back)
    edge: Any = runtime_for(production.server).edge
    assert edge.rows(safety.database) == ["before the second", "after the second"]

    forward = services.roll_back(production, ADA, target=second, with_data=True)
    queues.run_all()

    forward.refresh_from_db()
    assert forward.status == Status.SUCCEEDED, log_of(forward)
    assert client.found == ["before the second", "after the second"]


def test_a_rollback_by_hand_without_data_keeps_todays_data(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    first = deployed
    remote.commit("Second", addon("1.1"))
    deploy()
    client = Client(production)
    client.write("today")

    back = services.roll_back(production, ADA, target=first)
    queues.run_all()

    back.refresh_from_db()
    assert back.status == Status.SUCCEEDED, log_of(back)
    assert back.image == first.image
    assert client.found == ["today"]


def test_the_offer_of_a_rollback_says_how_old_the_data_will_be_and_which_modules_are_newer(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    first = deployed
    remote.commit("Second", addon("1.1"))
    second = deploy()

    offer = services.rollback_offer(production)

    assert offer.target == first
    assert offer.data_from == Snapshot.objects.get(deployment=second).taken_at
    assert offer.newer_modules == ("acme_notes",)


class Killed(BaseException):
    """As if the process had been killed: nothing of ours handles it."""


def test_a_worker_that_died_before_the_switch_is_taken_back_by_the_next(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues, monkeypatch: Any
) -> None:
    first = deployed
    client = Client(production)
    client.write("order 1")
    remote.commit("Second", addon("1.1"))
    faults.raised["containers.run"] = _die
    second = services.request_deployment(production, Trigger.PUSH, ADA)
    with pytest.raises(Killed):
        pipeline.run(second.pk)
    faults.raised.clear()
    assert recovery.abandoned() == []
    _make_stale(second)

    recovery.reconcile()
    queues.jobs["deployments"].clear()
    queues.run_all()

    second.refresh_from_db()
    assert second.status == Status.ROLLED_BACK, log_of(second)
    assert running(production) == [f"ocore-test-acme-production-main-d{first.pk}"]
    assert client.found == ["order 1"]
    assert client.write("order 2")


def test_a_worker_that_died_after_the_switch_is_completed_by_the_next(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.raised["edge.open"] = _die
    second = services.request_deployment(production, Trigger.PUSH, ADA)
    with pytest.raises(Killed):
        pipeline.run(second.pk)
    faults.raised.clear()
    _make_stale(second)

    pipeline.recover(second.pk)

    second.refresh_from_db()
    assert second.status == Status.SUCCEEDED, log_of(second)
    assert running(production) == [f"ocore-test-acme-production-main-d{second.pk}"]
    assert Client(production).write("order")


def test_a_completion_that_fails_is_not_taken_back_but_completed_later(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.raised["edge.open"] = EdgeError("The edge does not answer.")

    second = deploy()

    assert second.status == Status.RUNNING
    assert "The edge does not answer." in second.error
    faults.raised.clear()
    _make_stale(second)
    pipeline.recover(second.pk)
    second.refresh_from_db()
    assert second.status == Status.SUCCEEDED
    assert second.error == ""
    assert Client(production).write("order")


def test_a_worker_that_lost_its_deployment_does_nothing_more(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    remote.commit("Second", addon("1.1"))
    second = services.request_deployment(production, Trigger.PUSH, ADA)

    def taken_over(*_: Any) -> None:
        Deployment.objects.filter(pk=second.pk).update(token=99)
        faults.calls.clear()

    faults.raised["databases.clone"] = taken_over
    pipeline.run(second.pk)

    changing = ("containers.create", "containers.start", "databases.drop", "edge.open", "containers.remove")
    assert not [call for call in faults.calls if call.startswith(changing)]


def test_a_worker_that_lost_its_deployment_does_nothing_more_in_its_threads_either(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    """Another has taken over while the door was opening, beside which the old containers are removed."""
    first = deployed
    remote.commit("Second", addon("1.1"))
    second = services.request_deployment(production, Trigger.PUSH, ADA)

    def taken_over(*_: Any) -> None:
        Deployment.objects.filter(pk=second.pk).update(token=99)
        faults.calls.clear()

    faults.raised["edge.open"] = taken_over
    pipeline.run(second.pk)

    assert not [call for call in faults.calls if call.startswith("containers.remove")]
    assert runtime_for(production.server).containers.find(f"ocore-test-acme-production-main-d{first.pk}")


def test_what_was_read_ahead_of_a_long_build_is_read_again(
    deployed: Deployment,
    deploy: Any,
    production: Environment,
    remote: GitRemote,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.calls.clear()
    deploy()
    once = faults.calls.count(f"databases.query {production.database}")
    remote.commit("Third", addon("1.2"))
    monkeypatch.setattr(ahead, "FRESH_SECONDS", 0.0)
    faults.calls.clear()

    deploy()

    assert faults.calls.count(f"databases.query {production.database}") == once + 1


@pytest.mark.parametrize("another_at_work", [True, False])
def test_a_template_that_another_machine_may_just_be_making_is_not_tidied_away(
    deployed: Deployment,
    production: Environment,
    remote: GitRemote,
    faults: Faults,
    queues: Queues,
    another_at_work: bool,
) -> None:
    """Its lock is on that machine's disk; the rows tell of both."""
    remote.commit("Second", addon("1.1"))
    second = services.request_deployment(production, Trigger.MANUAL, ADA)
    faults.raised["databases.clone"] = _die
    with pytest.raises(Killed):
        pipeline.run(second.pk)
    databases, draft = runtime_for(production.server).databases, "ocore_base_0123456789ab_draft"
    databases.create(draft, "x")
    if another_at_work:
        staging = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")
        factories.deployment(staging, status=Status.RUNNING)
    faults.clear()
    _make_stale(second)

    pipeline.recover(second.pk)

    assert (draft in databases.list()) == another_at_work


def test_a_worker_that_was_held_up_between_two_steps_begins_no_step_of_what_has_ended_meanwhile(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues, monkeypatch: Any
) -> None:
    remote.commit("Second", addon("1.1"))
    second = services.request_deployment(production, Trigger.PUSH, ADA)
    close = pipeline._close

    def held_up(held: Any, row: Step, status: StepStatus, outcome: str) -> None:
        close(held, row, status, outcome)
        if row.kind == StepKind.DEPLOY and status == StepStatus.SUCCEEDED:
            _make_stale(second)
            pipeline.recover(second.pk)

    monkeypatch.setattr(pipeline, "_close", held_up)
    pipeline.run(second.pk)

    second.refresh_from_db()
    assert second.status == Status.ROLLED_BACK
    assert not second.steps.filter(status=StepStatus.RUNNING).exists()


def test_a_worker_that_dies_right_after_the_end_leaves_no_step_running(
    deploy: Any, production: Environment, monkeypatch: pytest.MonkeyPatch, queues: Queues, faults: Faults
) -> None:
    first = services.request_deployment(production, Trigger.PUSH, ADA)
    close = pipeline._close

    def dies(held: Any, row: Step, status: StepStatus, outcome: str) -> None:
        if row.kind == StepKind.COMPLETE:
            raise Killed
        close(held, row, status, outcome)

    monkeypatch.setattr(pipeline, "_close", dies)
    with pytest.raises(Killed):
        pipeline.run(first.pk)

    first.refresh_from_db()
    assert first.status == Status.SUCCEEDED
    assert kinds(first)[-1] == (StepKind.COMPLETE, StepStatus.SUCCEEDED)


def test_a_worker_that_comes_back_promises_no_snapshot_that_another_has_removed(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues, monkeypatch: Any
) -> None:
    remote.commit("Second", addon("1.1"))
    second = services.request_deployment(production, Trigger.PUSH, ADA)

    def held_up(*_: Any) -> None:
        """After the copy is made, and before that is on record."""
        _make_stale(second)
        pipeline.recover(second.pk)

    monkeypatch.setattr(planning, "plan_again", held_up)
    pipeline.run(second.pk)

    second.refresh_from_db()
    assert second.status == Status.ROLLED_BACK
    assert Snapshot.objects.get(deployment=second).state == Snapshot.State.GONE


def _die(*_: Any) -> None:
    raise Killed


def _make_stale(deployment: Deployment) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    Step.objects.filter(deployment=deployment, status=StepStatus.FAILED).update(status=StepStatus.RUNNING)


def test_who_looks_from_outside_does_not_stand_in_line_with_those_who_had_waited(
    deploy: Any, production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = simulated._Edge.fetch

    def busy(self: Any, host: str, path: str, *, past_the_door: Any = None, timeout: float = 10) -> Answer:
        if past_the_door is None:
            return Answer(0, "No answer within 3 s.", 3.0)
        return real(self, host, path, past_the_door=past_the_door, timeout=timeout)

    monkeypatch.setattr(simulated._Edge, "fetch", busy)
    deployment = deploy()
    assert deployment.status == Status.SUCCEEDED
    assert "busy with the requests that had waited" in deployment.steps.get(kind="complete").outcome
