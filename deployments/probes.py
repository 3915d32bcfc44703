"""The clock's look at every environment that should be up, from outside, through its server's edge."""

import logging
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from django.utils import timezone
from django.utils.html import strip_tags

from deployments import sight
from deployments.looks import Look, Seen, looks
from deployments.models import Deployment
from instances import incidents
from instances.models import Door, HealthCheck, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer, Colour, ServerUnreachable
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.inheritance import resolve
from projects.models import Environment

logger = logging.getLogger(__name__)
AT_ONCE = 8
_UNSEEN = re.compile(r"<(style|script|head)\b.*?</\1>", re.DOTALL | re.IGNORECASE)


def probe_all() -> None:
    live = Deployment.objects.filter(live=True).values("environment")
    environments = list(
        Environment.objects.filter(pk__in=live).select_related("server", "project").prefetch_related("instances")
    )
    wanted = [one for one in environments if any(i.state != i.State.STOPPED for i in one.instances.all())]
    now = timezone.now()
    held = set(Door.objects.values_list("environment_id", flat=True))
    paths = [health_path(environment) for environment in wanted]
    answers = _answers(wanted, paths)
    HealthCheck.objects.bulk_create(
        [
            HealthCheck(
                environment=environment,
                checked_at=now,
                ok=answer.ok,
                held=environment.pk in held,
                status=answer.status,
                seconds=answer.seconds,
                detail="" if answer.ok else _words(answer.body),
            )
            for environment, answer in zip(wanted, answers, strict=True)
        ]
    )
    down = set(incidents.unended().exclude(instance=None).values_list("instance_id", flat=True))
    engines = engines_of(one for one, answer in zip(wanted, answers, strict=True) if not answer.ok)
    for environment, answer in zip(wanted, answers, strict=True):
        _record(environment, answer, down, engines)


def _answers(environments: list[Environment], paths: list[str]) -> list[Answer]:
    """Of all; where an engine is known to be down and one environment doesn't answer, the other ones of its server are
    not waited for as long."""
    down, silent = incidents.engines_down(), dict[int, Answer]()

    def ask(environment: Environment, path: str) -> Answer:
        server = environment.server_id
        answer = silent.get(server) or look(environment, path)
        if server in down and not answer.status:
            silent[server] = answer
        return answer

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(ask, environments, paths))


def engines_of(environments: Iterable[Environment]) -> dict[int, Look]:
    """By server, its containers: each is asked once, and one that is known to be down isn't."""
    servers, down = {one.server_id: one.server for one in environments}, incidents.engines_down()
    asked = looks([server for pk, server in servers.items() if pk not in down])
    return {pk: partial(_unreachable, down[pk]) for pk in servers if pk in down} | {
        server.pk: found for server, found in asked
    }


def _unreachable(seen: str) -> Seen:
    raise ServerUnreachable(seen)


def _record(environment: Environment, answer: Answer, down: set[int], engines: dict[int, Look]) -> None:
    """What the instances become by it; one with an incident is the keeper's to say."""
    for instance in environment.instances.all():
        if instance.state in sight.SHOULD_RUN and instance.container and instance.pk not in down:
            problem = "" if answer.ok else problem_of(instance, answer, engines[environment.server_id])
            sight.record(instance, problem)


def problem_of(instance: Instance, answer: Answer, containers: Look) -> str:
    """In a sentence, for whoever looks at the list."""
    try:
        down = sight.down(instance.container, containers().get(instance.container))
    except ExpectedError as error:
        return redact(error.message)
    if down:
        return down
    return f"It answers {answer.status} to its health check." if answer.status else f"No answer: {answer.body[:200]}"


def _words(page: str) -> str:
    """What a page says, without its HTML."""
    return " ".join(strip_tags(_UNSEEN.sub(" ", page)).split())[:500]


def health_path(environment: Environment) -> str:
    """By which a deployment is judged; where instances differ, the first one's."""
    return str(resolve(next(iter(environment.instances.all()), environment), "health_path").value)


def _colour(environment: Environment) -> Colour:
    return Colour(next((one.colour for one in environment.instances.all() if one.container), Colour.BLUE))


def look(environment: Environment, path: str, *, timeout: float = 10) -> Answer:
    """Past the door: a held request would wait and tell nothing. A server that can't be asked answers for none but
    itself."""
    try:
        return runtime_for(environment.server).edge.fetch(
            environment.hostname, path, past_the_door=_colour(environment), timeout=timeout
        )
    except ExpectedError as error:
        return Answer(0, error.message)
