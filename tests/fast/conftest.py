"""Acme's production with a real git repository, on a simulated server."""

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.color import no_style
from django.db import connection
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker

from deployments import services
from deployments.models import Deployment
from deployments.states import Status, Trigger
from deployments.steps import deploy as deploy_step
from instances.odoo.config import password_hash
from instances.runtimes.simulated import Faults
from projects.models import Environment, Project
from tests import factories, kept
from tests.acme import ADA, addon
from tests.conftest import Queues
from tests.git_remote import GitRemote

IN_MEMORY = "/dev/shm"
ROOM_BYTES = 1024**3


def pytest_configure(config: pytest.Config) -> None:
    """Where these tests run alone, their folders lie in memory: many small files, and git waits for the disk."""
    if all("tests/fast" in argument for argument in config.args) and _can_be_used(IN_MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)
        settings.OCORE_FILE_REPOSITORIES.append(IN_MEMORY)


def _can_be_used(folder: str) -> bool:
    """Room enough, and programs may be run from it: some tests write their own."""
    if not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    return not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize > ROOM_BYTES


@pytest.fixture(scope="session", autouse=True)
def _rare_collections() -> Iterator[None]:
    """A tenth of the time went into looking for garbage among all that is loaded."""
    gc.collect()
    gc.freeze()
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _quick_flush() -> Iterator[None]:
    """After a test with transactions all rows go, but for content types and permissions: Django makes those once the
    tables are there, and its own flush makes them anew after each test."""
    lasting = {ContentType._meta.db_table, Permission._meta.db_table}

    def flush(_: TransactionTestCase) -> None:
        tables = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - lasting
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), sorted(tables)))
        kept.number_apart()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", flush)
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    with django_db_blocker.unblock():
        kept.number_apart()


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator's password is hashed as in real life, in fewer rounds: those take 0.2 s."""
    monkeypatch.setattr(deploy_step, "password_hash", partial(password_hash, rounds=1000))


@pytest.fixture(autouse=True)
def _quick_clients(settings: Any) -> None:
    """Static files are looked for when one is asked for, and not all of them by each test's client."""
    settings.WHITENOISE_AUTOREFRESH = True


@pytest.fixture(scope="session")
def first_commit(tmp_path_factory: pytest.TempPathFactory) -> GitRemote:
    made = GitRemote(tmp_path_factory.mktemp("first") / "remote")
    made.commit("First", addon())
    return made


@pytest.fixture
def remote(first_commit: GitRemote, tmp_path: Path) -> GitRemote:
    return first_commit.copied_to(tmp_path / "remote")


@pytest.fixture
def production(remote: GitRemote, settings: Any, tmp_path: Path) -> Environment:
    settings.OCORE_FILE_REPOSITORIES = [str(tmp_path)]
    return factories.environment(project=factories.project(repository_url=remote.url), health_deadline=1)


@pytest.fixture
def queues(queues: Queues) -> Queues:
    """To look for what may go is a tenth of each deployment's time: retention's tests do it, the model's and the real
    ones, not each."""
    queues.left_out = {"sweep"}
    return queues


@pytest.fixture
def deploy(production: Environment, queues: Queues, faults: Faults) -> Callable[..., Deployment]:
    """Request, be the worker, and hand back the row as it ended."""

    def run(environment: Environment | None = None, **options: Any) -> Deployment:
        deployment = services.request_deployment(environment or production, Trigger.MANUAL, ADA, **options)
        queues.run_all()
        deployment.refresh_from_db()
        return deployment

    return run


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Any, kept.Kept], Path]:
    """By what makes them differ: those in which Acme's production has been deployed once; and where their files are."""
    return {}, tmp_path_factory.mktemp("worlds")


@pytest.fixture
def once(
    production: Environment,
    remote: GitRemote,
    queues: Queues,
    faults: Faults,
    tmp_path: Path,
    worlds: tuple[dict[Any, kept.Kept], Path],
) -> Callable[..., None]:
    """What many tests begin with: what is called so is done where nobody has done it in the same world, else its
    outcome is copied. Commits are for the caller to make, before; in both cases nothing is broken afterwards."""
    made, folder = worlds

    def run(name: str, make: Callable[[], None], world: tuple[Any, ...] = ()) -> None:
        world = name, *(world or kept.exactly(tmp_path, remote.url))
        if world not in made:
            make()
            assert not any(queues.jobs.values())
            made[world] = kept.Kept.of(tmp_path, folder / str(len(made)))
        else:
            made[world].give(tmp_path)
            Project.objects.update(repository_url=remote.url)
            for origin in tmp_path.glob("mirrors/*/ocore-url"):
                origin.write_text(remote.url)
        production.refresh_from_db()
        faults.clear()

    return run


@pytest.fixture
def deployed(deploy: Callable[..., Deployment], once: Callable[..., None], production: Environment) -> Deployment:
    """The first deployment of Acme's production."""

    def make() -> None:
        first = deploy()
        assert first.status == Status.SUCCEEDED, first.error

    once("deployed", make, kept.traits(production))
    return Deployment.objects.get(live=True)
