"""What is seen of an instance, and how it gets onto its row. The clock's probes and the keeper both see this way."""

import time
from typing import Any

from django.db.models import Q
from django.utils import timezone

from deployments import at_work
from instances.models import Instance
from instances.odoo import readiness
from instances.runtimes.base import Colour, Container, Runtime
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.inheritance import resolve
from projects.models import Environment


class NotAnswering(ExpectedError):
    default_advice = "Read its log: “docker logs” on the server, or the instance's page."


SHOULD_RUN = (Instance.State.RUNNING, Instance.State.FAILED)
"""The others were stopped by a person, or somebody is at work on them."""


def left_alone() -> Q:
    """Instances of environments in which somebody is at work: what they are, that one says."""
    return Q(environment__in=Environment.objects.filter(at_work.occupied()))


def down(name: str, found: Container | None) -> str:
    """In a sentence, why that container doesn't serve; empty when it runs."""
    if found is None:
        return f"Its container {name} is gone."
    if found.running:
        return ""
    why = "out of memory" if found.out_of_memory else f"exit code {found.exit_code}"
    return f"Its container {name} does not run ({found.state}{'' if found.exit_code is None else f', {why}'})."


def wait_until_it_answers(instance: Instance, container: str, runtime: Runtime, seconds: float) -> None:
    """A container of its has just been started. Raises `NotAnswering`."""
    deadline = time.monotonic() + seconds
    pause = 0.1
    while True:
        problem = unanswered(instance, runtime, container=container)
        if not problem:
            return
        if time.monotonic() > deadline:
            raise NotAnswering(f"{instance} was started, but did not become healthy: {problem}")
        waiting.pause(pause)
        pause = min(pause * 1.5, 2.0)


def unanswered(instance: Instance, runtime: Runtime, seconds: float = 10, *, container: str = "") -> str:
    """What is wrong with its answer, asked from inside its container; empty when it serves its database."""
    argv = readiness.probe(readiness.LOGIN_PATH, host=instance.environment.hostname, timeout=seconds)
    done = runtime.containers.exec(container or instance.container, argv, timeout=seconds + 5)
    (answer,) = readiness.parse_probe(done.output)
    return next(iter(readiness.judge_login(answer)), "")


def unwell(instance: Instance, runtime: Runtime, seconds: float) -> tuple[str, str]:
    """What is wrong from inside, and what from outside, through the edge past its door; empty is health."""
    try:
        inside = unanswered(instance, runtime, seconds)
    except ExpectedError as error:
        inside = error.message
    if inside:
        return inside, ""
    environment = instance.environment
    path = str(resolve(instance, "health_path").value)
    answer = runtime.edge.fetch(environment.hostname, path, past_the_door=Colour(instance.colour), timeout=seconds)
    if answer.ok:
        return "", ""
    return "", f"It answers, but {environment.hostname} answers {answer.status or 'nothing'} through the edge."


def record(instance: Instance, problem: str) -> bool:
    """What was seen becomes its state, so that no screen calls running what isn't; False where somebody is at work, or
    it has become something else meanwhile."""
    problem = redact(problem)
    state = Instance.State.FAILED if problem else Instance.State.RUNNING
    changes: dict[str, Any] = {"state": state, "problem": problem}
    if state != instance.state:
        changes["state_since"] = timezone.now()
    same = Instance.objects.filter(pk=instance.pk, state=instance.state, container=instance.container)
    recorded = same.exclude(left_alone()).update(**changes)
    if recorded:
        for name, value in changes.items():
            setattr(instance, name, value)
    return bool(recorded)
