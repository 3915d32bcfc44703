"""Primary keys for the workers. Redis only carries them: the clock asks again for what must not get lost."""

import logging

import django_rq
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
JOB_PREFIX = "deployment-"


def enqueue_deployment(pk: int) -> None:
    """Without Redis the deployment stays queued until the clock asks again."""
    try:
        django_rq.get_queue("deployments").enqueue("deployments.jobs.run_deployment", pk, job_id=f"{JOB_PREFIX}{pk}")
    except RedisError as error:
        logger.error("Deployment #%s stays queued, Redis does not answer: %s", pk, error)


def waiting_deployments() -> set[int]:
    """Deployments whose job waits in Redis; none when Redis doesn't answer."""
    try:
        waiting = django_rq.get_queue("deployments").job_ids
    except RedisError as error:
        logger.error("Redis does not answer: %s", error)
        return set()
    return {int(job.removeprefix(JOB_PREFIX)) for job in waiting if job.startswith(JOB_PREFIX)}


def enqueue_recovery(pk: int) -> None:
    _hand_over("urgent", "recover_deployment", pk)


def enqueue_dump(deployment: int) -> None:
    _hand_over("slow", "dump_snapshots", deployment)


def enqueue_pending(environment: int) -> None:
    _hand_over("slow", "refresh_pending", environment)


def enqueue_removal(environment: int) -> None:
    _hand_over("slow", "remove_environment", environment)


def enqueue_sweep(server: int) -> None:
    """Of a server, or of the portal itself: 0. One that waits already is enough."""
    try:
        queue = django_rq.get_queue("slow")
        job = f"sweep-{server}"
        if job not in queue.job_ids:
            queue.enqueue("deployments.jobs.sweep", server, job_id=job)
    except RedisError as error:
        logger.error("Looking for what may go waits for the clock, Redis does not answer: %s", error)


def enqueue_control(instance: int, verb: str) -> None:
    """Raises `RedisError`: a person waits for this one, and should be told."""
    django_rq.get_queue("urgent").enqueue("deployments.jobs.control_instance", instance, verb)


def _hand_over(queue: str, job: str, pk: int) -> None:
    try:
        django_rq.get_queue(queue).enqueue(f"deployments.jobs.{job}", pk)
    except RedisError as error:
        logger.error("%s of %s was not queued, Redis does not answer: %s", job, pk, error)
