"""The clock's look at what should be up: the right path on each, and one bad server is only its own trouble."""

from typing import Any

import pytest

from deployments import probes
from instances.models import HealthCheck, Instance
from instances.runtimes import simulated
from instances.runtimes.base import Answer, ServerUnreachable
from projects.models import Environment, Server
from tests import factories

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
