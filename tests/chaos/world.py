"""A server, a project and its environment on real Docker, PostgreSQL, Caddy and git; jobs that run in processes of
their own which may be killed; and the check of everything that must hold afterwards."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django_rq
from django.conf import settings
from django.db import connections

from deployments import jobs, removal, services
from deployments.models import Deployment, LogChunk, Snapshot
from deployments.services import Who
from deployments.states import ACTIVE, Status, Trigger
from instances.models import Door, Incident, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import NAMESPACE_LABEL, ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.images import DockerImages
from projects.models import Environment, Project, Server
from tests.chaos.crashing import Points
from tests.chaos.engine import Engine as OwnEngine
from tests.chaos.outside import LOGIN, Broken, Outside, Seen, ledger, missing
from tests.conftest import Registry
from tests.git_remote import GitRemote

ADDON = Path(settings.BASE_DIR) / "deployments" / "demo" / "addon" / "acme_notes"
STAND_IN = Path(__file__).parent / "stand_in"
STAND_IN_IMAGE = "odoo:{version}"
"""In the namespace's own repository."""
BACK_SECONDS = 60.0
"""So long after things are back everything has found its end."""
SEEN_SECONDS = 20.0
"""For what was held at the door, too, before what is asked afterwards."""
DEPLOY_SECONDS = 300.0
CHAOS = Who("chaos")


def back_seconds() -> float:
    """`BACK_SECONDS`, longer by as much as this machine is busy with other things."""
    return BACK_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def build_stand_in(namespace: str) -> None:
    images = DockerImages(ServerSpec("this machine", namespace=namespace), Engine(ServerSpec("this machine")))
    reference = f"{namespace}/{STAND_IN_IMAGE.format(version='19.0')}"
    labels = {NAMESPACE_LABEL: namespace, "io.ocore.base": ""}
    images.build_labelled(reference, STAND_IN, labels, lambda _: None, timeout=120, silence=60)


