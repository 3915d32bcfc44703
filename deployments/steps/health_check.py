"""Health check: the new version really serves the right database, before any client meets it."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from deployments.configuration import thaw
from deployments.models import Deployment, Step
from deployments.run import Run, Stage
from deployments.states import GENTLE, StepKind, StepStatus
from deployments.steps import planning
from deployments.steps.base import NotHealthy
from instances.odoo import queries, readiness
from instances.runtimes.base import Answer, DatabaseError, RunFailed
from ocore import waiting

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 3.0
SOON, SOON_PAUSE = 10.0, 0.25
"""In the first ten seconds it usually gets ready, and clients may be waiting."""
PROBE_SECONDS = 20.0
PATIENCE = 2.0
"""So long a look waits inside the container for Odoo to listen, instead of the engine being asked again and again."""
EDGE_SECONDS = 10.0
LOG_LINES = 60
READ_LOG = (
    "Read Odoo's last lines below: they name the addon to correct, or the setting of the environment, such as an "
    "option of odoo.conf or a limit. A slow start may need a longer health deadline."
)
KILLED = (
    "Somebody or something stopped its container from outside: one that ends by itself is started again by its engine. "
    "The commit need not be the cause: deploy again."
)
ENDED_SECONDS = 2.0
"""What its engine starts again is never seen `exited` for so long: that is what somebody stopped or killed."""
DEATHS = 4
"""Restarts within one health check, which take the engine a few seconds, after which it is given up."""


def perform(stage: Stage) -> str:
    run = stage.run
    containers = serving_containers(run)
    instances = {instance.slug: instance for instance in run.instances}
    run.check()
    # No door leads there yet.
    joins = [
        partial(run.runtime.containers.join_edge, name, instances[slug].name_at_edge(instances[slug].colour_of(name)))
        for name, slug in containers.items()
    ]
    with waiting.beside(*([] if stays(run) else joins)):
        seconds = wait_until_healthy(run, containers, stage.log)
    stage.log(f"Healthy from inside after {seconds:.1f} s. Now through the edge.")
    if run.deployment.way in GENTLE:
        planning.require_the_same(run)
    seconds += _through_the_edge(run)
    return f"Healthy after {seconds:.1f} s"


def stays(run: Run) -> bool:
    """This deployment found nothing to replace."""
    step = run.step(StepKind.DEPLOY)
    return step is not None and step.status == StepStatus.SKIPPED


def serving_containers(run: Run) -> dict[str, str]:
    """Those that serve once this deployment is live, each with its instance's slug."""
    if stays(run):
        return {instance.container: instance.slug for instance in run.instances}
    return {instance.container_for(run.deployment.pk): instance.slug for instance in run.instances}


def undo(stage: Stage, step: Step) -> None:
    """Joining the edge's network ends with the container."""


def wait_until_healthy(
    run: Run, containers: Mapping[str, str], log: Callable[[str], None], *, of: Deployment | None = None
) -> float:
    """Seconds until every one of them passed every level. Raises `NotHealthy` with the last failing answer.

    `containers` by the slug of their instance, whose health path counts. `of` is the deployment whose settings they run
    with; this one's unless given.
    """
    config = thaw(of) if of and of.configuration else run.config
    started = time.monotonic()
    deadline = started + config.environment["health_deadline"]
    for container, slug in containers.items():
        settings = config.environment | {"health_path": config.instance(slug)["health_path"]}
        _wait_for(run, container, settings, deadline, log)
    return time.monotonic() - started


def _wait_for(run: Run, container: str, settings: dict[str, Any], deadline: float, log: Callable[[str], None]) -> None:
    pause, last, began = FIRST_PAUSE, "", time.monotonic()
    ended_since: float | None = None
    while True:
        problems = _problems(run, container, settings)
        if not problems:
            return
        if problems[0] != last:
            last = problems[0]
            log(f"Not yet: {last}")
        if time.monotonic() + pause > deadline:
            raise _not_healthy(run, container, problems, f"within {settings['health_deadline']} s")
        found = run.runtime.containers.find(container)
        if found is None or found.restart_count >= DEATHS:  # waiting longer only keeps clients waiting
            raise _not_healthy(run, container, problems, f"after {DEATHS} starts" if found else "any more")
        ended_since = (ended_since or time.monotonic()) if found.state in ("exited", "dead") else None
        if ended_since is not None and time.monotonic() - ended_since >= ENDED_SECONDS:
            raise _not_healthy(run, container, problems, "any more", advice=KILLED)
        waiting.pause(pause)
        run.check()
        soon = time.monotonic() - began < SOON
        pause = min(pause * 1.5, SOON_PAUSE if soon else LONGEST_PAUSE)


def _problems(run: Run, container: str, settings: dict[str, Any]) -> list[str]:
    """Level by level, the cheap ones first; an empty list is health."""
    found = run.runtime.containers.find(container)
    if found is None:
        return [f"The container {container} is gone."]
    if not found.running:
        why = "it ran out of memory" if found.out_of_memory else f"exit code {found.exit_code}"
        return [f"The container {container} does not run ({found.state}, {why})."]
    with waiting.beside(partial(_left_half_way, run)) as (half_way,):
        try:
            problems = readiness.judge(_ask(run, container, settings["health_path"], readiness.LOGIN_PATH))
        except RunFailed as error:
            problems = [error.message]
    return problems or half_way.result()


def _left_half_way(run: Run) -> list[str]:
    try:
        rows = run.runtime.databases.query(run.environment.database, queries.PENDING_MODULES_SQL)
    except DatabaseError as error:  # PostgreSQL may be coming back just now
        return [error.message]
    return [f"Module {row.name} is left “{row.state}”." for row in queries.module_rows(rows)]


def _ask(run: Run, container: str, *paths: str) -> list[Answer]:
    argv = readiness.probe(*paths, host=run.environment.hostname, timeout=PROBE_SECONDS, patience=PATIENCE)
    timeout = PATIENCE + PROBE_SECONDS * len(paths) + 5
    return readiness.parse_probe(run.runtime.containers.exec(container, argv, timeout=timeout).output)


def _not_healthy(run: Run, container: str, problems: list[str], when: str, *, advice: str = READ_LOG) -> NotHealthy:
    try:
        tail = run.runtime.containers.logs(container, LOG_LINES)
    except RunFailed as error:
        tail = error.message
    return NotHealthy(
        f"Not healthy {when}: {problems[0]}",
        detail="\n".join(problems) + f"\n\nThe last lines of {container}:\n{tail}",
        advice=advice,
    )


def _through_the_edge(run: Run) -> float:
    """Past the door, which is still closed: the edge finds the new version under the environment's name."""
    started = time.monotonic()
    path = run.config.environment["health_path"]
    by_slug = {slug: name for name, slug in serving_containers(run).items()}
    first = run.instances[0]
    colour = first.colour_of(by_slug[first.slug])
    pause = FIRST_PAUSE
    while True:
        answer = run.runtime.edge.fetch(run.environment.hostname, path, past_the_door=colour)
        if answer.ok:
            return time.monotonic() - started
        if time.monotonic() - started > EDGE_SECONDS:
            seen = answer.status or "nothing"
            raise NotHealthy(
                f"Healthy from inside, but the edge answers {seen} for {run.environment.hostname}.",
                detail=answer.body,
                advice="Look at the server's edge: docs/operations.md, “The edge”.",
            )
        waiting.pause(pause)
        run.check()
        pause = min(pause * 1.5, 1.0)
