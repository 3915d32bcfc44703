"""Where everything is reached, and whether it answers there: what `make up` says at its end."""

import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from django.conf import settings
from django.urls import reverse

from deployments import demo, probes
from deployments.at_work import underway
from deployments.looks import Look
from deployments.models import Deployment
from instances.models import Door, Instance
from instances.runtimes.base import Answer
from projects.domains import of_environments
from projects.models import Environment

ASK_SECONDS = 5.0
AGAIN_SECONDS = 0.5
AT_ONCE = 16
INDENT = " " * 13


@dataclass(frozen=True)
class Address:
    live: Deployment
    environment: Environment
    instances: list[Instance]

    @property
    def wanted(self) -> bool:
        """Whether it should answer: somebody who has stopped it expects nothing."""
        return any(one.state != Instance.State.STOPPED for one in self.instances)


def addresses() -> list[Address]:
    rows = Deployment.objects.filter(live=True).select_related("environment__project", "environment__server")
    rows = rows.prefetch_related("environment__instances", of_environments("environment__domains")).order_by(
        "environment__project__name", "environment__name"
    )
    return [Address(one, one.environment, list(one.environment.instances.all())) for one in rows]


def ask(found: list[Address], patience: float) -> dict[int, Answer]:
    """Each environment's answer through its edge, all at once. One that doesn't answer is asked again while `patience`
    seconds last, since a started Odoo needs a few; `ASK_SECONDS` after that nothing is awaited any more."""
    deadline = time.monotonic() + patience
    wanted = [one.environment for one in found if one.wanted]
    pool = ThreadPoolExecutor(max_workers=AT_ONCE)
    asked = {one.pk: pool.submit(_ask, one, probes.health_path(one), deadline) for one in wanted}
    wait(asked.values(), timeout=patience + 2 * ASK_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    late = Answer(0, f"No answer within {patience + 2 * ASK_SECONDS:.0f} s.")
    return {pk: one.result() if one.done() and not one.cancelled() else late for pk, one in asked.items()}


def _ask(environment: Environment, path: str, deadline: float) -> Answer:
    while True:
        answer = probes.look(environment, path, timeout=ASK_SECONDS)
        if answer.ok or time.monotonic() >= deadline:
            return answer
        time.sleep(AGAIN_SECONDS)


def told(found: list[Address], answers: dict[int, Answer]) -> list[str]:
    """A line per address; below one that doesn't answer why, and what to do."""
    lines = [f"Admin        {settings.OCORE_BASE_URL}{reverse('admin:index')}"]
    pages = set()
    silent = [one.environment for one in found if not answers.get(one.environment.pk, Answer(200)).ok]
    engines = probes.engines_of(silent)
    for one in found:
        environment = one.environment
        note = " (simulated)" if environment.server.simulated else ""
        lines.append(f"Odoo         {environment.url}{note}, {environment}")
        lines += [INDENT + line for line in _trouble(one, answers.get(environment.pk), engines)]
        if environment.public and environment.project_id not in pages:
            pages.add(environment.project_id)
            path = reverse("status", args=[environment.project.status_token])
            lines.append(f"Status page  {settings.OCORE_BASE_URL}{path}, {environment.project}")
        if environment.project.slug == demo.SLUG:
            lines.append(f"Repository   {settings.STATE_DIR / 'demo' / 'work'}: change the addon, commit, git push")
    return lines


def _trouble(one: Address, answer: Answer | None, engines: dict[int, Look]) -> list[str]:
    if answer is None:
        return ["Stopped by a person. Start it again on its page:", *(f"  {_page(each)}" for each in one.instances)]
    if answer.ok:
        return []
    at_work = underway(one.environment)
    if at_work or Door.objects.filter(environment=one.environment).exists():
        what = f"{at_work} is underway" if at_work else "its door is closed"
        return [f"Doesn't answer now: {what}. See: ./manage.py status {one.environment.path}"]
    lines = []
    for instance in one.instances:
        if instance.state != Instance.State.STOPPED:
            why = probes.problem_of(instance, answer, engines[one.environment.server_id])
            lines += [f"DOESN'T ANSWER. {why}", *_advice(one, instance)]
    return lines


def _advice(one: Address, instance: Instance) -> list[str]:
    ref = f" --ref {one.live.short_commit}" if one.live.commit else ""
    return [
        f"Its log: docker logs --tail 50 {instance.container}. Restart it on its page: {_page(instance)}",
        f"If that doesn't help: ./manage.py deploy {one.environment.path}{ref} --force --wait",
    ]


def _page(instance: Instance) -> str:
    return f"{settings.OCORE_BASE_URL}{reverse('admin:instances_instance_change', args=[instance.pk])}"
