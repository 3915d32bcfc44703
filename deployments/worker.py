"""The workers' class: imports once what every job needs, and hands on what a killed horse leaves."""

from typing import Any

from rq import Worker as RQWorker
from rq import worker_registration
from rq.job import Job

import deployments.jobs
import instances.runtimes.docker  # noqa: F401 - once here instead of in every job
from deployments import queues
from deployments.models import Deployment
from deployments.states import UNDERWAY
from ocore.machine.processes import die_with_parent
from ocore.machine.signs import SIGN_OF_LIFE

DEPLOYING = {deployments.jobs.run_deployment.__name__, deployments.jobs.recover_deployment.__name__}


class Worker(RQWorker):
    @property
    def dequeue_timeout(self) -> int:
        """Seconds for which it waits for a job before it tells Redis again that it lives; RQ's own are minutes."""
        return SIGN_OF_LIFE

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """A Redis that was started anew has forgotten its workers; each sign of life makes this one known again."""
        super().heartbeat(timeout, pipeline)
        worker_registration.register(self, pipeline)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """The kernel says that it is dead: nobody has to wait for its heartbeat to get old."""
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]
        if (job.func_name or "").rpartition(".")[2] in DEPLOYING:
            abandon(int(job.args[0]))

    def setup_work_horse_signals(self) -> None:
        """The horse ends with its worker: nobody could stop it any more, or would hear that it died."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        die_with_parent(self.pid or 0)


def abandon(deployment: int) -> None:
    """Let somebody take over at once what this worker's horse held. Whoever holds it since keeps it."""
    if Deployment.objects.filter(pk=deployment, status__in=UNDERWAY).exists():
        queues.enqueue_recovery(deployment)
