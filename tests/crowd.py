"""A crowd on simulated servers: many environments of big and small projects, that all push at once, several times.

In the process that calls it the settings are those of the portal that is to be pushed to.
"""

import hashlib
import hmac
import http.client
import json
import random
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from deployments.models import Deployment, Step
from deployments.states import ACTIVE, StepKind
from projects.models import Environment, Project, Server
from tests.git_remote import GitRemote

QUIET_SECONDS = 0.25
"""How often it is looked whether all have ended."""
CALLERS = 4
"""Git hosts that call at once."""


@dataclass(frozen=True)
class Push:
    project: Project
    branch: str
    commit: str


@dataclass
class Crowd:
    servers: Sequence[Server]
    folder: Path
    environments: list[Environment] = field(default_factory=list)
    remotes: dict[int, GitRemote] = field(default_factory=dict)
    tips: dict[int, str] = field(default_factory=dict)
    """By environment: what its branch is at."""
    _rounds: int = 0

    def add_project(self, name: str, environments: int) -> None:
        """A project whose environments, each on a branch of its own, live on the servers in turns."""
        remote = GitRemote(self.folder / f"{name}.git")
        project = Project.objects.create(name=name, slug=name, repository_url=remote.url)
        self.remotes[project.pk] = remote
        for number in range(environments):
            server = self.servers[len(self.environments) % len(self.servers)]
            label = f"e{number}"
            self.environments.append(
                Environment.objects.create(project=project, server=server, name=label, slug=label, branch=label)
            )

    def commit(self) -> list[Push]:
        """A commit on each branch, in the order in which the environments were added; nothing is delivered yet."""
        self._rounds += 1
        pushes: list[Push] = []
        for pk, remote in self.remotes.items():
            mine = [one for one in self.environments if one.project_id == pk]
            made = remote.commit_everywhere(f"Round {self._rounds}", {one.branch: self._files() for one in mine})
            for environment in mine:
                self.tips[environment.pk] = made[environment.branch]
                pushes.append(Push(environment.project, environment.branch, made[environment.branch]))
        return pushes

    def _files(self) -> dict[str, str]:
        manifest = f"{{'name': 'Notes', 'version': '1.{self._rounds}', 'depends': ['base']}}\n"
        return {"acme_notes/__manifest__.py": manifest, "acme_notes/__init__.py": ""}


def deliver(pushes: Iterable[Push], address: tuple[str, int]) -> list[int]:
    """Each as a git host does, under an id of its own, some at once; the status codes."""
    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(lambda push: _call(push, address), pushes))


def _call(push: Push, address: tuple[str, int]) -> int:
    document = {
        "ref": f"refs/heads/{push.branch}",
        "before": "1" * 40,
        "after": push.commit,
        "commits": [{"id": push.commit, "message": "Round", "author": {"name": "Ann"}}],
        "pusher": {"name": "ann"},
    }
    body = json.dumps(document).encode()
    secret = push.project.webhook_secret.encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}",
    }
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request("POST", push.project.webhook_path, body, headers)
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer.status


def disorder(first: list[Push], second: list[Push], seed: int) -> list[Push]:
    """Two rounds of pushes as they may arrive: mixed, a third of the older ones after the newer."""
    dice = random.Random(seed)  # noqa: S311 - a shuffle that can be repeated
    late = {push.commit for push in first if dice.random() < 1 / 3}
    calls = [(dice.random() + (1.0 if push.commit in late else 0.0), push) for push in first]
    calls += [(dice.random() + 0.5, push) for push in second]
    return [push for _, push in sorted(calls, key=lambda call: call[0])]


def wait_until_quiet(seconds: float) -> None:
    """Raises `TimeoutError` with what is left."""
    deadline = time.monotonic() + seconds
    while left := Deployment.objects.filter(status__in=ACTIVE).count():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} deployments have not ended after {seconds:.0f} s")
        time.sleep(QUIET_SECONDS)


@dataclass(frozen=True)
class Ran:
    """A deployment that a worker had."""

    pk: int
    environment: int
    project: int
    server: int
    requested: datetime
    since: datetime
    admitted: datetime
    started: datetime
    built: datetime
    finished: datetime

    @property
    def seconds(self) -> float:
        return (self.finished - self.started).total_seconds()


def ran() -> list[Ran]:
    """In the order in which they began."""
    built = dict(Step.objects.filter(kind=StepKind.BUILD).values_list("deployment", "finished_at"))
    fields = (
        "pk", "environment", "environment__project", "environment__server",
        "created_at", "queued_since", "admitted_at", "started_at", "finished_at",
    )  # fmt: skip
    rows: Iterable[Any] = (
        Deployment.objects.filter(started_at__isnull=False).order_by("started_at").values_list(*fields)
    )
    return [Ran(*row[:8], built[row[0]], row[8]) for row in rows]


def most_at_once(spans: Iterable[tuple[datetime, datetime]]) -> int:
    changes = sorted(change for begin, end in spans for change in ((begin, 1), (end, -1)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
