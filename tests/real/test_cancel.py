"""Cancelling on a real engine, while something says nothing: it ends within seconds, and nothing of it is left."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from django.conf import settings
from django.db import connection
from django.test import override_settings

from deployments import services
from deployments.models import Deployment, LogChunk
from deployments.services import Who
from deployments.states import Status, Trigger
from instances import templates
from instances.runtimes import runtime_for
from instances.runtimes.base import BuildFailed, ContainerSpec, ServerSpec
from instances.runtimes.docker import DockerRuntime
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.inventory import everything_of, remove_everything
from instances.runtimes.docker.leftovers import sweep
from instances.runtimes.docker.ownership import LAYER_LABEL
from ocore import waiting
from projects.models import Environment, Project, Server
from tests.acme import addon, log_of
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True)]

NAMESPACE = "ocore-test-cancel"
SLOW = f"{NAMESPACE}/slow:19.0"
SOON = 5.0
"""Seconds from the cancellation to its end; two on a machine that has nothing else to do."""


class Enough(Exception):
    pass


@pytest.fixture(autouse=True)
def _namespace(_own_state: None) -> Iterator[None]:
    with override_settings(OCORE_NAMESPACE=NAMESPACE):
        yield


@pytest.fixture(scope="module")
def api() -> Iterator[docker.APIClient]:
    api = Engine(ServerSpec("this machine", namespace=NAMESPACE)).api
    remove_everything(api, NAMESPACE)
    yield api
    remove_everything(api, NAMESPACE)
    assert not everything_of(api, NAMESPACE)


@pytest.fixture
def runtime(api: docker.APIClient) -> DockerRuntime:
    return DockerRuntime(ServerSpec("this machine", namespace=NAMESPACE, edge_bind="127.0.0.1", edge_port=18097))


@pytest.fixture
def slow(runtime: DockerRuntime, tmp_path: Path) -> str:
    """An “Odoo” whose programs say nothing and never end."""
    base = runtime.images.ensure_base(settings.OCORE_EDGE_IMAGE, lambda _: None)
    names = "/usr/bin/odoo /usr/bin/pip3 /usr/bin/python3"
    script = f"for name in {names}; do printf '#!/bin/sh\\nexec sleep 600\\n' > $name; chmod 755 $name; done"
    context = tmp_path / "slow"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base.reference}\nUSER root\nRUN adduser -D odoo; {script}\n")
    return runtime.images.build(SLOW, context, {}, lambda _: None, timeout=60, silence=60).reference


def left_of_builds(api: docker.APIClient) -> list[str]:
    label = {"label": f"{LAYER_LABEL}={NAMESPACE}"}
    unnamed = api.images(filters=label | {"dangling": True})
    return [one["Id"] for one in [*api.containers(all=True, filters=label), *unnamed]]


def called_away_after(seconds: float) -> Callable[[], None]:
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > seconds:
            raise Enough

    return check


def context_of(folder: Path, *steps: str, base: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text("\n".join([f"FROM {base}", *steps]) + "\n")
    return folder


def test_a_silent_build_ends_with_its_containers_and_layers(
    runtime: DockerRuntime, slow: str, api: docker.APIClient, tmp_path: Path
) -> None:
    context = context_of(tmp_path / "context", "RUN echo one > /one", "RUN sleep 600", base=slow)
    said: list[str] = []
    began: list[float] = []

    def check() -> None:
        if "Running in" in "".join(said).partition("sleep 600")[2]:
            assert left_of_builds(api), "there is something to be left"
            began.append(time.monotonic())
            raise Enough

    with pytest.raises(Enough), waiting.heeding(check):
        runtime.images.build(f"{NAMESPACE}/a:1", context, {}, said.append, timeout=60, silence=60)

    assert time.monotonic() - began[0] < SOON
    assert left_of_builds(api) == []
    assert runtime.images.find(f"{NAMESPACE}/a:1") is None


def test_a_build_that_fails_or_passes_its_deadline_leaves_nothing_either(
    runtime: DockerRuntime, slow: str, api: docker.APIClient, tmp_path: Path
) -> None:
    for step, silence, says in (("RUN exit 3", 60, "The build failed"), ("RUN sleep 600", 4, "said nothing for 4 sec")):
        context = context_of(tmp_path / "context", "RUN echo one > /one", step, base=slow)
        with pytest.raises(BuildFailed, match=says) as late:
            runtime.images.build(f"{NAMESPACE}/a:1", context, {}, lambda _: None, timeout=90, silence=silence)
        assert late.value.detail, "its last words"
        assert left_of_builds(api) == []


def test_what_an_engine_that_was_killed_has_left_goes_with_the_next_build(
    runtime: DockerRuntime, slow: str, api: docker.APIClient, tmp_path: Path
) -> None:
    labels = {LAYER_LABEL: NAMESPACE}
    container = api.create_container(slow, ["sh", "-c", "echo half"], labels=labels)
    layer = api.commit(container["Id"], conf={"Labels": labels})
    api.create_container(layer["Id"], ["true"], labels=labels)
    assert len(left_of_builds(api)) == 3
    context = context_of(tmp_path / "context", "RUN echo one > /one", base=slow)

    image = runtime.images.build(f"{NAMESPACE}/a:1", context, {}, lambda _: None, timeout=60, silence=60)

    assert left_of_builds(api) == []
    sweep(runtime.engine, NAMESPACE)
    assert runtime.images.find(f"{NAMESPACE}/a:1") == image, "its own layers stay"
    assert image.labels[LAYER_LABEL] == ""


def test_a_silent_container_is_removed(runtime: DockerRuntime, slow: str) -> None:
    spec = ContainerSpec(name=f"{NAMESPACE}-silent", image=slow, entrypoint=("sleep", "600"))
    began = time.monotonic()

    with pytest.raises(Enough), waiting.heeding(called_away_after(1)):
        runtime.containers.run(spec, lambda _: None, timeout=60, silence=60)

    assert time.monotonic() - began < 1 + SOON
    assert runtime.containers.find(spec.name) is None


def test_postgresql_ends_what_nobody_waits_for(runtime: DockerRuntime) -> None:
    runtime.prepare(lambda _: None)
    runtime.databases.create_role("acme_cancel", "secret")
    runtime.databases.create("acme_cancel", "acme_cancel")
    began = time.monotonic()

    with pytest.raises(Enough), waiting.heeding(called_away_after(1)):
        runtime.databases.query("acme_cancel", "SELECT pg_sleep(600)")

    assert time.monotonic() - began < 1 + SOON
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
    assert runtime.databases.query("acme_cancel", sleeping) == [["0"]]
    listing = ["sh", "-c", "grep -ls PGAPPNAME=ocore- /proc/[0-9]*/environ || :"]
    assert runtime.containers.exec(f"{NAMESPACE}-postgres", listing).output == "", "psql is gone"


@pytest.fixture
def production(slow: str, tmp_path: Path, api: docker.APIClient) -> Environment:
    remote = GitRemote(tmp_path / "acme")
    remote.commit("Notes", addon() | {"requirements.txt": "phonenumbers\n"})
    project = Project.objects.create(name="Acme", slug="acme", repository_url=remote.url, odoo_image=slow)
    server = Server.objects.create(name="Here", slug="here", edge_port=18097)
    return Environment.objects.create(
        project=project, server=server, name="Production", slug="production", kind="production", branch="main"
    )


def cancelled_when(production: Environment, queues: Queues, happens: Callable[[], bool]) -> tuple[Deployment, float]:
    """Deploy, cancel when it happens, and how many seconds that took to its end."""
    asked: list[float] = []

    def watch() -> None:
        try:
            while not happens():
                time.sleep(0.1)
            time.sleep(1)  # well into the silence
            asked.append(time.monotonic())
            services.cancel(Deployment.objects.get(status=Status.RUNNING), Who("grace"))
        finally:
            connection.close()

    deployment = services.request_deployment(production, Trigger.MANUAL, Who("ada"))
    watcher = threading.Thread(target=watch)
    watcher.start()
    queues.run_all()
    ended = time.monotonic()
    watcher.join()
    deployment.refresh_from_db()
    return deployment, ended - asked[0]


def test_a_deployment_is_cancelled_while_a_one_shot_and_while_pip_say_nothing(
    production: Environment, queues: Queues, api: docker.APIClient
) -> None:
    runtime: Any = runtime_for(production.server)

    def one_shot() -> bool:
        return bool([one for one in runtime.containers.list({"io.ocore.role": "template"}) if one.running])

    first, seconds = cancelled_when(production, queues, one_shot)

    assert first.status == Status.CANCELLED, log_of(first)
    assert first.error == "Cancelled by grace. Nothing had been changed."
    assert seconds < SOON
    assert not runtime.containers.list({"io.ocore.role": "template"})
    assert not [name for name in runtime.databases.list() if "draft" in name]

    template = templates.name_for(runtime, production.base_image)
    runtime.databases.create_role(template, "secret")
    runtime.databases.create(template, template)

    def pip() -> bool:
        return LogChunk.objects.filter(text__contains="pip3 install").exists()

    second, seconds = cancelled_when(production, queues, pip)

    assert second.status == Status.CANCELLED, log_of(second)
    assert seconds < SOON
    assert left_of_builds(api) == []
    assert not (Path(settings.STATE_DIR) / "builds" / str(second.pk)).exists()
