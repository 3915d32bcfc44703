"""Retention on real Docker and PostgreSQL: what may go really goes; what is needed or somebody else's stays."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from deployments import services
from deployments.models import Deployment, Snapshot
from deployments.retention import sweep as retention
from deployments.services import Who
from instances.models import Instance
from instances.processes import labels
from instances.runtimes import runtime_for
from instances.runtimes.base import NAMESPACE_LABEL, ContainerSpec, DatabaseError, RunFailed, ServerSpec
from instances.runtimes.docker import DockerRuntime
from instances.runtimes.docker.inventory import everything_of, remove_everything
from projects.models import Environment, Server
from tests import factories
from tests.conftest import Queues

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True)]

NAMESPACE = f"{django_settings.OCORE_NAMESPACE}-keep"
FOREIGN = f"{NAMESPACE}-foreign"
MB = 1024**2


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerRuntime]:
    """A server with PostgreSQL and no edge: nobody is served."""
    runtime = DockerRuntime(ServerSpec("here", namespace=NAMESPACE))
    api = runtime.engine.api
    for namespace in (NAMESPACE, FOREIGN):
        remove_everything(api, namespace)
    for network in (NAMESPACE, f"{NAMESPACE}-edge"):
        runtime._containers.ensure_network(network)
    runtime._databases.prepare(lambda _: None)
    yield runtime
    for namespace in (NAMESPACE, FOREIGN):
        remove_everything(api, namespace)
        assert not everything_of(api, namespace)


@pytest.fixture(autouse=True)
def _mine(settings: Any) -> None:
    settings.OCORE_NAMESPACE = NAMESPACE
    settings.OCORE_KEEP_FREE_BYTES = settings.OCORE_MIN_FREE_BYTES = 0
    for name in ("ROLLBACKS", "SNAPSHOTS", "IMAGES"):
        setattr(settings, f"OCORE_KEEP_{name}", 1)


@pytest.fixture
def production(engine: DockerRuntime) -> Iterator[Environment]:
    server = factories.server(name="Here", slug="here", kind=Server.Kind.DOCKER)
    made = factories.environment(server=server)
    engine.databases.create_role(made.database, "secret")
    yield made
    for container in engine.containers.list({"io.ocore.environment": made.key}):
        engine.containers.remove(container.name)
    for database in engine.databases.list():
        engine.databases.drop(database)
    for role in (made.database, "former"):
        engine.databases.drop_role(role)
    for volume in engine.filestores.volumes():
        if volume != f"{NAMESPACE}-postgres":
            engine.filestores.remove(volume)
    for image in engine.images.list():
        engine.images.remove(image.reference)


def image(runtime: Any, folder: Path, number: int, project: str = "acme") -> str:
    """A small one of its own content, on the edge's base image."""
    context = folder / f"context-{project}-{number}"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {django_settings.OCORE_EDGE_IMAGE}\nCOPY content /content\n")
    (context / "content").write_bytes(bytes([number]) * 3 * MB)
    reference = f"{runtime.spec.namespace}/{project}:{number}"
    own = {NAMESPACE_LABEL: runtime.spec.namespace, "io.ocore.project": project}
    runtime.images.build(reference, context, own, lambda _: None, timeout=120, silence=60)
    return reference


def in_volume(runtime: DockerRuntime, volume: str, script: str) -> str:
    spec = ContainerSpec(
        name=f"{NAMESPACE}-look",
        image=django_settings.OCORE_POSTGRES_IMAGE,
        entrypoint=["sh", "-euc", f"cd /var/lib/odoo; {script}"],
        user="0:0",
        volumes={volume: "/var/lib/odoo"},
        capabilities=["DAC_OVERRIDE"],
    )
    done = runtime.containers.run(spec, lambda _: None, timeout=60, silence=60)
    assert done.ok, done.output
    return done.output.strip()


@pytest.fixture
def versions(engine: DockerRuntime, production: Environment, tmp_path: Path) -> list[Deployment]:
    """Four that went live one after the other, each with its image; the data of the first three in snapshots."""
    base = engine.images.ensure_base(django_settings.OCORE_EDGE_IMAGE, lambda _: None)
    engine.databases.create(production.database, production.database)
    engine.databases.query(production.database, "CREATE TABLE notes AS SELECT generate_series(1, 1000) AS note")
    engine._containers.ensure_volume(production.volume)
    in_volume(
        engine,
        production.volume,
        f"mkdir -p filestore/{production.database}; echo x > filestore/{production.database}/one",
    )
    made: list[Deployment] = []
    for number in range(4):
        at = timezone.now() - timedelta(hours=4 - number)
        made.append(
            factories.deployment(
                production,
                ref="",
                image=image(engine, tmp_path, number),
                base_image_id=base.id,
                live=number == 3,
                live_at=at,
                created_at=at,
            )
        )
        if number:
            name = f"s{made[-1].pk}"
            engine.databases.clone(production.database, f"{production.database}__{name}")
            engine.filestores.snapshot(production.volume, production.database, name)
            Snapshot.objects.create(
                environment=production,
                deployment=made[-1],
                of=made[-2],
                state=Snapshot.State.READY,
                taken_at=at,
                database=f"{production.database}__{name}",
                label=name,
                dump_problem="not in this test",
            )
    serving = production.instances.get().container_for(made[-1].pk)
    engine.containers.create(container(production, serving, made[-1].image))
    engine.containers.start(serving)
    production.instances.update(container=serving, state=Instance.State.RUNNING)
    return made


