"""The world that the model acts in: processes that can be killed, interrupted or held up at any point of their work; a
clock that nobody has to wait for; a server in memory that can be out of reach; a Redis that forgets.

A *point* is the moment before something that leaves a trace or looks whether it still may: a statement that writes, a
verb of the server, a job handed over, a look at the fence. A killed process is stopped there as by kill -9: nothing
that it would still do on its way out, in a `finally` say, reaches the database, the server or Redis.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django_rq
import pytest
from django.db import connection
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisAway

from deployments import jobs
from deployments.models import Deployment
from deployments.run import Run
from deployments.states import UNDERWAY
from instances.runtimes import simulated
from instances.runtimes.base import DatabaseError, EdgeError, RunFailed, ServerUnreachable
from tests.conftest import Queues

LOOKS = ("facts", "prepare", "containers.exec", "databases.query", "images.ensure_base")
"""Verbs that change nothing which another worker could miss."""
WRITES = ("INSERT", "UPDATE", "DELETE")
NAMED = {
    "deployments.claims": ["own_name"],
    "deployments.recovery": ["is_dead"],
    "deployments.retention.on_server": ["file_lock"],
    "deployments.retention.strays": ["file_lock"],
    "deployments.retention.sweep": ["file_lock"],
    "deployments.run": ["is_dead", "kill_named", "own_name"],
    "deployments.steps.build": ["file_lock"],
    "instances.doors": ["is_dead", "own_name"],
    "instances.templates": ["file_lock"],
    "projects.models": ["is_dead"],
}
"""Where processes and the kernel's locks are asked for."""
WITH_THREADS = ("deployments.looks", "deployments.probes", "ocore.waiting")
ENDS = ("ROLLBACK", "RELEASE", "SAVEPOINT")
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
STALE_SECONDS = 45.0
PATIENCE = 20.0
"""A pause in the code takes so many times longer here: fewer turns, the same decisions."""


class Killed(BaseException):
    """The process is gone; nothing of ours handles it."""


@dataclass
class Process:
    interruptions: dict[int, Callable[[], None]]
    """By the number of the point: what happens elsewhere, or to it, at that moment."""
    name: str = ""
    """As the rows know it; "here ..." where all live on one machine."""
    points: int = 0
    dead: bool = False
    locks: int = 0
    let_through: bool = False
    """It has looked at the fence, and has done nothing since."""
    holds: dict[int, int] = field(default_factory=dict)
    """Deployment -> token, for its heartbeat."""


@dataclass
class Outage:
    """A part of the server fails so many times."""

    part: str
    times: int


ERRORS: dict[str, Callable[[str], Exception]] = {
    "server": lambda verb: ServerUnreachable(f"Server Sim does not answer ({verb})."),
    "databases": lambda verb: DatabaseError(f"PostgreSQL is away ({verb})."),
    "edge": lambda verb: EdgeError(f"The edge does not answer ({verb})."),
    "containers": lambda verb: RunFailed(f"The engine failed ({verb})."),
    "filestores": lambda verb: RunFailed(f"No space left on the volume ({verb})."),
}


