"""What heartbeat and fencing cost: a verb of a server with and without its fence, and their share of a deployment."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from unittest import mock

from django.utils import timezone

from deployments import jobs
from deployments.models import Deployment, Step
from deployments.run import HEARTBEAT_SECONDS, Run, Stage
from deployments.states import Status, StepKind, Trigger
from instances.runtimes import runtime_for
from projects.models import Environment, Server
from tests.bench import report
from tests.bench.cast import BenchFailed, Cast
from tests.bench.holding import hold
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench guard"
TIMES = 1000
ROUNDS = 3


def measure(cast: Cast, rounds: int) -> list[Figure]:
    found = _single(cast)
    beat = report.quantile(found[-1].samples, 0.5) / 1e6
    spent, seconds = [], []
    for number in range(1, min(rounds, ROUNDS) + 1):
        guarded, deployment = _deploy(cast)
        seconds.append(deployment.seconds or 0.0)
        spent.append(sum(guarded) + beats(seconds[-1]) * beat)
        cast.progress.say(
            f"Deployment {number}: {len(guarded)} looks at the token, {spent[-1] * 1000:.0f} ms of {seconds[-1]:.1f} s"
        )
    return [*found, *shares(spent, seconds)]


def beats(seconds: float) -> int:
    """While a deployment lasts so long."""
    return int(seconds // HEARTBEAT_SECONDS)


def shares(spent: list[float], seconds: list[float]) -> list[Figure]:
    """Of deployments that took so many seconds, and spent so many of them on their guard."""
    part = tuple(100 * one / whole for one, whole in zip(spent, seconds, strict=True))
    in_ms = tuple(1000 * one for one in spent)
    return [
        Figure("all of it in one deployment", "ms", in_ms, COMMAND),
        Figure("its share of the deployment", "%", part, COMMAND),
    ]


def _single(cast: Cast) -> list[Figure]:
    """Each many times, in turns with the same without; the heartbeat last."""
    server = Server.objects.create(name="Guard", slug="guard", kind=Server.Kind.SIMULATED)
    environment = Environment.objects.create(
        project=cast.environment.project, server=server, name="Guard", slug="guard", branch="main", auto_deploy=False
    )
    bare = runtime_for(server).containers
    with hold(environment) as run:
        behind = run.runtime.containers
        stage = Stage(run, Step.objects.create(deployment=run.deployment, kind=StepKind.DEPLOY))
        rows = Step.objects.filter(pk=stage.row.pk)
        acts: list[tuple[str, Callable[[], object], Callable[[], object] | None]] = [
            ("a look at the token", run.check, None),
            ("a verb behind its fence", lambda: behind.remove("nobody"), lambda: bare.remove("nobody")),
            (
                "facts written before the act",
                lambda: stage.intend(database=True),
                lambda: rows.update(facts={"database": True}),
            ),
            ("a heartbeat", lambda: run.save(heartbeat_at=timezone.now()), None),
        ]
        return [_figure(name, act, without) for name, act, without in acts]


def _figure(name: str, act: Callable[[], object], without: Callable[[], object] | None) -> Figure:
    samples: list[float] = []
    bare: list[float] = []
    for _ in range(TIMES):
        samples.append(_microseconds(act))
        if without:
            bare.append(_microseconds(without))
    return Figure(f"{name}, {TIMES} times", "µs", tuple(samples), COMMAND, tuple(bare))


def _microseconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e6


def _deploy(cast: Cast) -> tuple[list[float], Deployment]:
    """A changed addon goes live, with this process as its worker; the seconds that each look at the token took."""
    cast.remote.commit("Another version", cast.change())
    deployment = Deployment.objects.create(
        environment=cast.environment,
        trigger=Trigger.COMMAND_LINE,
        requester="bench",
        ref="main",
        admitted_at=timezone.now(),  # at once ours: no worker is asked
    )
    clock = Stopwatch()
    with mock.patch.object(Run, "check", clock(Run.check)), mock.patch.object(Stage, "intend", clock(Stage.intend)):
        jobs.run_deployment(deployment.pk)
    deployment.refresh_from_db()
    if deployment.status != Status.SUCCEEDED:
        raise BenchFailed(f"{deployment} ended as {deployment.status}: {deployment.error}", detail=deployment.detail)
    cast.settle()
    return clock.samples, deployment


class Stopwatch:
    """Takes the time of every call of what it is put around, and of one inside another only the outer one's."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._inside = False

    def __call__(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return method(*arguments, **named)
            self._inside = True
            began = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                self.samples.append(time.perf_counter() - began)
                self._inside = False

        return timed
