"""The keeper on a real engine, with real PostgreSQL and Caddy and a small stand-in for Odoo that asks its database."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings
from django.test import override_settings
from django.utils import timezone

from deployments import keeper, serving
from deployments.configuration import freeze
from deployments.models import Deployment
from deployments.states import Status, Trigger
from instances import doors, incidents
from instances.models import Incident, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Colour
from instances.runtimes.docker import DockerRuntime
from instances.runtimes.docker.inventory import remove_everything
from projects.models import Environment, Project, Server

logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.real, pytest.mark.usefixtures("module_db")]

WITHIN_SECONDS = 60.0
"""What is down serves again within this time."""


def quiet(_: str) -> None:
    pass


@dataclass
class Place:
    """Acme's production, live on this machine's engine."""

    instance: Instance
    runtime: DockerRuntime

    @property
    def api(self) -> Any:
        return self.runtime.engine.api

    @property
    def parts(self) -> dict[str, str]:
        """Names of the containers, by what they are."""
        named = {part: name for name, part in self.runtime.parts.items()}
        return named | {"instance": self.instance.container}

    def status(self) -> int:
        """What a client gets, through the open door."""
        server = self.instance.environment.server
        try:
            return requests.get(
                f"http://127.0.0.1:{server.edge_port}/web/login",
                headers={"Host": self.instance.environment.hostname},
                timeout=5,
            ).status_code
        except requests.RequestException:
            return 0

    def keep_until_it_serves(self, what: str = "") -> float:
        """Be the clock. Seconds until a client is served and no incident is left, and one of that part is on record."""
        began = time.monotonic()
        while time.monotonic() - began < WITHIN_SECONDS:
            keeper.keep()
            noticed = not what or Incident.objects.filter(part=what).exists()
            if noticed and not incidents.unended().exists() and self.status() == 200:
                return time.monotonic() - began
            time.sleep(1)
        raise AssertionError(f"{self.status()}; {list(Incident.objects.values())}")


@pytest.fixture(scope="module")
def place(module_db: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    namespace = f"{settings.OCORE_NAMESPACE}-keeper"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with override_settings(OCORE_NAMESPACE=namespace, OCORE_HOLD_SECONDS=5):
        server = Server.objects.create(name="Keeper", slug="keeper", edge_port=port)
        runtime: Any = runtime_for(server)
        remove_everything(runtime.engine.api, namespace)
        try:
            yield Place(_go_live(server, runtime, tmp_path_factory.mktemp("image")), runtime)
        finally:
            remove_everything(runtime.engine.api, namespace)


def _go_live(server: Server, runtime: DockerRuntime, folder: Path) -> Instance:
    project = Project.objects.create(name="Acme", slug="acme")
    environment = Environment.objects.create(project=project, server=server, name="Production", slug="production")
    Instance.ensure_first(environment)
    (folder / "odoo").write_text((Path(__file__).parent / "odoo_stand_in.py").read_text())
    base = settings.OCORE_ODOO_IMAGE.format(version="19.0")
    (folder / "Dockerfile").write_text(
        f"FROM {base}\nUSER 0\nCOPY odoo /usr/local/bin/odoo\nRUN chmod 755 /usr/local/bin/odoo\nUSER odoo\n"
    )
    image = runtime.images.build(f"{settings.OCORE_NAMESPACE}/acme:1", folder, {}, quiet, timeout=300, silence=300)
    runtime.prepare(quiet)
    runtime.databases.create_role(environment.database, environment.database_password)
    runtime.databases.create(environment.database, environment.database)
    runtime.databases.query(
        environment.database, "CREATE TABLE written (what text); INSERT INTO written VALUES ('kept')"
    )
    deployment = Deployment.objects.create(
        environment=environment,
        trigger=Trigger.MANUAL,
        status=Status.SUCCEEDED,
        live=True,
        live_at=timezone.now(),
        image=image.reference,
        image_id=image.id,
    )
    [instance] = environment.instances.all()
    [spec] = serving.containers(deployment, freeze(deployment), [instance], runtime)
    runtime.containers.create(spec)
    runtime.containers.start(spec.name)
    runtime.containers.join_edge(spec.name, instance.name_at_edge(Colour.BLUE))
    instance.become(Instance.State.RUNNING, timezone.now(), container=spec.name)
    doors.ensure_routes(server, runtime, quiet)
    doors.lead(environment, runtime)
    return instance


@pytest.fixture
def live(place: Place) -> Place:
    """Serving, with no incident on record."""
    Incident.objects.all().delete()
    place.keep_until_it_serves()
    Incident.objects.all().delete()
    place.instance.refresh_from_db()
    return place


DEATHS = ("docker kill", "docker stop", "docker rm -f", "docker pause", "kill -9 of its process")


def die(place: Place, name: str, how: str) -> None:
    match how:
        case "docker kill":
            place.api.kill(name)
        case "docker stop":
            place.api.stop(name, timeout=2)
        case "docker rm -f":
            place.api.remove_container(name, force=True)
        case "docker pause":
            place.api.pause(name)
        case _:
            os.kill(place.api.inspect_container(name)["State"]["Pid"], signal.SIGKILL)


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.parametrize("what", ["instance", "edge", "limiter", "postgres"])
def test_what_died_serves_again_within_a_minute_and_is_on_record(live: Place, what: str, how: str) -> None:
    name = live.parts[what]
    before = live.api.inspect_container(name)["State"]["StartedAt"]

    die(live, name, how)
    seconds = live.keep_until_it_serves(what)

    logger.warning("%s of %s: served again after %.1f s", how, what, seconds)
    incident = Incident.objects.get(part=what)
    assert incident.outcome == Incident.Outcome.BROUGHT_BACK, incident.problem
    assert incident.attempts in (1, 2)
    after = live.api.inspect_container(name)
    assert after["State"]["StartedAt"] != before
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert live.runtime.databases.query(live.instance.environment.database, "SELECT what FROM written") == [["kept"]]
    live.instance.refresh_from_db()
    assert (live.instance.state, live.instance.problem) == (Instance.State.RUNNING, "")


def test_everything_at_once_comes_back(live: Place) -> None:
    for name in live.parts.values():
        die(live, name, "docker rm -f")

    seconds = live.keep_until_it_serves()

    logger.warning("everything: served again after %.1f s", seconds)
    assert {one.part for one in Incident.objects.all()} == {"instance", "edge", "limiter", "postgres"}


def test_an_edge_that_lost_its_volume_too_has_its_routes_and_its_open_door_again(live: Place) -> None:
    name = live.parts["edge"]
    live.api.remove_container(name, force=True)
    live.api.remove_volume(name)

    live.keep_until_it_serves()

    assert live.runtime.edge.doors() == {live.instance.alias: Colour.BLUE}


def test_what_a_person_stopped_stays_stopped(live: Place) -> None:
    """The engine's restart policy doesn't start it either: it was stopped, not ended."""
    live.runtime.containers.stop(live.instance.container)
    live.instance.become(Instance.State.STOPPED, timezone.now())
    try:
        for _ in range(3):
            keeper.keep()
        assert not live.runtime.containers.find(live.instance.container).running
        assert not Incident.objects.exists()
    finally:
        live.instance.become(Instance.State.RUNNING, timezone.now())


def test_one_that_was_taken_off_the_edges_network_is_put_back_behind_it(live: Place) -> None:
    live.runtime.containers.leave_edge(live.instance.container)
    incidents.notice(Incident.Part.INSTANCE, live.instance.environment.server, "No answer.", instance=live.instance)

    live.keep_until_it_serves()

    assert Incident.objects.get().outcome == Incident.Outcome.BROUGHT_BACK


def test_without_its_image_it_says_so_at_once(live: Place) -> None:
    live.api.remove_container(live.instance.container, force=True)
    image = Deployment.objects.get().image_id
    Deployment.objects.update(image="ocore-test-keeper/gone:1", image_id="")
    try:
        keeper.keep()
        incident = Incident.objects.get()
        assert incident.given_up
        assert "again with force" in incident.advice
    finally:
        Deployment.objects.update(image=image, image_id=image)
        Incident.objects.all().delete()


def test_a_look_at_what_runs_is_cheap(live: Place) -> None:
    began = time.monotonic()
    for _ in range(5):
        keeper.keep()
    seconds = (time.monotonic() - began) / 5
    logger.warning("a look takes %.0f ms", seconds * 1000)
    assert seconds < 2