class World:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.server: dict[str, Any] = {}
        self.queues = Queues()
        self.processes: list[Process] = []
        self.outage: Outage | None = None
        self.redis_away = 0
        self.sick: Callable[[str, str], str] = lambda verb, name: ""
        self.far = False
        """Each process lives on another machine: none is known to be dead, none can be killed by the others."""
        self._begun = 0
        self.most_points = 0
        self.changes = 0
        """How often something left a trace."""
        self._ahead = 0.0
        self._lock = threading.RLock()
        self._patch(patch)

    def restart(self) -> None:
        """A new world, with nothing in it."""
        self.server = {name: {} for name in ("images", "containers", "roles", "databases", "volumes")} | {
            "open_doors": {},
            "routes": [],
            "prepared": False,
        }
        self.queues.jobs.clear()
        self.processes.clear()
        self._ahead = 0.0
        self.outage, self.redis_away = None, 0

    # Time

    def now(self) -> datetime:
        """Moves on by a millisecond whenever somebody looks: the same in every run."""
        self._ahead += 0.001
        return BEGINNING + timedelta(seconds=self._ahead)

    def _monotonic(self) -> float:
        self._ahead += 0.001
        return self._ahead

    def pass_time(self, seconds: float) -> None:
        self._ahead += seconds

    # Processes

    def run(self, act: Callable[[], None], interruptions: Mapping[int, Callable[[], None]] | None = None) -> Process:
        """A process does this, to its end or until it is killed."""
        self._begun += 1
        process = Process(dict(interruptions or {}), name=f"{'there' if self.far else 'here'} {self._begun}")
        self.processes.append(process)
        try:
            act()
        except Killed:
            assert process.dead, "only the one that was killed ends so"
        finally:
            assert self.processes.pop() is process
            self.most_points = max(self.most_points, process.points)
        assert not connection.in_atomic_block
        return process

    def die(self) -> None:
        """What an interruption says that kills."""
        self.processes[-1].dead = True
        raise Killed

    def hold_up(self, act: Callable[[], None]) -> None:
        """The process stands still for longer than a heartbeat may, while others act."""
        self.pass_time(STALE_SECONDS)
        act()

    def live_on(self, act: Callable[[], None]) -> None:
        """Others act while the process goes on being there: its heart beats."""
        process = self.processes[-1]
        act()
        for pk, token in process.holds.items():
            rows = Deployment.objects.filter(pk=pk, token=token, status__in=UNDERWAY)
            with self.unseen():
                rows.update(heartbeat_at=self.now())

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What the model itself does or looks at is no process's point."""
        self.processes.append(Process({}))
        try:
            yield
        finally:
            self.processes.pop()

    def point(self, kind: str) -> None:
        if not self.processes:
            return
        process = self.processes[-1]
        if process.dead:
            raise Killed
        if threading.current_thread() is not threading.main_thread():
            return
        process.points += 1
        due = [at for at in sorted(process.interruptions) if at <= process.points]
        for at in due:
            interruption = process.interruptions[at]
            if self._may_interrupt(process, interruption, kind):
                del process.interruptions[at]
                interruption()
        if kind in ("fence", "verb"):
            process.let_through = kind == "fence"

    def _may_interrupt(self, process: Process, interruption: Callable[[], None], kind: str) -> bool:
        if interruption == self.die:
            return True
        if connection.in_atomic_block or any(one.locks for one in self.processes):
            return False  # whoever comes would wait for the end of it
        if getattr(interruption, "anywhere", True):
            return True
        # Between the last look at the fence and what it let through nobody can help; at everything else it must.
        return kind in ("fence", "write") or (kind == "verb" and not process.let_through)

    # What surrounds the code

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(timezone, "now", self.now)
        patch.setattr(time, "monotonic", self._monotonic)
        patch.setattr(time, "sleep", lambda seconds: self.pass_time(seconds * PATIENCE))
        patch.setattr(django_rq, "get_queue", self._get_queue)
        patch.setattr(simulated._Store, "open", lambda store: self._open())
        patch.setattr(simulated.FAULTS, "meet", self._meet)
        patch.setattr(Run, "check", self._checked(Run.check))
        patch.setattr(Run, "__enter__", self._entered(Run.__enter__))
        for module, names in NAMED.items():
            for name in names:
                patch.setattr(f"{module}.{name}", getattr(self, f"_{name}"))
        for module in WITH_THREADS:
            patch.setattr(f"{module}.ThreadPoolExecutor", InTurn)
        patch.setattr("ocore.waiting.connections.close_all", lambda: None)  # of a thread that is none here

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The portal's database as seen from the processes."""
        with connection.execute_wrapper(self._statement):
            yield

    def _statement(self, execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.startswith(WRITES):
            self.point("write")
            self.changes += 1
        elif self.processes and self.processes[-1].dead and not sql.startswith(ENDS):
            raise Killed
        return execute(sql, parameters, many, context)

    @contextmanager
    def _open(self) -> Iterator[dict[str, Any]]:
        self.point("look")
        with self._lock:
            state = json.loads(json.dumps(self.server))
            yield state
            if state != self.server:
                self.server, self.changes = state, self.changes + 1

    def _meet(self, verb: str, *arguments: Any) -> None:
        self.point("look" if verb in LOOKS else "verb")
        part = verb.partition(".")[0]
        outage = self.outage
        if outage and (outage.part in (part, "server")):
            outage.times -= 1
            if outage.times <= 0:
                self.outage = None
            raise ERRORS[outage.part](verb)
        if verb in ("images.build", "containers.run", "containers.exec"):
            problem = self.sick(verb, str(arguments[0]))
            if problem:
                raise RunFailed(problem)

    def _checked(self, real: Callable[[Run], None]) -> Callable[[Run], None]:
        def check(run: Run) -> None:
            self.point("fence")
            real(run)

        return check

    def _entered(self, real: Callable[[Run], Run]) -> Callable[[Run], Run]:
        def enter(run: Run) -> Run:
            self.processes[-1].holds[run.deployment.pk] = run.token
            return real(run)

        return enter

    @contextmanager
    def _file_lock(self, path: Path, told: Callable[[], None] | None = None) -> Iterator[None]:
        """The kernel's, freed by whoever dies. Nobody is interrupted who has one, so nobody waits."""
        self.point("verb")
        process = self.processes[-1]
        process.locks += 1
        try:
            yield
        finally:
            process.locks -= 1

    def _own_name(self) -> str:
        return self.processes[-1].name if self.processes else ""

    def _is_dead(self, name: str) -> bool:
        """Nobody can tell of a process on another machine."""
        return name.startswith("here") and not any(one.name == name and not one.dead for one in self.processes)

    def _kill_named(self, name: str) -> bool:
        for one in self.processes[:-1]:
            if one.name == name and name.startswith("here"):
                one.dead = True
        return True

    def _get_queue(self, name: str) -> Any:
        return Handover(self, self.queues.get_queue(name))

    def jobs(self) -> list[tuple[str, int]]:
        return [(name, place) for name in sorted(self.queues.jobs) for place in range(len(self.queues.jobs[name]))]

    def work(
        self,
        queue: str,
        place: int,
        interruptions: Mapping[int, Callable[[], None]] | None = None,
        *,
        keep: bool = False,
    ) -> Process:
        """A worker takes a job from a queue; with `keep` the job is handed out once more later."""
        waiting = self.queues.jobs[queue]
        function, arguments = waiting[place] if keep else waiting.pop(place)
        return self.run(lambda: getattr(jobs, function)(*arguments), interruptions)

    def clock(self, interruptions: Mapping[int, Callable[[], None]] | None = None) -> Process:
        return self.run(self._tick, interruptions)

    def _tick(self) -> None:
        for job in (jobs.reconcile, jobs.keep_running, jobs.probe_environments, jobs.sweep_all):
            job()


class Handover:
    """A queue that may be away."""

    def __init__(self, world: World, queue: Any) -> None:
        self._world, self._queue = world, queue

    def enqueue(self, function: Any, *arguments: Any, job_id: str = "", **_: Any) -> None:
        self._world.point("verb")
        self._reach()
        self._queue.enqueue(function, *arguments, job_id=job_id)

    @property
    def job_ids(self) -> list[str]:
        self._reach()
        return list(self._queue.job_ids)

    @property
    def started_job_registry(self) -> Any:
        self._reach()
        return self._queue.started_job_registry

    def _reach(self) -> None:
        if self._world.redis_away > 0:
            self._world.redis_away -= 1
            raise RedisAway("Redis is away")


class InTurn:
    """A pool of threads that does everything at once, in order: what happens is the same in every run."""

    def __init__(self, max_workers: int = 1, thread_name_prefix: str = "") -> None:
        pass

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        pass

    def __enter__(self) -> "InTurn":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, act: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(act(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def map(self, act: Callable[..., Any], *values: Iterable[Any]) -> list[Any]:
        futures = [self.submit(act, *arguments) for arguments in zip(*values, strict=False)]
        return [future.result() for future in futures]
