"""Who takes part: a project whose pushes oCore deploys, its twin that is deployed by hand, and how each goes live."""

import hashlib
import hmac
import http.client
import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings

from deployments.models import Deployment, Snapshot
from deployments.states import FINAL, Status
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from ocore.machine import web
from ocore.machine.progress import Progress
from projects.models import Environment, Project, Server
from tests.bench.by_hand import MODULE, ByHand
from tests.bench.surroundings import EDGE_PORT
from tests.git_remote import GitRemote

ADDON = Path(settings.BASE_DIR) / "deployments" / "demo" / "addon" / MODULE
MANIFEST = f"{MODULE}/__manifest__.py"
LOOK_SECONDS = 0.02
"""How often we look whether it is live: the figures are not finer than that."""
LIVE_SECONDS = 300
QUIET_SECONDS = 120
ZERO = "0" * 40


class BenchFailed(ExpectedError):
    """What was to be measured did not happen."""


@dataclass(frozen=True)
class Live:
    """A deployment that ended as it was to. Seconds."""

    deployment: Deployment
    seconds: float
    """From the push, or from the request, to its end and a 200 through the edge."""
    answered: float
    """What the webhook call took; 0 without one."""
    waited: float
    """From the push to its start by a worker: git, webhook, queue."""
    phases: dict[str, float]


@dataclass
class Cast:
    progress: Progress
    environment: Environment
    remote: GitRemote
    by_hand: ByHand
    _numbers: int = field(default=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{EDGE_PORT}"

    def change(self) -> dict[str, str]:
        """The addon with a new version: one file that no earlier push had so, on either side."""
        self._numbers += 1
        return {MANIFEST: (ADDON / "__manifest__.py").read_text().replace("1.0.0", f"1.{self._numbers}.0")}

    def readme(self) -> dict[str, str]:
        """A change to nothing that runs."""
        self._numbers += 1
        return {"README.md": f"Notes, in their {self._numbers}th wording.\n"}

    def requirements(self) -> dict[str, str]:
        """A Python package to install, and a comment that no earlier push had: the layer is built anew."""
        self._numbers += 1
        return {"requirements.txt": f"# The {self._numbers}th.\nphonenumbers==9.0.43\n"}

    def push(self, files: dict[str, str], ends: Status = Status.SUCCEEDED) -> Live:
        """Push to the branch that oCore deploys, call the webhook as a git host would, and wait until it is live, or
        the version before is again."""
        began, clock = time.monotonic(), time.time()
        before = self.remote.sha("main") or ZERO
        after = self.remote.commit("Another version", files)
        call = deliver(self.environment.project, "main", before, after)
        if call.status != 202:
            raise BenchFailed(f"The webhook answered {call.status}: {call.content}")
        return self._wait(call.content["environments"][0]["deployment"], began, clock, call.seconds, ends)

    def push_by_hand(self, files: dict[str, str]) -> tuple[float, dict[str, float]]:
        """Push to the twin, and do by hand what oCore does; seconds in all and by phase."""
        began = time.monotonic()
        self.by_hand.remote.commit("Another version", files)
        done = self.by_hand.push()
        return time.monotonic() - began, done.phases

    def follow(self, deployment: Deployment, began: float, clock: float) -> Live:
        return self._wait(deployment.pk, began, clock)

    def _wait(
        self, pk: int, began: float, clock: float, answered: float = 0.0, ends: Status = Status.SUCCEEDED
    ) -> Live:
        rows = Deployment.objects.filter(pk=pk)
        while (status := rows.values_list("status", flat=True).get()) not in FINAL:
            if time.monotonic() - began > LIVE_SECONDS:
                raise BenchFailed(f"Deployment #{pk} is still {status} after {LIVE_SECONDS} s.")
            time.sleep(LOOK_SECONDS)
        deployment = rows.get()
        if status != ends:
            raise BenchFailed(f"{deployment} ended as {status}: {deployment.error}", detail=deployment.detail)
        while _status(EDGE_PORT, self.environment.hostname, "/web/health") != 200:
            if time.monotonic() - began > LIVE_SECONDS:
                raise BenchFailed(f"{self.environment.url} does not answer.")
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        assert deployment.started_at is not None
        waited = deployment.started_at.timestamp() - clock
        phases = {str(step.kind): step.seconds for step in deployment.steps.all()}
        return Live(deployment, seconds, answered, waited, phases)

    def settle(self) -> None:
        """Wait for what oCore does after a deployment, so that it isn't measured with the next one's baseline."""
        deadline = time.monotonic() + QUIET_SECONDS
        while Snapshot.objects.filter(state=Snapshot.State.READY, dump_path="", dump_problem="").exists():
            if time.monotonic() > deadline:
                raise BenchFailed("The snapshots' dumps do not come to an end.")
            time.sleep(0.1)


def addon() -> dict[str, str]:
    """The demo's, as it is when it works."""
    return {
        f"{MODULE}/{path.relative_to(ADDON)}": path.read_text()
        for path in sorted(ADDON.rglob("*"))
        if path.suffix in {".py", ".xml", ".csv"}
    }


def assemble(state: Path, progress: Progress) -> Cast:
    """Both sides deployed for the first time. Needs a portal that is up."""
    server = Server.objects.get(slug="this-machine")
    if server.simulated:
        raise BenchFailed("There is no Docker engine here, and a simulated server has no figures.")
    files = addon()
    remote, twin = GitRemote(state / "git" / "ocore.git"), GitRemote(state / "git" / "byhand.git")
    project = Project.objects.create(name="Bench", slug="bench", repository_url=remote.url)
    environment = Environment.objects.create(
        project=project, server=server, name="Production", slug="production", kind="production", branch="main"
    )
    version = settings.OCORE_DEFAULTS["odoo_version"]
    base_image = settings.OCORE_ODOO_IMAGE.format(version=version)
    cast = Cast(progress, environment, remote, ByHand(state / "byhand", twin, base_image))
    with progress.step("Deploying for the first time through oCore"):
        cast.push(files)
    twin.commit("Notes", files)
    with progress.step("Installing the same by hand"):
        cast.by_hand.install(runtime_for(server), version)
    return cast


@dataclass(frozen=True)
class Call:
    seconds: float
    status: int
    content: dict[str, Any]


def deliver(project: Project, branch: str, before: str, after: str) -> Call:
    """One signed delivery over a connection of its own, as a git host sends it."""
    commit = {"id": after, "message": "Another version", "author": {"name": "Ann Author"}}
    document = {
        "ref": f"refs/heads/{branch}",
        "before": before,
        "after": after,
        "created": before == ZERO,
        "deleted": False,
        "forced": False,
        "head_commit": commit,
        "commits": [commit],
        "pusher": {"name": "ann"},
        "repository": {"full_name": "bench/notes"},
    }
    body = json.dumps(document).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(project.webhook_secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    host, port = web.address()
    began = time.monotonic()
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("POST", project.webhook_path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    seconds = time.monotonic() - began
    if answer.getheader("Content-Type", "").partition(";")[0] != "application/json":
        raise BenchFailed(f"The webhook answered {answer.status}.", detail=content.decode()[-2000:])
    return Call(seconds, answer.status, json.loads(content))


def _status(port: int, host: str, path: str) -> int:
    """0 when nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
