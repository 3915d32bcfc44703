"""Signs of life of the programs that do the work: what Redis has lately heard of the workers and of the clock."""

import time
from datetime import timedelta

import redis
from django.conf import settings
from django.utils import timezone
from rq import Queue, Worker, cron_scheduler_registry

CLOCK = "clock"
SIGN_OF_LIFE = 30
"""Seconds after which an idle worker tells Redis again that it lives; one at work does so as often."""
FORGOTTEN = timedelta(seconds=3 * SIGN_OF_LIFE)
CLOCK_SECONDS = 60.0
"""The clock tells it each time that it has something to do, which is every few seconds."""
ANSWER_SECONDS = 2.0
"""A Redis that stands still keeps nobody waiting for longer."""


def missing() -> set[str]:
    """The queues of which no worker has been heard lately, and `CLOCK` if it hasn't. Raises `RedisError`."""
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS
    )
    with client:
        client.ping()
        silent = {name for name in settings.RQ_QUEUES if not _served(Queue(name, connection=client))}
        return silent if _clock_age(client) <= CLOCK_SECONDS else silent | {CLOCK}


def _served(queue: Queue) -> bool:
    heard = [worker.last_heartbeat for worker in Worker.all(queue=queue)]
    return any(moment is not None and timezone.now() - moment < FORGOTTEN for moment in heard)


def _clock_age(client: "redis.Redis") -> float:
    """Seconds since any clock was heard of last."""
    newest = client.zrange(cron_scheduler_registry.get_registry_key(), -1, -1, withscores=True)
    return time.time() - float(newest[0][1]) if newest else float("inf")
