"""What must not happen while something else happens, and what is made good when a worker dies or a server is away."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from deployments import control, forget, pipeline, recovery, removal, schedule, services
from deployments.bring_back import bring_back
from deployments.models import Deployment, Snapshot
from deployments.services import NotPossible, Who
from deployments.states import Status, StepKind, Trigger
from deployments.worker import abandon
from instances import doors
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import DatabaseError, Exit, RunFailed, ServerUnreachable
from instances.runtimes.simulated import Faults
from ocore.machine.processes import own_name
from projects.models import Environment, Server
from tests import factories
from tests.acme import ADA, Client, addon, log_of, running
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broken(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults, once: Any
) -> Deployment:
    """A deployment whose rollback failed, with order 1 in the data that is still to be put back."""
    remote.commit("Second", addon("1.1"))

    def make() -> None:
        Client(production).write("order 1")
        faults.exits["update"] = Exit(255, "ParseError")
        faults.raised["databases.put_back"] = DatabaseError("PostgreSQL is gone")
        assert deploy().status == Status.ROLLBACK_FAILED

    once("broken", make)
    return Deployment.objects.get(status=Status.ROLLBACK_FAILED)


def test_an_instance_is_not_restarted_while_a_deployment_is_underway(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    remote.commit("Second", addon("1.1"))
    refused: list[str] = []

    def restart(*_: Any) -> None:
        faults.raised.clear()
        control.carry_out(production.instances.get().pk, "restart")
        refused.extend(Door.objects.values_list("holder", flat=True))

    faults.raised["databases.clone"] = restart
    second = deploy()

    assert second.status == Status.SUCCEEDED, log_of(second)
    assert refused == [str(second)], "the deployment's door stayed closed"


def test_a_deployment_waits_while_an_instance_is_being_restarted(
    deployed: Deployment, production: Environment, faults: Faults, queues: Queues
) -> None:
    seen: list[str] = []

    def begin(*_: Any) -> None:
        faults.raised.clear()
        queued = services.request_deployment(production, Trigger.PUSH, ADA, forced=True)
        with pytest.raises(pipeline.Busy):
            pipeline.run(queued.pk)
        queues.jobs.pop("deployments", None)
        seen.append(queued.status)

    faults.raised["containers.start"] = begin
    control.request(production.instances.get(), "restart")
    queues.run_all()

    assert seen
    assert Deployment.objects.first().status == Status.SUCCEEDED, "it was handed on when the restart had ended"
    assert Client(production).write("order")


def test_a_restart_whose_worker_died_is_healed_by_the_clock(
    deployed: Deployment, production: Environment, faults: Faults
) -> None:

    instance = production.instances.get()
    instance.become(Instance.State.RESTARTING, timezone.now())
    doors.close(production, runtime_for(production.server), holder=f"restart of {instance}")
    Environment.objects.filter(pk=production.pk).update(
        busy_with="restart", busy_until=timezone.now() - timedelta(seconds=1)
    )
    Instance.objects.update(state_since=timezone.now() - timedelta(hours=1))

    recovery.reconcile()

    instance.refresh_from_db()
    assert instance.state == Instance.State.RUNNING
    assert not Door.objects.exists()
    assert Client(production).write("order")


def test_what_a_killed_horse_held_is_taken_over_at_once(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    remote.commit("Second", addon("1.1"))

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    faults.raised["containers.run"] = die
    second = services.request_deployment(production, Trigger.PUSH, ADA)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(second.pk)
    faults.clear()
    queues.jobs["deployments"].clear()

    Deployment.objects.filter(pk=second.pk).update(holder=f"{own_name().split()[0]} 1 0")
    abandon(second.pk)
    queues.run_all()

    second.refresh_from_db()
    assert second.status == Status.ROLLED_BACK
    assert Client(production).write("order")


def test_a_new_instance_does_not_take_the_others_off_the_edge(
    deployed: Deployment, deploy: Any, production: Environment, queues: Queues
) -> None:
    Instance.objects.create(environment=production, name="Second", slug="second")
    staging = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")

    deploy(staging)

    assert Client(production).write("order")


def test_an_instance_added_during_a_deployment_is_the_next_ones(
    deploy: Any, production: Environment, faults: Faults
) -> None:
    def add(*_: Any) -> None:
        faults.raised.clear()
        Instance.objects.create(environment=production, name="Second", slug="second")

    faults.raised["containers.exec"] = add
    first = deploy()

    assert first.status == Status.SUCCEEDED, log_of(first)
    assert production.instances.get(slug="second").state == Instance.State.NEW
    second = deploy(forced=True)
    assert second.status == Status.SUCCEEDED, log_of(second)
    assert len(running(production)) == 2


def test_after_a_failed_rollback_no_push_deploys_until_a_person_decides(
    broken: Deployment, production: Environment, faults: Faults
) -> None:
    with pytest.raises(NotPossible, match="a person must look"):
        services.request_deployment(production, Trigger.PUSH, ADA)
    with pytest.raises(NotPossible, match="closed by"):
        control.request(production.instances.get(), "restart")
    assert services.request_deployment(production, Trigger.MANUAL, ADA, forced=True).status == Status.QUEUED


def test_a_failed_rollback_can_be_tried_again_and_loses_nothing(
    broken: Deployment, production: Environment, queues: Queues
) -> None:
    services.retry_rollback(broken, Who("grace"))
    queues.run_all()

    broken.refresh_from_db()
    assert broken.status == Status.ROLLED_BACK, log_of(broken)
    assert "Then the rollback failed" not in broken.error
    assert Client(production).found == ["order 1"]
    assert Client(production).write("order 2")
    assert services.broken_by(production) is None


def test_a_closed_door_that_nobody_works_behind_keeps_no_other_environment_waiting(
    broken: Deployment, deploy: Any, production: Environment
) -> None:
    staging = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")
    assert deploy(staging).status == Status.SUCCEEDED


def test_a_passing_failure_in_a_rollback_is_tried_again(
    deploy: Any, production: Environment, remote: GitRemote, faults: Faults, settings: Any
) -> None:
    settings.OCORE_ROLLBACK_SECONDS = 10
    deploy()
    remote.commit("Second", addon("1.1"))
    faults.exits["update"] = Exit(255, "ParseError")

    def starting_up(*_: Any) -> None:
        faults.raised.clear()
        faults.calls.clear()
        raise DatabaseError("the database system is starting up")

    faults.raised["databases.put_back"] = starting_up
    second = deploy()

    assert second.status == Status.ROLLED_BACK, log_of(second)
    assert "prepare" in faults.calls


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_server_that_goes_away_during_a_rollback_is_waited_for_and_needs_nobody(
    deploy: Any,
    queues: Queues,
    production: Environment,
    remote: GitRemote,
    faults: Faults,
    settings: Any,
    cancelled: bool,
) -> None:
    settings.OCORE_ROLLBACK_SECONDS = 0
    first = deploy()
    remote.commit("Second", addon("1.1"))

    def away(*_: Any) -> None:
        if cancelled:
            services.cancel(Deployment.objects.get(status=Status.RUNNING), Who("grace"))
        for verb in ("databases.put_back", "containers.remove", "containers.start", "prepare"):
            faults.raised[verb] = ServerUnreachable("The server does not answer.")
        raise ServerUnreachable("The server does not answer.")

    faults.raised["containers.run"] = away
    second = deploy()
    assert second.status == (Status.CANCELLING if cancelled else Status.ROLLING_BACK)
    assert "It goes on once the server answers" in log_of(second)
    why = second.error

    for _ in range(3):  # the clock looks, and the server is still away
        Deployment.objects.filter(pk=second.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=1))
        recovery.reconcile()
        queues.run_all()
        second.refresh_from_db()
        assert not second.final
        assert second.error == why
    faults.clear()
    Deployment.objects.filter(pk=second.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    recovery.reconcile()
    queues.run_all()

    second.refresh_from_db()
    assert second.status == (Status.CANCELLED if cancelled else Status.ROLLED_BACK), log_of(second)
    assert running(production) == [f"ocore-test-acme-production-main-d{first.pk}"]
    assert not Door.objects.exists()


def test_where_the_engine_went_away_nothing_is_put_back_beside_what_still_works_there(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    """Containers outlive their engine, and with them what it was asked to run in them."""
    remote.commit("Second", addon("1.1"))
    faults.raised["databases.clone"] = ServerUnreachable("The server does not answer.")
    faults.calls.clear()

    assert deploy().status == Status.ROLLED_BACK

    calls = [call.partition(" ")[0] for call in faults.calls]
    undone = calls.index("databases.drop")
    assert {"databases.end_work", "filestores.end_work"} <= set(calls[:undone])


def test_a_copy_that_a_rollback_could_not_remove_goes_once_it_can(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    queues.left_out.clear()
    remote.commit("Second", addon("1.1"))
    faults.raised["containers.run"] = RunFailed("The update failed.")
    faults.raised["filestores.discard"] = ServerUnreachable("The server does not answer.")
    assert deploy().status == Status.ROLLED_BACK
    assert Snapshot.objects.get().state == Snapshot.State.REMOVING
    faults.clear()

    recovery.reconcile()
    queues.run_all()

    assert Snapshot.objects.get().state == Snapshot.State.GONE
    recovery.reconcile()
    assert not queues.jobs["slow"]
    Snapshot.objects.update(state=Snapshot.State.REMOVING)
    Deployment.objects.update(finished_at=timezone.now() - timedelta(hours=1))
    recovery.reconcile()
    assert not queues.jobs["slow"], "not every ten seconds for ever"


def test_a_database_that_is_locked_for_a_moment_when_a_build_ends_fails_nothing(
    deploy: Any, production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = schedule.hand_out
    failed: list[int] = []

    def locked_once(server: int) -> None:
        if Deployment.objects.filter(status=Status.RUNNING).exists() and not failed:
            failed.append(server)
            raise OperationalError("database is locked")
        real(server)

    monkeypatch.setattr(schedule, "hand_out", locked_once)

    assert deploy().status == Status.SUCCEEDED
    assert failed


def test_a_defect_met_while_taking_over_is_on_record(
    deployed: Deployment, production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deployed
    lost = factories.deployment(
        production, status=Status.RUNNING, heartbeat_at=None, switched_at=timezone.now(), image=first.image
    )

    def broken(_: Any) -> str:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(pipeline.STEPS[StepKind.COMPLETE], "perform", broken)
    with pytest.raises(ZeroDivisionError):
        pipeline.recover(lost.pk)

    lost.refresh_from_db()
    assert "ZeroDivisionError: a defect" in lost.error
    assert "report it" in lost.advice or "goes on trying" in lost.advice


def test_make_up_leaves_what_is_in_the_middle_of_something_alone(
    deployed: Deployment, production: Environment, faults: Faults
) -> None:
    first = deployed
    runtime = runtime_for(production.server)
    runtime.containers.stop(production.instances.get().container)
    underway = factories.deployment(production, status=Status.RUNNING, heartbeat_at=timezone.now())

    assert bring_back(production.server, print) == []

    Deployment.objects.filter(pk=underway.pk).update(status=Status.FAILED)
    assert bring_back(production.server, print) == [str(production.instances.get())]
    assert running(production) == [f"ocore-test-acme-production-main-d{first.pk}"]


def test_a_worker_that_lost_its_deployment_takes_nothing_back(
    deployed: Deployment, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    remote.commit("Second", addon("1.1"))
    second = services.request_deployment(production, Trigger.PUSH, ADA)

    def taken_over(*_: Any) -> None:
        Deployment.objects.filter(pk=second.pk).update(token=99)
        faults.raised.clear()
        faults.calls.clear()
        raise RunFailed("no memory")

    faults.raised["containers.create"] = taken_over
    pipeline.run(second.pk)

    changing = ("databases.put_back", "databases.drop", "edge.open", "containers.remove", "containers.start")
    assert not [call for call in faults.calls if call.startswith(changing)]


def test_an_old_container_that_cannot_be_removed_keeps_nothing_from_going_live(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.raised["containers.remove"] = RunFailed("device or resource busy")

    second = deploy()

    assert second.status == Status.SUCCEEDED
    assert "device or resource busy" in log_of(second)
    faults.clear()
    remote.commit("Third", addon("1.2"))
    third = deploy()
    containers = runtime_for(production.server).containers.list({"io.ocore.role": "odoo"})
    assert [one.name for one in containers] == [f"ocore-test-acme-production-main-d{third.pk}"]


def test_an_old_container_whose_engine_went_away_over_its_removal_goes_once_it_is_back(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote, faults: Faults, queues: Queues
) -> None:
    remote.commit("Second", addon("1.1"))
    faults.raised["edge.open"] = lambda *_: faults.raised.update(
        {"containers.remove": ServerUnreachable("The server does not answer.")}
    )
    second = deploy()
    assert second.switched_at
    assert not second.final
    faults.clear()
    Deployment.objects.filter(pk=second.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=1))

    recovery.reconcile()
    queues.run_all()

    second.refresh_from_db()
    assert second.status == Status.SUCCEEDED
    containers = runtime_for(production.server).containers.list({"io.ocore.role": "odoo"})
    assert [one.name for one in containers] == [f"ocore-test-acme-production-main-d{second.pk}"]


def test_a_job_that_finds_the_environment_busy_does_not_queue_itself_again(
    production: Environment, queues: Queues
) -> None:
    factories.deployment(production, status=Status.RUNNING, heartbeat_at=timezone.now())
    services.request_deployment(production, Trigger.PUSH, ADA)

    queues.run_all()

    assert not queues.jobs.get("deployments")


def test_a_server_whose_dsn_is_wrong_ends_the_deployment_with_a_reason(queues: Queues) -> None:
    server = factories.server(slug="bad", name="Bad", kind=Server.Kind.DOCKER)
    Server.objects.filter(pk=server.pk).update(endpoint="unix:///nowhere/docker.sock")
    server = Server.objects.get(pk=server.pk)
    server.postgres_dsn = "this is no dsn"
    server.save()
    environment = factories.environment(server=server, branch="")

    deployment = services.request_deployment(environment, Trigger.MANUAL, ADA)
    queues.run_all()

    deployment.refresh_from_db()
    assert deployment.status == Status.FAILED
    assert deployment.error


def test_secrets_stand_neither_in_the_error_nor_in_its_detail(
    deploy: Any, production: Environment, faults: Faults
) -> None:
    production.secret_variables = {"API": "hunter2-hunter2"}
    production.save()
    faults.exits["update"] = Exit(1, "2026-01-01 00:00:00,000 1 CRITICAL x odoo.x: could not use hunter2-hunter2\n")

    first = deploy()

    assert first.status == Status.ROLLED_BACK
    told = first.error + first.detail + first.advice + log_of(first) + "".join(s.outcome for s in first.steps.all())
    assert "hunter2" not in told


def test_an_environment_made_again_under_the_same_name_begins_behind_a_closed_door(
    deploy: Any, production: Environment, queues: Queues, faults: Faults
) -> None:
    staging = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")
    deploy(staging)
    removal.request(staging, ADA)
    queues.run_all()
    again = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")
    written: list[bool] = []
    faults.raised["containers.exec"] = lambda *_: written.append(Client(again).write("too early"))

    deploy(again)

    assert written
    assert not any(written)


def test_lost_data_is_said_and_only_a_person_lets_it_start_over(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    runtime_for(production.server).databases.drop(production.database)
    remote.commit("Second", addon("1.1"))

    second = deploy()

    assert second.status == Status.FAILED
    assert "not on Sim" in second.error
    assert "start_over" in second.advice
    forget.start_over(production, ADA)
    third = deploy()
    assert third.status == Status.SUCCEEDED, log_of(third)
    with pytest.raises(NotPossible, match="still has its database"):
        forget.start_over(production, ADA)


def test_a_database_of_the_same_name_is_never_taken_for_a_first_deployments_own(
    deploy: Any, production: Environment
) -> None:
    runtime = runtime_for(production.server)
    runtime.databases.create(production.database, "somebody")

    first = deploy()

    assert first.status == Status.FAILED
    assert runtime.databases.exists(production.database)


def test_the_first_of_several_instances_stays_because_it_runs_the_schedule(
    deploy: Any, production: Environment
) -> None:
    Instance.objects.create(environment=production, name="Second", slug="second")
    deploy()
    first, second = production.instances.order_by("pk")
    assert "scheduled actions" in control.removal_refusal(first)
    assert "scheduled" not in control.removal_refusal(second)


def test_an_instance_has_a_health_path_of_its_own(deploy: Any, production: Environment, faults: Faults) -> None:
    production.instances.update(health_path="/ready")
    asked: list[str] = []
    from instances.odoo import readiness

    real = readiness.probe

    def spy(*paths: str, **options: Any) -> Any:
        asked.extend(paths)
        return real(*paths, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readiness, "probe", spy)
        assert deploy().status == Status.SUCCEEDED
    assert asked == ["/ready", "/web/login"]


def test_two_workers_at_once_claim_a_deployment_once(production: Environment, queues: Queues, faults: Faults) -> None:
    from django.db import connection

    deployment = services.request_deployment(production, Trigger.MANUAL, ADA)
    outcomes: list[str] = []

    def work() -> None:
        try:
            outcomes.append(pipeline.run(deployment.pk).status)
        except pipeline.Busy:
            outcomes.append("busy")
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(outcomes) == ["busy", "busy", Status.SUCCEEDED]
