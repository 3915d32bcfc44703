"""Whether anybody takes what is queued: Redis answers, and a worker has lately said there that it lives."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import django_rq
from django.conf import settings
from django.utils import timezone
from redis.exceptions import RedisError
from rq import Worker

from ocore.machine import redis, supervisor

SIGN_OF_LIFE = 30
"""Seconds after which an idle worker tells Redis again that it lives; one at work does so as often."""
FORGOTTEN = timedelta(seconds=3 * SIGN_OF_LIFE)


@dataclass(frozen=True)
class Trouble:
    """`reason` and `advice` are clauses: the one without a capital, both without a full stop."""

    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason[:1].upper()}{self.reason[1:]}."


def trouble() -> Trouble | None:
    """Why nothing takes what is queued; None while a worker lives."""
    missing, log = "no worker of it lives", "worker.1.log"
    try:
        if living_workers():
            return None
    except RedisError:
        if not redis.is_our_own():
            return Trouble("the Redis that REDIS_URL names does not answer", "Start that Redis, or correct REDIS_URL")
        missing, log = "its Redis does not answer", "redis.log"
    if supervisor.lives():
        return Trouble(f"the portal is up, but {missing}", f"See why in {Path(settings.STATE_DIR) / 'log' / log}")
    return Trouble("the portal isn't running", "Start it with: make up")


def living_workers() -> int:
    """How many take deployments. Raises `RedisError`."""
    heard = [worker.last_heartbeat for worker in Worker.all(queue=django_rq.get_queue("deployments"))]
    return sum(1 for moment in heard if moment is not None and timezone.now() - moment < FORGOTTEN)
