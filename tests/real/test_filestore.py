"""Filestores on a real engine's volumes: snapshots as hard links, put back by renames."""

import hashlib
import time
from collections.abc import Iterator

import pytest
from django.conf import settings

from instances.filestore import VOLUME_LABEL, FilestoreError, VolumeFilestores
from instances.runtimes.base import ContainerSpec, FilestoreFacts, RunFailed, ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers

pytestmark = pytest.mark.real

NAMESPACE = f"{settings.OCORE_NAMESPACE}-files"
VOLUME = f"{NAMESPACE}-acme"
SPEC = ServerSpec("this machine", namespace=NAMESPACE)
NOTHING = FilestoreFacts(files=0, size_bytes=0, sha256=hashlib.sha256(b"").hexdigest())
TWO_FILES = FilestoreFacts(files=2, size_bytes=7, sha256=hashlib.sha256(b"ab/abcd\t3\nff/ffff\t4\n").hexdigest())
WRITE_TWO = """mkdir -p filestore/acme/ab filestore/acme/ff
printf abc > filestore/acme/ab/abcd; printf wxyz > filestore/acme/ff/ffff"""


@pytest.fixture(scope="module")
def containers() -> DockerContainers:
    return DockerContainers(SPEC, Engine(SPEC))


@pytest.fixture
def filestores(containers: DockerContainers) -> Iterator[VolumeFilestores]:
    made = VolumeFilestores(SPEC, containers)
    made.ensure(VOLUME, settings.OCORE_ODOO_IMAGE.format(version="19.0"))
    yield made
    made.remove(VOLUME)


def in_volume(containers: DockerContainers, script: str, user: str = "0:0") -> str:
    done = containers.run(
        ContainerSpec(
            name=f"{NAMESPACE}-look",
            image=settings.OCORE_POSTGRES_IMAGE,
            entrypoint=["sh", "-euc", f"cd /var/lib/odoo; {script}"],
            user=user,
            volumes={VOLUME: "/var/lib/odoo"},
            capabilities=["DAC_OVERRIDE", "CHOWN"] if user == "0:0" else [],
        ),
        lambda _: None,
        timeout=60,
        silence=60,
    )
    assert done.ok, done.output
    return done.output.strip()


def owner(containers: DockerContainers) -> str:
    return in_volume(containers, "stat -c %u:%g .")


def test_a_fresh_environment_has_no_files_and_a_snapshot_of_that_can_be_put_back(filestores, containers):
    odoo = owner(containers)
    assert odoo != "0:0"
    assert filestores.facts(VOLUME, "acme") == NOTHING
    assert filestores.snapshot(VOLUME, "acme", "s1") == NOTHING
    in_volume(containers, WRITE_TWO, user=odoo)
    assert filestores.facts(VOLUME, "acme") == TWO_FILES

    assert filestores.restore(VOLUME, "acme", "s1") == NOTHING

    assert filestores.facts(VOLUME, "acme") == NOTHING
    in_volume(containers, WRITE_TWO, user=odoo)


def test_a_snapshot_comes_back_as_it_was_and_stays(filestores, containers):
    odoo = owner(containers)
    in_volume(containers, WRITE_TWO, user=odoo)
    state = "stat -c '%n %u %a %Y' filestore/acme/. filestore/acme/*; stat -c '%n %i' filestore/acme/*/*"
    before = in_volume(containers, state)
    assert filestores.snapshot(VOLUME, "acme", "s1") == TWO_FILES
    in_volume(containers, "rm filestore/acme/ab/abcd; mkdir filestore/acme/cd; echo new > filestore/acme/cd/cdef", odoo)

    filestores.restore(VOLUME, "acme", "s1")
    filestores.restore(VOLUME, "acme", "s1")

    assert in_volume(containers, state) == before
    assert in_volume(containers, "ls -A filestore snapshots").split() == ["filestore:", "acme", "snapshots:", "s1"]
    assert filestores.facts(VOLUME, "acme", "s1") == TWO_FILES
    in_volume(containers, "rm -r filestore/acme/ff; mkdir filestore/acme/ee", user=odoo)
    assert filestores.facts(VOLUME, "acme", "s1") == TWO_FILES


def test_a_snapshot_taken_again_is_of_now(filestores, containers):
    filestores.snapshot(VOLUME, "acme", "s1")
    in_volume(containers, WRITE_TWO, user=owner(containers))
    assert filestores.snapshot(VOLUME, "acme", "s1") == TWO_FILES
    assert filestores.facts(VOLUME, "acme", "s1") == TWO_FILES


@pytest.mark.parametrize(
    "killed_when",
    [
        "mkdir -p filestore/.acme.new/ab; echo half > filestore/.acme.new/ab/x",
        "cp -r filestore/acme filestore/.acme.new; mv filestore/acme filestore/.acme.old",
        "mkdir -p filestore/.acme.old/acme; echo rest > filestore/.acme.old/acme/x",
        "mkdir snapshots/.s1.new; echo half > snapshots/.s1.new/x",
    ],
    ids=["copying", "between the renames", "removing the old", "an earlier snapshot"],
)
def test_a_restore_that_was_killed_is_finished_by_asking_again(filestores, containers, killed_when):
    in_volume(containers, WRITE_TWO, user=owner(containers))
    filestores.snapshot(VOLUME, "acme", "s1")
    in_volume(containers, f"echo later > filestore/acme/later; {killed_when}")

    filestores.restore(VOLUME, "acme", "s1")

    assert filestores.facts(VOLUME, "acme") == TWO_FILES
    assert in_volume(containers, "ls -A filestore") == "acme"
    assert filestores.snapshot(VOLUME, "acme", "s1") == TWO_FILES
    assert in_volume(containers, "ls -A snapshots") == "s1"


