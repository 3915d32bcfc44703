"""Limits that protect, as data: what is inherited, what the edge is told, and a limiter that is down."""

import json
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from deployments.condition import State, conditions
from deployments.keeper import keep
from instances import doors, edge_limits
from instances.edge_access import LOOK_HEADER
from instances.edge_config import configuration
from instances.limiter import CONFIGURATION, Limiter
from instances.models import Incident
from instances.processes import serving
from instances.runtimes import runtime_for
from instances.runtimes.base import ContainerSpec, Limits, Route, RunFailed, ServerSpec, Upstream
from instances.runtimes.docker import container_config
from projects.models import Environment, Project
from tests import factories

LIMITER = "simulated-limiter"


def asked(limits: Limits) -> list[dict[str, Any]]:
    route = Route("acme", ("a.test",), (Upstream("a"),), limits=limits)
    return edge_limits.in_front(route, except_for={LOOK_HEADER: ["k"]})


@pytest.mark.django_db
def test_an_environments_route_has_its_limits_inherited_from_its_project(settings: Any) -> None:
    environment = factories.environment()
    environment.instances.update(state="running")
    default = settings.OCORE_DEFAULTS
    assert doors.routes(environment.server)[0].limits == Limits(
        default["requests_per_second"], default["request_burst"]
    )
    Project.objects.update(requests_per_second=7, request_burst=9)
    assert doors.routes(environment.server)[0].limits == Limits(7, 9)
    Environment.objects.update(requests_per_second=0)
    assert doors.routes(environment.server)[0].limits == Limits(0, 9)


def test_nobody_is_asked_where_nothing_is_limited() -> None:
    assert asked(Limits(0, 300)) == []


def test_the_limiter_is_asked_with_key_address_rate_and_burst_and_gets_no_secret() -> None:
    (route,) = asked(Limits(7, 9))
    (ask,) = route["handle"]
    assert ask["headers"]["request"]["set"] == {
        "X-Ocore-Key": ["acme"],
        "X-Ocore-Address": ["{http.vars.client_ip}"],
        "X-Ocore-Rate": ["7"],
        "X-Ocore-Burst": ["9"],
    }
    assert {"Cookie", "Authorization"} <= set(ask["headers"]["request"]["delete"])
    assert ask["rewrite"]["method"] == "GET"
    assert route["match"] == [{"not": [{"header": {LOOK_HEADER: ["k"]}}]}]


def test_the_edge_answers_itself_in_the_limiters_place_on_its_own_loopback_only() -> None:
    data = configuration([], pass_key="k", hold_seconds=1)
    assert data["apps"]["http"]["servers"]["passing"]["listen"] == ["127.0.0.1:2021"]
    (route,) = asked(Limits(7, 9))
    assert [one["dial"] for one in route["handle"][0]["upstreams"]] == ["unix//limiter/ask.sock", "127.0.0.1:2021"]


def test_the_limits_come_before_everything_else_of_an_environment() -> None:
    route = Route("acme", ("a.test",), (Upstream("a"),), limits=Limits(7, 9))
    text = json.dumps(configuration([route], pass_key="k", hold_seconds=1))
    assert text.index("X-Ocore-Rate") < text.index("/ocore-pass") < text.index("/web/database")


def test_the_limiter_has_no_port_and_counts_what_was_let_on_only() -> None:
    lines = [line.strip() for line in CONFIGURATION.splitlines()]
    assert [line for line in lines if line.startswith("bind")] == ["bind unix@/limiter/ask.sock mode 600"]
    refused = next(at for at, line in enumerate(lines) if "429" in line)
    assert all(at > refused for at, line in enumerate(lines) if "sc-inc" in line)


@pytest.mark.django_db
@pytest.mark.parametrize("value", [-1.0, 0.05, 1000.0, float("nan"), float("inf")])
def test_a_number_of_processors_that_is_none_is_refused(value: float) -> None:
    environment = factories.environment()
    environment.cpu_limit = value
    with pytest.raises(ValidationError, match="no number of processors"):
        environment.full_clean()


@pytest.mark.django_db
def test_the_container_gets_the_cpus_of_its_instance(settings: Any) -> None:
    environment = factories.environment(cpu_limit=1.5)
    instance = environment.instances.get()
    runtime = runtime_for(environment.server)
    values: dict[str, Any] = settings.OCORE_DEFAULTS | {"cpu_limit": 1.5}
    assert serving(instance, 1, "image", values, runtime, addons=False, cron=True).cpus == 1.5
    del values["cpu_limit"]
    assert serving(instance, 1, "image", values, runtime, addons=False, cron=True).cpus == 0, "frozen before it existed"


class Api:
    """As much of the engine as a container's configuration asks."""

    def info(self) -> dict[str, int]:
        return {"NCPU": 2}

    def create_host_config(self, **given: Any) -> dict[str, Any]:
        return given


@pytest.mark.parametrize(("cpus", "nano"), [(0, None), (1.5, 1_500_000_000), (64, 2_000_000_000)])
def test_the_engine_is_never_asked_for_more_processors_than_it_has(cpus: float, nano: int | None) -> None:
    made = container_config.arguments(Api(), ContainerSpec("a", "b", cpus=cpus), "ns")  # type: ignore[arg-type]
    assert made["host_config"]["nano_cpus"] == nano


def test_a_container_without_such_a_limit_is_the_one_that_it_was_before_there_was_one() -> None:
    spec = ContainerSpec("a", "b")
    assert container_config.fingerprint(spec) != container_config.fingerprint(ContainerSpec("a", "b", cpus=1))


@pytest.fixture
def live(deployed: Any, production: Environment) -> Environment:
    return production


@pytest.mark.django_db(transaction=True)
def test_a_limiter_that_is_down_is_an_incident_and_is_brought_back_while_clients_are_served(live: Environment) -> None:
    runtime = runtime_for(live.server)
    runtime.containers.stop(LIMITER)
    assert conditions([live])[0].state == State.UP
    keep()
    incident = Incident.objects.get()
    assert (incident.part, incident.outcome) == ("limiter", "brought_back")
    found = runtime.containers.find(LIMITER)
    assert found
    assert found.running


@pytest.mark.django_db(transaction=True)
def test_a_limiter_that_does_not_come_back_keeps_nothing_else_from_being_kept(
    live: Environment, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtime_for(live.server)
    instance = live.instances.get()
    runtime.containers.stop(LIMITER)
    runtime.containers.stop(instance.container)
    faults.raised["prepare"] = RunFailed("No image.")
    keep()
    incidents = {one.part: one for one in Incident.objects.all()}
    assert incidents["limiter"].outcome == "open"
    assert "No image." in incidents["limiter"].problem
    found = runtime.containers.find(instance.container)
    assert found
    assert found.running


def test_the_limiter_is_asked_to_stop_in_a_way_that_it_hears() -> None:
    limiter = Limiter(ServerSpec("this machine", namespace="ocore-test"), None, None)  # type: ignore[arg-type]
    assert limiter._container().stop_signal == "SIGUSR1"
    assert "hard-stop-after 1s" in CONFIGURATION
