"""Acme's production with a real git repository, on a simulated server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deployments import services
from deployments.models import Deployment
from deployments.states import Trigger
from deployments.steps import deploy as deploy_step
from instances.odoo.config import password_hash
from instances.runtimes.simulated import Faults
from projects.models import Environment
from tests import factories
from tests.acme import ADA, addon
from tests.conftest import Queues
from tests.git_remote import GitRemote


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator's password is hashed as in real life, in fewer rounds: those take 0.2 s."""
    monkeypatch.setattr(deploy_step, "password_hash", partial(password_hash, rounds=1000))


@pytest.fixture
def remote(tmp_path: Path) -> GitRemote:
    made = GitRemote(tmp_path / "remote")
    made.commit("First", addon())
    return made


@pytest.fixture
def production(remote: GitRemote, settings: Any, tmp_path: Path) -> Environment:
    settings.OCORE_FILE_REPOSITORIES = [str(tmp_path)]
    return factories.environment(project=factories.project(repository_url=remote.url), health_deadline=1)


@pytest.fixture
def deploy(production: Environment, queues: Queues, faults: Faults) -> Callable[..., Deployment]:
    """Request, be the worker, and hand back the row as it ended."""

    def run(environment: Environment | None = None, **options: Any) -> Deployment:
        deployment = services.request_deployment(environment or production, Trigger.MANUAL, ADA, **options)
        queues.run_all()
        deployment.refresh_from_db()
        return deployment

    return run