def test_a_snapshot_that_was_killed_does_not_exist(filestores, containers):
    in_volume(containers, "mkdir -p snapshots/.s1.new/ab; echo half > snapshots/.s1.new/ab/x")
    for act in (filestores.restore, filestores.facts):
        with pytest.raises(FilestoreError, match="no such snapshot"):
            act(VOLUME, "acme", "s1")


def test_a_discarded_snapshot_is_gone_and_the_filestore_stays(filestores, containers):
    in_volume(containers, WRITE_TWO, user=owner(containers))
    filestores.snapshot(VOLUME, "acme", "s1")
    filestores.discard(VOLUME, "s1")
    filestores.discard(VOLUME, "s1")
    assert in_volume(containers, "ls -A snapshots") == ""
    assert filestores.facts(VOLUME, "acme") == TWO_FILES


def test_odoo_cannot_reach_its_snapshots(filestores, containers):
    odoo = owner(containers)
    in_volume(containers, WRITE_TWO, user=odoo)
    filestores.snapshot(VOLUME, "acme", "s1")
    assert in_volume(containers, "ls snapshots 2>&1 || rm -rf snapshots 2>&1 || echo kept", user=odoo).endswith("kept")


def test_files_follow_an_image_in_which_odoo_has_another_number(filestores, containers):
    odoo = owner(containers)
    in_volume(containers, WRITE_TWO, user=odoo)
    filestores.snapshot(VOLUME, "acme", "s1")
    in_volume(containers, "chown -R 4711:4711 . && chown root snapshots")
    filestores.ensure(VOLUME, settings.OCORE_ODOO_IMAGE.format(version="19.0"))
    in_volume(containers, "echo more > filestore/acme/ab/more; rm filestore/acme/ff/ffff", user=odoo)
    filestores.restore(VOLUME, "acme", "s1")
    in_volume(containers, "rm filestore/acme/ff/ffff", user=odoo)


def test_names_that_lead_elsewhere_are_refused(filestores):
    for name in ("../acme", ".s1.new", "a/b", "-rf", "a\nb", "x" * 200):
        with pytest.raises(FilestoreError, match="not a name"):
            filestores.snapshot(VOLUME, "acme", name)
        with pytest.raises(FilestoreError, match="not a name"):
            filestores.restore(VOLUME, name, "s1")


def test_somebody_elses_volume_is_left_alone(filestores, containers):
    other = f"{NAMESPACE}-theirs"
    containers.engine.api.create_volume(other)
    try:
        for act in (lambda: filestores.remove(other), lambda: filestores.snapshot(other, "acme", "s1")):
            with pytest.raises(RunFailed, match="does not belong"):
                act()
    finally:
        containers.engine.api.remove_volume(other)


def test_a_snapshot_of_5000_files_takes_well_under_a_second_more_than_starting_a_container(filestores, containers):
    many = """mkdir -p filestore/acme; cd filestore/acme
    for d in $(seq 100 199); do mkdir $d; for f in $(seq 50); do echo $f > $d/$d$f; done; done"""
    in_volume(containers, many, user=owner(containers))

    def seconds(act, *names: str) -> float:
        """The best of three: the machine has other things to do."""
        taken = []
        for _ in range(3):
            started = time.monotonic()
            act(VOLUME, *names)
            taken.append(time.monotonic() - started)
        return min(taken)

    bare = seconds(filestores.discard, "none")
    taken = seconds(filestores.snapshot, "acme", "s0")
    assert filestores.facts(VOLUME, "acme", "s0").files == 5000
    assert taken - bare < 0.7


class Killed(BaseException):
    """As `kill -9` of the worker: nothing of ours runs any more."""


def test_what_a_killed_worker_left_at_a_volume_goes_with_it_and_nothing_else(filestores, containers, monkeypatch):
    other = f"{VOLUME}-2"
    filestores.ensure(other, settings.OCORE_ODOO_IMAGE.format(version="19.0"))

    def die(spec: ContainerSpec, *_: object, **__: object) -> None:
        containers.create(spec)
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(containers, "run", die)
        for volume in (VOLUME, other):
            with pytest.raises(Killed):
                filestores.facts(volume, "acme")
    assert len(containers.list({VOLUME_LABEL: VOLUME})) == 1

    filestores.remove(VOLUME)

    try:
        assert containers.find_volume(VOLUME) is None
        assert containers.list({VOLUME_LABEL: VOLUME}) == []
        assert len(containers.list({VOLUME_LABEL: other})) == 1
    finally:
        filestores.remove(other)
    assert containers.find_volume(other) is None
