"""The supervisor with the real Redis, web server and workers; `make down` and `make clean-machine` on a real engine."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import docker
import pytest
import redis
from django.conf import settings

from instances.runtimes.base import NAMESPACE_LABEL, ServerSpec
from instances.runtimes.docker import DockerRuntime
from instances.runtimes.docker.ownership import CONTAINER_LABEL
from ocore.machine.processes import Process, name_of

pytestmark = pytest.mark.real

PORTAL = """
import django, sys
django.setup()
from ocore.machine.prepare import prepare_portal
from ocore.machine.progress import Progress
from ocore.machine.supervisor import Supervisor
progress = Progress()
prepare_portal(progress)
with Supervisor(progress) as supervisor:
    supervisor.wait_for_web()
    print("answers", flush=True)
    supervisor.wait()
"""


def eventually(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer
    return answer


@pytest.fixture
def surroundings(tmp_path):
    """Environment of a portal of its own: state folder, port, namespace."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "ocore.settings",
        "OCORE_STATE_DIR": str(tmp_path),
        "OCORE_NAMESPACE": f"ocore-test-{uuid.uuid4().hex[:8]}",
        "OCORE_WEB_BIND": f"127.0.0.1:{port}",
        "OCORE_BASE_URL": f"http://localhost:{port}",
        "DATABASE_URL": f"sqlite:///{tmp_path}/ocore.sqlite3",
    }


def manage(surroundings, *arguments):
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env=surroundings,
        cwd=settings.BASE_DIR,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


@pytest.fixture
def portal(surroundings):
    process = subprocess.Popen(
        [sys.executable, "-c", PORTAL],
        env=surroundings,
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if line == "answers\n":
            break
    else:
        pytest.fail("".join(said))
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)


def children(portal) -> set[Process]:
    """Of all its threads."""
    tasks = Path(f"/proc/{portal.pid}/task").glob("*/children")
    found = {Process.of(int(pid)) for task in tasks for pid in task.read_text().split()}
    return found - {None}


def test_the_portals_redis_answers_its_own_user_only_and_on_no_port(surroundings, portal):
    path = Path(surroundings["OCORE_STATE_DIR"]) / "redis" / "redis.sock"
    client = redis.Redis(unix_socket_path=str(path))
    assert client.ping()
    assert client.config_get("port") == {"port": "0"}
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    client.close()


def test_every_program_that_is_killed_comes_back(surroundings, portal):
    before = children(portal)
    assert len(before) >= 6
    for process in before:
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: len(children(portal) - before) == len(before))
    port = surroundings["OCORE_WEB_BIND"].rpartition(":")[2]

    def healthy():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(port))) == 0

    eventually(healthy)


def test_make_down_stops_all_of_the_portal_within_seconds(surroundings, portal):
    everyone = children(portal)
    began = time.monotonic()
    outcome = manage(surroundings, "down")
    assert outcome.returncode == 0, outcome.stdout
    assert portal.wait(timeout=5) == 0
    assert time.monotonic() - began < 20
    assert [name_of(process.pid) for process in everyone if process.alive] == []


@pytest.fixture
def engine(surroundings):
    """A container, a volume and a network of this installation on the engine, and one of each of somebody else's,
    whose container is even made from an image of ours."""
    client = docker.from_env()
    image = DockerRuntime(ServerSpec(name="here")).images.ensure_base(settings.OCORE_EDGE_IMAGE, print).reference
    namespace = surroundings["OCORE_NAMESPACE"]
    ours, theirs = {NAMESPACE_LABEL: namespace}, {}
    names = {"ours": namespace, "theirs": f"somebody-{namespace}"}
    for whose, labels in (("ours", ours), ("theirs", theirs)):
        name = names[whose]
        own_name = {CONTAINER_LABEL: name} if whose == "ours" else {}
        client.volumes.create(name, labels=labels)
        client.networks.create(name, labels=labels)
        client.containers.run(
            image,
            ["600"],
            entrypoint="sleep",
            detach=True,
            init=True,
            name=name,
            labels=labels | own_name,
            volumes=[f"{name}:/mnt"],
            network=name,
        )
    yield client, names
    for name in names.values():
        in_container, in_volume, in_network = present(client, name)
        if in_container:
            client.containers.get(name).remove(force=True)
        if in_volume:
            client.volumes.get(name).remove()
        if in_network:
            client.networks.get(name).remove()
    client.close()


def present(client, name) -> tuple[bool, bool, bool]:
    return (
        any(container.name == name for container in client.containers.list(all=True)),
        any(volume.name == name for volume in client.volumes.list()),
        any(network.name == name for network in client.networks.list()),
    )


def test_make_down_stops_our_containers_and_keeps_them_and_the_engine(surroundings, engine):
    client, names = engine
    outcome = manage(surroundings, "down")
    assert outcome.returncode == 0, outcome.stdout
    assert client.containers.get(names["ours"]).status == "exited"
    assert client.containers.get(names["theirs"]).status == "running"
    assert client.ping()


def test_make_clean_machine_removes_what_is_ours_and_nothing_else(surroundings, engine):
    client, names = engine
    images = {image.id for image in client.images.list()}
    refused = manage(surroundings, "clean_machine")
    assert refused.returncode == 1
    assert "Nobody is here to be asked" in refused.stdout
    assert present(client, names["ours"]) == (True, True, True)
    outcome = manage(surroundings, "clean_machine", "--yes")
    assert outcome.returncode == 0, outcome.stdout
    assert f"container {names['ours']} removed" in outcome.stdout
    assert present(client, names["ours"]) == (False, False, False)
    assert present(client, names["theirs"]) == (True, True, True)
    assert client.containers.get(names["theirs"]).status == "running"
    assert {image.id for image in client.images.list()} >= images
