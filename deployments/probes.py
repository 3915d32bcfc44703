"""The clock's look at every environment that should be up, from outside, through its server's edge."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.utils import timezone

from deployments.models import Deployment
from instances.models import Door, HealthCheck
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer
from ocore.errors import ExpectedError
from projects.inheritance import resolve
from projects.models import Environment

logger = logging.getLogger(__name__)
KEPT = timedelta(days=35)
AT_ONCE = 8


def probe_all() -> None:
    live = Deployment.objects.filter(live=True).values("environment")
    environments = list(
        Environment.objects.filter(pk__in=live).select_related("server", "project").prefetch_related("instances")
    )
    wanted = [one for one in environments if any(i.state != i.State.STOPPED for i in one.instances.all())]
    now = timezone.now()
    held = set(Door.objects.values_list("environment_id", flat=True))
    paths = [_path(environment) for environment in wanted]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        answers = list(pool.map(_look, wanted, paths))
    HealthCheck.objects.bulk_create(
        [
            HealthCheck(
                environment=environment,
                checked_at=now,
                ok=answer.ok,
                held=environment.pk in held,
                status=answer.status,
                seconds=answer.seconds,
                detail="" if answer.ok else answer.body[:500],
            )
            for environment, answer in zip(wanted, answers, strict=True)
        ]
    )
    HealthCheck.objects.filter(checked_at__lt=now - KEPT).delete()


def _path(environment: Environment) -> str:
    """By which a deployment is judged; where instances differ, the first one's."""
    return str(resolve(next(iter(environment.instances.all()), environment), "health_path").value)


def _look(environment: Environment, path: str) -> Answer:
    """Past the door: a held request would wait and tell nothing. A server that can't be asked answers for none but
    itself."""
    try:
        return runtime_for(environment.server).edge.fetch(environment.hostname, path, past_the_door=True)
    except ExpectedError as error:
        return Answer(0, error.message)
