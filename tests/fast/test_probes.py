"""The clock's look at what should be up: the right path on each, and one bad server is only its own trouble."""

from typing import Any

import pytest

from deployments import control, probes, recovery, schedule
from instances import incidents
from instances.models import HealthCheck, Incident, Instance
from instances.runtimes import simulated
from instances.runtimes.base import Answer, ServerUnreachable
from projects.models import Environment, Server
from tests import factories
from tests.conftest import Queues

pytestmark = pytest.mark.django_db


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Instead of real edges: the path that each host name was asked for; a host called `gone` is unreachable."""
    paths: dict[str, str] = {}

    def fetch(_self: Any, host: str, path: str, **_: Any) -> Answer:
        if host.startswith("gone"):
            raise ServerUnreachable("The engine of it does not answer.")
        paths[host.split(".")[0]] = path
        return Answer(200)

    monkeypatch.setattr(simulated._Edge, "fetch", fetch)
    return paths


def live(slug: str, **fields: Any) -> Environment:
    made = factories.environment(name=slug, slug=slug, **fields)
    factories.deployment(made, live=True)
    made.instances.update(state=Instance.State.RUNNING)
    return made


def test_each_environment_is_asked_by_the_health_path_that_applies_to_its_first_instance(
    asked: dict[str, str], settings: Any
) -> None:
    settings.OCORE_DEFAULTS = settings.OCORE_DEFAULTS | {"health_path": "/from/default"}
    live("default")
    live("environment", health_path="/from/environment")
    instance = live("instance", health_path="/from/environment").instances.get()
    Instance.objects.filter(pk=instance.pk).update(health_path="/from/instance")
    Instance.objects.create(environment=instance.environment, name="blue", slug="blue", health_path="/from/blue")

    probes.probe_all()

    assert asked == {
        "default-acme": "/from/default",
        "environment-acme": "/from/environment",
        "instance-acme": "/from/instance",
    }


def test_a_server_that_cannot_be_asked_is_down_and_the_others_are_still_looked_at(asked: dict[str, str]) -> None:
    live("first")
    broken = Server.objects.create(
        name="Broken", slug="broken", kind=Server.Kind.DOCKER, postgres_dsn="postgresql://a:hidden@localhost/x"
    )
    live("bad-dsn", server=broken)
    live("gone")
    live("last")

    probes.probe_all()

    looks = {one.environment.slug: (one.ok, one.detail) for one in HealthCheck.objects.all()}
    assert looks["first"] == looks["last"] == (True, "")
    assert looks["gone"] == (False, "The engine of it does not answer.")
    assert looks["bad-dsn"][0] is False
    assert "DSN" in looks["bad-dsn"][1]
    assert "hidden" not in looks["bad-dsn"][1]


def broken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No host name answers; which questions the engines were asked."""
    asked: list[str] = []

    def fetch(_self: Any, host: str, path: str, **_: Any) -> Answer:
        asked.append(host)
        return Answer(0, "timed out")

    def listed(_self: Any, labels: Any) -> list[Any]:
        asked.append("list")
        raise ServerUnreachable("The engine of it does not answer.")

    def find(_self: Any, name: str) -> None:
        raise AssertionError("each container is asked for")

    monkeypatch.setattr(simulated._Edge, "fetch", fetch)
    monkeypatch.setattr(simulated._Containers, "list", listed)
    monkeypatch.setattr(simulated._Containers, "find", find)
    return asked


def test_a_server_is_asked_for_its_containers_once_however_many_environments_do_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("one", "two", "three"):
        live(name).instances.update(container=f"c-{name}")
    asked = broken(monkeypatch)

    probes.probe_all()

    assert asked.count("list") == 1
    assert {one.problem for one in Instance.objects.all()} == {"The engine of it does not answer."}


def test_a_server_whose_engine_is_known_to_be_down_is_not_asked_for_its_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instances = [live(f"e{number}").instances.get() for number in range(20)]
    Instance.objects.update(container="c")
    incidents.notice(Incident.Part.ENGINE, instances[0].environment.server, "It is silent.")
    asked = broken(monkeypatch)

    probes.probe_all()

    assert "list" not in asked
    assert len(asked) <= probes.AT_ONCE
    assert {one.problem for one in Instance.objects.all()} == {"It is silent."}


def test_what_only_needs_rows_comes_before_any_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(schedule, "hand_out_everywhere", lambda: done.append("slots"))
    monkeypatch.setattr(control, "heal", lambda: done.append("servers"))

    recovery.reconcile()

    assert done == ["slots", "servers"]


def test_an_instance_on_a_server_whose_engine_is_down_is_healed_later(
    monkeypatch: pytest.MonkeyPatch, queues: Queues
) -> None:
    instance = live("left").instances.get()
    Instance.objects.update(state=Instance.State.RESTARTING, container="c", state_since=None)
    incident = incidents.notice(Incident.Part.ENGINE, instance.environment.server, "It is silent.")

    with monkeypatch.context() as engine:
        broken(engine)
        control.heal()
    instance.refresh_from_db()
    assert instance.state == Instance.State.RESTARTING

    incidents.end(incident)
    control.heal()
    instance.refresh_from_db()
    assert instance.state == Instance.State.FAILED
