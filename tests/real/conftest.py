"""A real server: this machine's engine, under the tests' own namespace, ports and labels."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

from instances.runtimes.base import ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.inventory import remove_everything


@pytest.fixture(scope="module")
def _clean_machine() -> Iterator[None]:
    """Nothing of an earlier run is there, and nothing stays; the base images, which everybody shares, do."""
    engine = Engine(ServerSpec("this machine", namespace=settings.OCORE_NAMESPACE))
    remove_everything(engine.api, settings.OCORE_NAMESPACE)
    yield
    remove_everything(engine.api, settings.OCORE_NAMESPACE)


@pytest.fixture(scope="module")
def module_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Rows that live as long as the module: a deployment's consequences are what the next test begins with."""
    from django.core.management import call_command

    with django_db_blocker.unblock():
        # pytest-django makes the database's tables only where a collected test is marked to use it.
        call_command("migrate", verbosity=0, interactive=False)
        yield
        call_command("flush", verbosity=0, interactive=False)