class FileQueues:
    """Instead of Redis: a line per job, shared by all processes, emptied by whoever plays its loss."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get_queue(self, name: str) -> "FileQueues":
        return self

    def enqueue(self, function: Any, *arguments: Any, job_id: str = "") -> None:
        name = function if isinstance(function, str) else function.__name__
        with self.path.open("a") as file:
            file.write(json.dumps([name.rpartition(".")[2], *arguments]) + "\n")

    @property
    def _lines(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    @property
    def job_ids(self) -> list[str]:
        return [f"{name}-{pk}-1" for name, pk, *_ in self._lines]

    @property
    def started_job_registry(self) -> Registry:
        """It doesn't remember what a horse has taken."""
        return Registry([])

    def take(self) -> list[list[Any]]:
        found = self._lines
        self.lose()
        return found

    def lose(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class Horse:
    """A process that runs a job."""

    pid: int
    killed: bool = False
    """It died as it was meant to."""

    def wait(self) -> "Horse":
        _, status = os.waitpid(self.pid, 0)
        self.killed = os.WIFSIGNALED(status)
        return self


@dataclass
class World:
    folder: Path
    remote: GitRemote
    outside: Outside
    environment: Environment
    queues: FileQueues
    kept: int = 2
    """Snapshots that stay: the rest would fill the disk in hundreds of runs."""
    version: int = 0
    slowest: float = 0.0
    _writer: "subprocess.Popen[bytes] | None" = None
    real: bool = False
    """Odoo itself instead of the stand-in."""
    engine: OwnEngine | None = None
    """Where it may be killed."""
    _away: bool = False

    # The developer

    def files(self, **manifest: Any) -> dict[str, str]:
        if self.real:
            version = f"19.0.1.0.{self.version}"
            texts = [path for path in ADDON.rglob("*") if path.suffix in {".py", ".xml", ".csv"}]
            files = {
                f"acme_notes/{path.relative_to(ADDON)}": path.read_text().replace("19.0.1.0.0", version)
                for path in texts
            }
            if manifest.get("fail_update"):
                view = "acme_notes/views/acme_note_views.xml"
                files[view] = files[view].replace('<field name="due_date"/>', '<field name="no_such_field"/>')
            return files
        facts = {"name": "Notes", "version": f"19.0.1.0.{self.version}", "depends": ["base"]} | manifest
        return {"acme_notes/__manifest__.py": repr(facts), "acme_notes/__init__.py": ""}

    def commit_update(self, **manifest: Any) -> None:
        """A new version of the addon: its modules must be updated."""
        self.version += 1
        self.remote.commit(f"Version {self.version}", self.files(**manifest))

    def commit_code_only(self) -> None:
        """Another file that needs no update of the database."""
        self.remote.commit("Marker", {"acme_notes/static/marker.txt": os.urandom(8).hex()})

    def push(self) -> Deployment:
        return services.request_deployment(self.environment, Trigger.MANUAL, CHAOS)

    # The machine

    def start(self, job: str, *arguments: Any, journal: Path | None = None, **what: Any) -> Horse:
        connections.close_all()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setsid()
                log = os.open(self.folder / "horses.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                if journal is not None or what:
                    Points(journal or self.folder / "journal.jsonl", **what).install()
                getattr(jobs, job)(*arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return Horse(pid)

    def run(self, job: str, *arguments: Any, **what: Any) -> Horse:
        return self.start(job, *arguments, **what).wait()

    def settle(self, seconds: float | None = None, *, keeping: bool = False) -> float:
        """Be the clock and the workers until every deployment has ended and nothing is left to do; how long it took.
        `keeping`: with the keeper, until what should run does and nobody is at work anywhere."""
        began = time.monotonic()
        seconds = seconds or back_seconds()
        while True:
            self.run("reconcile")
            if keeping:
                self.run("keep_running")
                self.run("hand_over_edges")
            work = self.queues.take()
            for job, *arguments in work:
                self.run(job, *arguments)
            active = [*Deployment.objects.filter(status__in=ACTIVE), *(self._unquiet() if keeping else ())]
            if not active and not work:
                break
            if time.monotonic() - began > seconds:
                raise Broken(f"not at an end after {seconds:.0f} s: {active}")
            if not work:
                time.sleep(0.2)
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        return took

    def _unquiet(self) -> list[str]:
        """What is still going on outside of deployments."""
        acted_on = Instance.objects.filter(state=Instance.State.RESTARTING)
        busy = Environment.objects.exclude(busy_with="").values_list("busy_with", flat=True)
        going = Environment.objects.exclude(removing_since=None)
        down = Incident.objects.filter(ended_at=None)
        return [
            *map(str, acted_on),
            *busy,
            *map(str, going),
            *(f"{one.subject}: {one.seen} {one.problem}" for one in down),
        ]

    def deploy(self) -> Deployment:
        deployment = self.push()
        self.settle(DEPLOY_SECONDS)
        deployment.refresh_from_db()
        return deployment

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """In a new environment, which goes afterwards."""
        home = self.environment
        number = Environment.objects.count() + Deployment.objects.count()
        self.environment = Environment.objects.create(
            project=home.project, server=home.server, name=f"New {number}", slug=f"new-{number}", branch="main"
        )
        self._away = True
        try:
            yield
        finally:
            if Environment.objects.filter(pk=self.environment.pk).exists():
                self._remove()
            self.environment, self._away = home, False

    def _remove(self) -> None:
        pk = self.environment.pk
        Deployment.objects.filter(environment=pk, status=Status.QUEUED).delete()
        if not Environment.objects.filter(pk=pk).exclude(removing_since=None).exists():
            removal.request(self.environment, CHAOS)
        self.queues.lose()
        self.run("remove_environment", pk)

    # The client

    @property
    def ledger_path(self) -> Path:
        return self.folder / f"{self.environment.key}.ledger"

    def start_writing(self, per_second: float = 8) -> None:
        """Unless one writes; only where there is something to write to."""
        if self._writer or self._away:
            return
        argv = [sys.executable, str(Path(__file__).with_name("ledger.py")), f"127.0.0.1:{self.outside.edge_port}"]
        argv += [
            self.environment.hostname,
            "/acme_notes/post" if self.real else "/chaos/post",
            str(self.ledger_path),
            str(per_second),
        ]
        self._writer = subprocess.Popen(argv)

    def stop_writing(self) -> None:
        if self._writer:
            self._writer.kill()
            self._writer.wait()
            self._writer = None

    # What must hold

    @property
    def live(self) -> Deployment | None:
        return Deployment.objects.filter(environment=self.environment, live=True).first()

    def log_of(self, deployment: Deployment) -> str:
        return "".join(LogChunk.objects.filter(step__deployment=deployment).values_list("text", flat=True))

    def check(self, deployment: Deployment, old: str, new: str) -> None:
        """Raises `Broken`, naming all that doesn't hold. `old` and `new`: the version before, and the one that was to
        come; empty where there is none."""
        deployment.refresh_from_db()
        wrong: list[str] = []

        def hold(true: object, otherwise: str) -> None:
            if not true:
                wrong.append(otherwise)

        hold(deployment.final and deployment.status != Status.ROLLBACK_FAILED, f"it is {deployment.status}")
        went_live = deployment.status == Status.SUCCEEDED
        self._check_all(hold, new if went_live else old)
        if wrong:
            raise Broken("\n".join([f"{deployment} ({deployment.status}: {deployment.error})", *wrong]))

    def check_still(self, version: str, *, stopped: bool = False) -> None:
        """The same where nothing was deployed: that version serves, or is gone where it is empty. `stopped`: by a
        person."""
        wrong: list[str] = []
        self._check_all(lambda true, otherwise: None if true else wrong.append(otherwise), version, stopped=stopped)
        if wrong:
            raise Broken("\n".join(wrong))

    def _check_all(self, hold: Callable[[object, str], None], version: str, *, stopped: bool = False) -> None:
        self._check_leftovers(hold, stopped=stopped)
        if version and not stopped:
            self._check_service(hold, version)
        elif not version:
            database = self.environment.database
            hold(database not in self.outside.databases(), f"the database {database} is left over")
            hold(self.environment.volume not in self.outside.volumes(), "its volume is left over")

    def _check_service(self, hold: Callable[[object, str], None], version: str) -> None:
        environment, outside = self.environment, self.outside
        seen = self._look()
        hold(outside.door_is_open(environment.instances.get().alias), "its door is closed")
        hold(not seen.problem, f"the edge does not serve it: {seen.problem}")
        hold(
            (seen.code, seen.data) == (version, version),
            f"serves code {seen.code} on data {seen.data}, not {version}",
        )
        accepted = ledger(self.ledger_path)
        lost = missing(accepted, outside.notes(environment.database))
        hold(not lost, f"{len(lost)} of {len(accepted)} accepted writes are missing, such as {lost[:3]}")
        if not self.real:
            self._check_files(hold, accepted, version)

    def _look(self) -> Seen:
        host, database = self.environment.hostname, self.environment.database
        if not self.real:
            return self.outside.wait_for(host, SEEN_SECONDS)
        seen = self.outside.wait_for(host, SEEN_SECONDS, LOGIN)
        (container,) = self.environment.instances.values_list("container", flat=True)
        (data,) = self.outside.psql(database, "SELECT latest_version FROM ir_module_module WHERE name = 'acme_notes'")
        return Seen(self.outside.manifest(container), data, seen.problem)

    def _check_files(self, hold: Callable[[object, str], None], accepted: list[str], version: str) -> None:
        environment, outside = self.environment, self.outside
        paths = outside.files(environment.volume)
        folder = f"filestore/{environment.database}/"
        files = {Path(name).name for name in paths if name.startswith(folder)}
        lost = [title for title in accepted if _stored(title) not in files]
        hold(not lost, f"{len(lost)} of {len(accepted)} accepted files are missing, such as {lost[:3]}")
        migrated = outside.migrations(environment.database)
        hold(migrated and migrated[-1] == version, f"the data went through {migrated[-3:]}, not to {version}")
        hold(len(set(migrated)) == len(migrated), f"an update was done twice: {migrated[-3:]}")
        there = {v for v in self._versions() if _stored(f"migration {v}") in files}
        hold(there == set(migrated), f"the filestore is of {sorted(there)[-3:]}, the data of {migrated[-3:]}")
        own = Snapshot.objects.filter(environment=environment, state=Snapshot.State.READY)
        kept = set(own.values_list("label", flat=True))
        found = {name.removeprefix("snapshots/") for name in paths if re.fullmatch("snapshots/[^/]+", name)}
        hold(found == kept, f"filestore snapshots {sorted(found ^ kept)} are left over or lost")
        drafts = [name for name in paths if re.fullmatch(r"filestore/\.[^/]+", name)]
        hold(not drafts, f"half-made filestores are left over: {drafts}")

    def _versions(self) -> list[str]:
        return [f"19.0.1.0.{number}" for number in range(self.version + 1)]

    def _check_leftovers(self, hold: Callable[[object, str], None], *, stopped: bool = False) -> None:
        namespace, outside, environment = settings.OCORE_NAMESPACE, self.outside, self.environment
        wanted = {f"{namespace}-{part}": "running" for part in ("edge", "limiter", "postgres")}
        every = Instance.objects.exclude(container="").values_list("container", flat=True)
        wanted |= dict.fromkeys(every, "exited" if stopped else "running")
        found = outside.containers()
        hold(found == wanted, f"containers {dict(sorted(set(found.items()) ^ set(wanted.items())))}")
        kept = set(Snapshot.objects.filter(state=Snapshot.State.READY).values_list("database", flat=True))
        lived = set(Deployment.objects.filter(live=True).values_list("environment__database", flat=True))
        databases = {name for name in outside.databases() if not name.startswith("ocore_base_") or "draft" in name}
        drafts = {name for name in databases if name.endswith("_draft")}
        hold(databases - drafts == kept | lived, f"databases {sorted((databases - drafts) ^ (kept | lived))}")
        hold(outside.networks() == {namespace, f"{namespace}-edge"}, f"networks {sorted(outside.networks())}")
        hold(not Door.objects.exists(), f"doors {[str(door) for door in Door.objects.all()]}")
        server = Server.objects.get(pk=environment.server_id)
        hold(server.reloading_until is None, "the lock of the edge's reload is left over")
        busy = Environment.objects.exclude(busy_with="").values_list("busy_with", flat=True)
        hold(not busy, f"busy with {list(busy)}")
        deadline = time.monotonic() + 5
        while (sessions := outside.sessions()) and time.monotonic() < deadline:
            time.sleep(0.2)
        hold(not sessions, f"sessions in PostgreSQL: {sessions}")
        builds = Path(settings.STATE_DIR) / "builds"
        left = [one.name for one in builds.iterdir()] if builds.is_dir() else []
        hold(not left, f"folders of builds {left}")

    def remove_leftovers(self) -> None:
        """After a failure, so that the next is another one."""
        kept = {f"{settings.OCORE_NAMESPACE}-{part}" for part in ("edge", "limiter", "postgres")}
        kept |= set(Instance.objects.values_list("container", flat=True))
        for name in self.outside.containers().keys() - kept:
            self.outside.api.remove_container(name, force=True)

    def tidy(self) -> None:
        """Be the retention: only the newest snapshots stay."""
        runtime = runtime_for(self.environment.server)
        ready = Snapshot.objects.filter(environment=self.environment, state=Snapshot.State.READY)
        for snapshot in ready.order_by("-pk")[self.kept :]:
            runtime.databases.drop(snapshot.database)
            runtime.filestores.discard(self.environment.volume, snapshot.label)
            Snapshot.objects.filter(pk=snapshot.pk).update(state=Snapshot.State.GONE)


@contextmanager
def made(folder: Path, namespace: str, edge_port: int, *, real: bool = False) -> Iterator[World]:
    """A world with a live first version and a client who writes."""
    if not real:
        build_stand_in(namespace)
    remote = GitRemote(folder / "git" / "acme")
    server = Server.objects.create(name="This machine", slug="here", edge_port=edge_port)
    project = Project.objects.create(
        name="Acme", slug="acme", repository_url=remote.url, health_deadline=60 if real else 10
    )
    environment = Environment.objects.create(
        project=project, server=server, name="Production", slug="production", kind="production", branch="main"
    )
    queues = FileQueues(folder / "queue.jsonl")
    world = World(folder, remote, Outside(namespace, edge_port), environment, queues, real=real)
    before, django_rq.get_queue = django_rq.get_queue, queues.get_queue
    try:
        world.commit_update()
        first = world.deploy()
        if first.status != Status.SUCCEEDED:
            raise Broken(f"{first}: {first.error} {first.detail}\n{world.log_of(first)}")
        world.start_writing()
        yield world
    finally:
        world.stop_writing()
        django_rq.get_queue = before


def _stored(content: str) -> str:
    """The name under which a filestore has it."""
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()


def stopped(pid: int, seconds: float = 30) -> bool:
    """Whether a process came to a SIGSTOP."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if found:
            return os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
        time.sleep(0.05)
    return False
