"""Who holds something is a process that lives or doesn't: nobody waits for the dead, nobody meets the undead."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deployments import control, recovery
from deployments.fence import fenced
from deployments.models import Deployment
from deployments.retention import strays
from deployments.run import Busy, Lost, take_over
from deployments.states import Status
from instances import doors
from instances.models import Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import HOLDER_LABEL, Container
from ocore.machine.processes import die_with_parent, is_dead, kill_named, own_name
from projects.models import Environment, Server
from tests import factories

NAMED = "import sys; from ocore.machine.processes import own_name; print(own_name(), flush=True); sys.stdin.read()"


@pytest.fixture
def other() -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """Another process, and its name."""
    argv = [sys.executable, "-c", NAMED]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, process.stdout.readline().strip()
        process.kill()


def dead() -> str:
    return f"{own_name().split()[0]} 1 0"


def underway(holder: str) -> Deployment:
    return factories.deployment(
        factories.environment(), status=Status.RUNNING, holder=holder, heartbeat_at=timezone.now(), token=1
    )


def test_a_process_is_dead_once_it_has_been_killed_and_nobody_knows_of_another_machines(other: Any) -> None:
    process, name = other
    assert not is_dead(name)
    assert not is_dead(own_name())

    kill_named(name)

    assert process.wait() == -signal.SIGKILL
    assert is_dead(name)
    assert is_dead(dead()), "its pid is another's now"
    assert not is_dead("another-machine 1 1")
    assert not is_dead("")


def test_a_process_never_kills_itself_by_its_name() -> None:
    kill_named(own_name())
    kill_named("another-machine 1 1")


def test_a_child_that_finds_its_parent_gone_dies() -> None:
    pid = os.fork()
    if pid == 0:
        die_with_parent(os.getppid() + 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.django_db
def test_what_a_dead_process_held_is_abandoned_at_once_and_a_living_ones_is_not() -> None:
    deployment = underway(own_name())
    assert recovery.abandoned() == []
    with pytest.raises(Busy):
        take_over(deployment.pk)
    Deployment.objects.update(holder=dead())

    assert recovery.abandoned() == [deployment.pk]
    taken = take_over(deployment.pk)

    assert (taken.token, taken.holder) == (2, own_name())
    with pytest.raises(Busy):
        take_over(deployment.pk)


@pytest.mark.django_db
def test_whoever_takes_over_from_one_that_stands_still_kills_it_first(other: Any) -> None:
    process, name = other
    process.send_signal(signal.SIGSTOP)
    deployment = underway(name)
    Deployment.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))

    take_over(deployment.pk)

    assert process.wait() == -signal.SIGKILL


@pytest.mark.django_db
def test_nobody_takes_over_from_one_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = underway(own_name())
    Deployment.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    monkeypatch.setattr("deployments.run.kill_named", lambda _: False)

    with pytest.raises(Busy, match="cannot be killed"):
        take_over(deployment.pk)
    deployment.refresh_from_db()
    assert deployment.token == 1


@pytest.mark.django_db
def test_each_side_effect_is_asked_for_first_and_a_look_is_not(environment: Environment) -> None:
    def refuse() -> None:
        raise Lost("no longer ours")

    runtime = fenced(runtime_for(environment.server), refuse)

    assert runtime.containers.find("nothing") is None
    assert runtime.databases.exists("nothing") is False
    for act in (
        lambda: runtime.containers.remove("x"),
        lambda: runtime.databases.drop("x"),
        lambda: runtime.filestores.discard("x", "y"),
        lambda: runtime.edge.open("x"),
        lambda: runtime.prepare(str),
    ):
        with pytest.raises(Lost):
            act()


@pytest.fixture
def environment(db: None) -> Environment:
    return factories.environment()


def test_nobody_waits_for_a_reload_or_a_restart_whose_process_died(environment: Environment, queues: Any) -> None:
    later = timezone.now() + timedelta(minutes=5)
    Server.objects.update(reloading_until=later, reloading_by=own_name())
    Environment.objects.update(busy_until=later, busy_with="restart", busy_by=own_name())
    Instance.objects.update(state=Instance.State.RESTARTING, state_since=timezone.now(), container="gone")
    doors.heal()
    control.heal()
    environment.refresh_from_db()
    assert environment.busy
    assert Server.objects.get().reloading_until

    Server.objects.update(reloading_by=dead())
    Environment.objects.update(busy_by=dead())
    doors.heal()
    control.heal()

    environment.refresh_from_db()
    assert (environment.busy, environment.busy_with) == (False, "")
    assert Server.objects.get().reloading_until is None
    assert Instance.objects.get().state == Instance.State.FAILED


@pytest.mark.parametrize(("holder", "stays"), [(dead, False), (own_name, True), (lambda: "another-machine 1 1", True)])
def test_a_helper_that_somebody_may_be_waiting_for_stays_and_one_of_the_dead_goes_at_once(holder, stays) -> None:
    helper = Container("x-files-1", "1", "exited", created_at=timezone.now(), labels={HOLDER_LABEL: holder()})
    assert bool(strays.young(helper)) is stays