def container(environment: Environment, name: str, image: str) -> ContainerSpec:
    return ContainerSpec(
        name=name,
        image=image,
        entrypoint=["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
        labels=labels(environment, role="odoo"),
    )


def clones(engine: DockerRuntime) -> list[str]:
    return [name for name in engine.databases.list() if "__s" in name]


def test_what_no_rollback_needs_goes_and_the_rest_works_as_before(
    engine: DockerRuntime, production: Environment, versions: list[Deployment]
) -> None:
    runtime = runtime_for(production.server)
    left_behind = f"{NAMESPACE}-{production.key}-main-d0"
    engine.containers.create(container(production, left_behind, versions[0].image))
    survey = retention.survey(production.server)
    assert next(one.reason for one in survey.verdicts if one.thing.name == left_behind).startswith("made less than")
    engine.containers.remove(left_behind)
    sizes = [one.thing.size_bytes for one in survey.verdicts if one.thing.name == versions[1].image]
    assert 3 * MB <= sizes[0] < 4 * MB  # its own part, without the base below it

    swept = retention.sweep(production.server)

    assert not swept.failed
    assert [runtime.images.find(one.image) is not None for one in versions] == [False, False, True, True]
    kept = Snapshot.objects.get(of=versions[2])
    assert clones(engine) == [kept.database]
    assert in_volume(engine, production.volume, "ls -A snapshots") == kept.label
    assert engine.databases.query(production.database, "SELECT count(*) FROM notes") == [["1000"]]
    assert engine.databases.query(kept.database, "SELECT count(*) FROM notes") == [["1000"]]
    serving = engine.containers.find(production.instances.get().container)
    assert serving
    assert serving.running
    assert services.rollback_offer(production, versions[2]).snapshot == kept
    assert not retention.sweep(production.server).removed


def test_a_killed_removal_is_finished_by_the_next(
    engine: DockerRuntime, production: Environment, versions: list[Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    from instances.filestore import VolumeFilestores

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(VolumeFilestores, "discard", die)
        with pytest.raises(Killed):
            retention.sweep(production.server)
    first = Snapshot.objects.get(of=versions[0])
    assert first.state == "removing"
    assert first.label in in_volume(engine, production.volume, "ls snapshots").split()

    retention.sweep(production.server)

    first.refresh_from_db()
    assert first.state == "gone"
    assert first.label not in in_volume(engine, production.volume, "ls snapshots").split()


def test_what_is_somebody_elses_is_neither_seen_nor_removed(
    engine: DockerRuntime, production: Environment, versions: list[Deployment], tmp_path: Path
) -> None:
    foreign = DockerRuntime(ServerSpec("here", namespace=FOREIGN))
    theirs = image(foreign, tmp_path, 9)
    foreign._containers.ensure_volume(f"{FOREIGN}-acme")
    psql = ["psql", "-X", "-q", "-c", "CREATE DATABASE theirs"]
    assert engine.containers.exec(f"{NAMESPACE}-postgres", psql).ok
    api = engine.engine.api
    stands_on = api.create_container(versions[0].image, ["sleep", "60"], name=f"{FOREIGN}-on-ours")
    api.tag(versions[1].image, "theirs/acme", "1")
    try:
        names = {one.thing.name for one in retention.survey(production.server).verdicts}
        swept = retention.sweep(production.server, also_unknown=True)

        assert not {theirs, f"{FOREIGN}-acme", "theirs", "theirs/acme:1", f"{FOREIGN}-on-ours"} & names
        assert foreign.images.find(theirs)
        assert foreign.filestores.volumes() == [f"{FOREIGN}-acme"]
        assert engine.databases.exists("theirs")
        with pytest.raises(DatabaseError):
            engine.databases.drop("theirs")
        # Somebody made a container of ours their own's base: the engine refuses, and it is told.
        assert [one.thing.name for one, _ in swept.failed] == [versions[0].image]
        assert api.inspect_container(stands_on["Id"])
        assert engine.images.find("theirs/acme:1")
        with pytest.raises(RunFailed):
            engine.images.remove("theirs/acme:1")
    finally:
        api.remove_container(stands_on["Id"], force=True)
        api.remove_image("theirs/acme:1")
        psql = ["psql", "-X", "-q", "-c", "DROP DATABASE theirs"]
        assert engine.containers.exec(f"{NAMESPACE}-postgres", psql).ok


def test_what_no_row_knows_goes_only_when_somebody_asks_for_it(
    engine: DockerRuntime, production: Environment, versions: list[Deployment]
) -> None:
    engine.databases.create_role("former", "x")
    engine.databases.create("former", "former")
    engine._containers.ensure_volume(f"{NAMESPACE}-former")

    assert {one.thing.name for one in retention.sweep(production.server).removed}.isdisjoint({"former"})
    assert engine.databases.exists("former")

    retention.sweep(production.server, also_unknown=True)

    assert not engine.databases.exists("former")
    assert set(engine.filestores.volumes()) == {f"{NAMESPACE}-postgres", production.volume}
    assert engine.databases.exists(production.database)


def test_on_a_full_disk_the_oldest_goes_and_what_a_waiting_rollback_needs_stays(
    engine: DockerRuntime, production: Environment, versions: list[Deployment], settings: Any, queues: Queues
) -> None:
    for name in ("SNAPSHOTS", "IMAGES"):
        setattr(settings, f"OCORE_KEEP_{name}", 100)
    assert not retention.sweep(production.server).removed
    back = services.roll_back(production, Who("ada"), target=versions[0], with_data=True)
    settings.OCORE_KEEP_FREE_BYTES = 2**60

    retention.sweep(production.server)

    assert back.restores
    assert back.restores.database in clones(engine)
    assert [engine.images.find(one.image) is not None for one in versions] == [True, False, True, True]
    assert Snapshot.objects.get(of=versions[1]).state == "gone"
