"""Primary keys for the workers. Redis only carries them: the clock asks again for what must not get lost."""

import logging
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Any

import django_rq
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)


def enqueue_deployment(pk: int, *, new: bool = False) -> None:
    _hand_over("deployments", "run_deployment", pk, new=new)


def enqueue_recovery(pk: int) -> None:
    _hand_over("urgent", "recover_deployment", pk)


def enqueue_dump(deployment: int) -> None:
    _hand_over("slow", "dump_snapshots", deployment)


def enqueue_pending(environment: int) -> None:
    _hand_over("slow", "refresh_pending", environment)


def enqueue_removal(environment: int) -> None:
    _hand_over("slow", "remove_environment", environment)


def enqueue_scaling(environment: int) -> None:
    _hand_over("urgent", "scale_environment", environment)


def enqueue_tidying(instance: int) -> None:
    _hand_over("urgent", "tidy_instance", instance)


def enqueue_second(environment: int) -> None:
    _hand_over("urgent", "carry_on_second", environment)


def enqueue_sweep(server: int) -> None:
    """Of a server, or of the portal itself: 0."""
    _hand_over("slow", "sweep", server)


def enqueue_report(deployment: int, *, new: bool = False) -> None:
    """Its git host is told of it: a queue of its own, for which nothing else waits."""
    _hand_over("reports", "report_deployment", deployment, new=new)


def enqueue_reports(deployments: Sequence[int]) -> None:
    """Of all that is owed: the queue is read once, since thousands may be in it."""
    job = "report_deployment"
    try:
        queue = django_rq.get_queue("reports")
        waiting = _names(queue.job_ids)
        for pk in deployments:
            if f"{job}-{pk}" not in waiting:
                _put(queue, job, pk)
    except RedisError as error:
        logger.error("%s waits until the clock asks again, Redis does not answer: %s", job, error)


def enqueue_edge(server: int) -> None:
    """A person has changed something and waits to see it."""
    _hand_over("urgent", "tell_edge", server)


def enqueue_control(instance: int, verb: str) -> None:
    """Raises `RedisError`: a person waits for this one, and should be told."""
    job = "control_instance"
    queue = django_rq.get_queue("urgent")
    queue.enqueue(f"deployments.jobs.{job}", instance, verb, job_id=f"{job}-{instance}-{token_hex(4)}")


def control_waits(instance: int) -> bool:
    """Whether a worker is still to take what a person wants of it, or has taken it and not ended; also where Redis
    doesn't say. What a worker died over RQ forgets within two minutes."""
    what = f"control_instance-{instance}"
    try:
        queue = django_rq.get_queue("urgent")
        # In the order in which a job goes from one to the other.
        return _waits(queue, what) or _among(queue.started_job_registry.get_job_ids(), what)
    except RedisError:
        return True


def _hand_over(queue_name: str, job: str, pk: int, *, new: bool = False) -> None:
    """Unless the same waits already: the clock asks every few seconds, and a queue must not grow by that. While one is
    at work another may wait, for what was new after it had looked; hence an id of its own for each. For a `new` row
    nothing can wait, and a long queue isn't read through."""
    try:
        queue = django_rq.get_queue(queue_name)
        if new or not _waits(queue, f"{job}-{pk}"):
            _put(queue, job, pk)
    except RedisError as error:
        logger.error("%s of %s waits until the clock asks again, Redis does not answer: %s", job, pk, error)


def _put(queue: Any, job: str, pk: int) -> None:
    queue.enqueue(f"deployments.jobs.{job}", pk, job_id=f"{job}-{pk}-{token_hex(4)}")


def _waits(queue: Any, what: str) -> bool:
    return _among(queue.job_ids, what)


def _among(job_ids: Iterable[str], what: str) -> bool:
    return what in _names(job_ids)


def _names(job_ids: Iterable[str]) -> set[str]:
    """Of which job and row each is."""
    return {one.rpartition("-")[0] for one in job_ids}
