"""Fixtures for everybody."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django_rq
import pytest

from instances.runtimes.simulated import FAULTS, Faults


@pytest.fixture(autouse=True)
def _own_state(settings: Any, tmp_path: Path) -> None:
    """Each test has mirrors, builds, dumps and simulated servers of its own."""
    settings.STATE_DIR = tmp_path


@pytest.fixture
def faults() -> Iterator[Faults]:
    FAULTS.clear()
    yield FAULTS
    FAULTS.clear()


class Queues:
    """Instead of Redis in the fast tests: what was handed to the workers, by queue."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[tuple[str, tuple[Any, ...]]]] = {}
        self.started: list[str] = []
        """The ids of jobs that a worker has taken and not ended."""
        self.workers = 1
        self.missing: set[str] = set()
        """Of whom nothing has been heard lately (`ocore.machine.signs`)."""
        self.left_out: set[str] = set()

    def get_queue(self, name: str) -> Any:
        return Queue(self.jobs.setdefault(name, []), Registry(self.started))

    def run_all(self) -> None:
        """Be the workers: run what is queued, and what that queues, in order; what is `left_out` is dropped."""
        from deployments import jobs

        for _ in range(100):
            queued = [
                job
                for name in ("urgent", "deployments", "chores", "slow", "reports")
                for job in self.jobs.get(name, [])
            ]
            if not queued:
                return
            for name in self.jobs:
                self.jobs[name].clear()
            for function, arguments in queued:
                if function not in self.left_out:
                    getattr(jobs, function)(*arguments)
        raise AssertionError("the jobs never end")


@dataclass
class Registry:
    """Of the jobs that have been started."""

    ids: list[str]

    def get_job_ids(self) -> list[str]:
        return self.ids


class Queue:
    def __init__(self, jobs: list[tuple[str, tuple[Any, ...]]], started: Registry) -> None:
        self._jobs = jobs
        self.started_job_registry = started

    def enqueue(self, function: Any, *arguments: Any, job_id: str = "") -> None:
        name = function if isinstance(function, str) else function.__name__
        self._jobs.append((name.rpartition(".")[2], arguments))

    @property
    def job_ids(self) -> list[str]:
        return [f"{name}-{arguments[0]}-1" for name, arguments in self._jobs if arguments]


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Queues:
    from ocore.machine import signs

    fake = Queues()
    monkeypatch.setattr(django_rq, "get_queue", fake.get_queue)
    monkeypatch.setattr(signs, "missing", lambda: fake.missing | (set() if fake.workers else {"deployments"}))
    return fake
