"""The base images, as they came: from a registry, or built here from Debian's packages."""

import re

import pytest
from django.conf import settings

from instances.runtimes.base import NAMESPACE_LABEL, ContainerSpec, ImageMissing, ServerSpec
from instances.runtimes.docker import base_images
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.images import DockerImages

pytestmark = pytest.mark.real

SPEC = ServerSpec("this machine", namespace="ocore-test-base")
ODOO = "odoo:19.0"


@pytest.fixture(scope="module")
def engine():
    return Engine(SPEC)


@pytest.fixture(scope="module")
def images(engine):
    return DockerImages(SPEC, engine)


@pytest.fixture
def said():
    return []


@pytest.fixture
def output_of(engine):
    containers = DockerContainers(SPEC, engine)

    def run(image, script, **more):
        spec = ContainerSpec("ocore-test-base-run", image, entrypoint=(), command=("sh", "-c", script), **more)
        done = containers.run(spec, lambda _: None, timeout=60, silence=60)
        assert done.ok, done.output
        return done.output

    return run


@pytest.mark.parametrize(
    "reference", [ODOO, settings.OCORE_POSTGRES_IMAGE, settings.OCORE_EDGE_IMAGE, settings.OCORE_LIMITER_IMAGE]
)
def test_an_image_that_is_there_is_taken_at_once_and_labelled_when_it_is_ours(images, said, reference):
    images.ensure_base(reference, said.append)
    said.clear()
    image = images.ensure_base(reference, said.append)

    assert said == []
    assert image.reference == reference
    if base_images.BASE_LABEL in image.labels:
        assert image.labels[NAMESPACE_LABEL]
        recipe = base_images.recipe_for(reference)
        assert recipe is not None
        assert image.labels[base_images.BASE_LABEL] == recipe.name
        assert image.labels[base_images.RECIPE_LABEL] == recipe.fingerprint


def test_odoo_runs_as_its_own_user_and_can_write_its_data_folder(images, output_of, said):
    images.ensure_base(ODOO, said.append)
    script = "id -un; touch /var/lib/odoo/x && echo writable; odoo --version; python3 -m pip --version"
    user, writable, version, pip = output_of(ODOO, script).splitlines()

    assert (user, writable) == ("odoo", "writable")
    assert version.startswith("Odoo Server 19.0")
    assert pip.startswith("pip ")


def test_the_edge_has_a_caddy_that_can_be_a_door_and_a_wget_to_speak_to_it(images, output_of, said):
    reference = images.ensure_base(settings.OCORE_EDGE_IMAGE, said.append).reference
    version, wget = output_of(reference, "caddy version; busybox wget --help 2>&1 | head -1").splitlines()

    found = re.match(r"v(\d+)\.(\d+)\.", version)
    assert found is not None
    assert (int(found[1]), int(found[2])) >= base_images.CADDY_MINIMUM
    assert wget.startswith("BusyBox")


def test_postgres_begins_anew_after_an_interrupted_initialisation_and_keeps_strangers_out(images, engine, said):
    reference = images.ensure_base(settings.OCORE_POSTGRES_IMAGE, said.append).reference
    containers = DockerContainers(SPEC, engine)
    name = "ocore-test-base-postgres"
    data = "/var/lib/postgresql/data"
    half = ContainerSpec(
        "ocore-test-base-run",
        reference,
        entrypoint=(),
        command=("sh", "-c", f"mkdir -p {data}/.initdb/base && echo half > {data}/postgresql.conf"),
        user="postgres",
        volumes={name: data},
    )
    whole = ContainerSpec(
        name, reference, user="postgres", environment={"POSTGRES_PASSWORD": "quiet"}, volumes={name: data}
    )
    ours = base_images.BASE_LABEL in images.find(reference).labels

    def psql(*arguments, **environment):
        return containers.exec(name, ["psql", "-U", "postgres", "-Atw", *arguments], environment=environment)

    try:
        if ours:  # the registry's image knows nothing of an interruption
            containers.run(half, lambda _: None, timeout=30, silence=30)
        containers.create(whole)
        containers.start(name)
        for _ in range(100):
            answer = psql("-h", "127.0.0.1", "-c", "show data_checksums", PGPASSWORD="quiet")
            if answer.ok:
                break
        local = psql(
            "-c", "select pg_encoding_to_char(encoding), datcollate from pg_database where datname='template0'"
        )
        refused = containers.exec(name, ["sh", "-c", "psql -U postgres -Atw -h $(hostname) -c 'select 1' 2>&1"])

        assert answer.ok, containers.logs(name)
        assert local.output.startswith("UTF8|")
        assert not refused.ok
        if ours:
            assert answer.output == "on\n"
            assert "beginning anew" in containers.logs(name)
    finally:
        containers.remove(name)
        containers.remove_volume(name)


def test_an_image_that_nobody_has_tells_what_was_tried(images, said):
    with pytest.raises(ImageMissing, match="no registry gave it") as caught:
        images.ensure_base("ocore-test-base/none:1", said.append)

    assert "Pull: " in caught.value.detail
    assert "no recipe" in caught.value.detail
    assert any("Asking the registry" in line for line in said)
