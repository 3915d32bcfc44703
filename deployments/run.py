"""One worker's hold on one deployment: its fence, its heartbeat, and what the steps need."""

import logging
import threading
import time
from datetime import timedelta
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone

from deployments import at_work, schedule, serving
from deployments.ahead import Ahead
from deployments.configuration import Frozen, freeze, thaw
from deployments.deadlines import StepClock, TookTooLong
from deployments.fence import fenced
from deployments.log import StepLog
from deployments.models import Deployment, StaleTransition, Step
from deployments.states import UNDERWAY, Status, StepKind
from instances.models import Instance
from instances.odoo.plan import Plan
from instances.runtimes import runtime_for
from instances.runtimes.base import ContainerSpec, Runtime
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.machine.processes import is_dead, kill_named, own_name
from ocore.redaction import redact
from projects.models import Environment

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE = timedelta(seconds=30)
"""A deployment without a heartbeat for so long has lost its worker."""
CHECK_SECONDS = 0.5
"""How often a running log looks whether somebody cancelled."""


class Cancelled(ExpectedError):
    """Somebody asked for it, and it was still possible."""


class Lost(Exception):
    """Another worker has taken this deployment over; whoever sees this must not act any more."""


class Busy(Exception):
    """Another deployment of the environment is underway, or this one isn't queued any more."""


class Run:
    """Hold a deployment: claim it with `claim` or `take_over`, use it as a context manager."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.token = deployment.token
        self.environment: Environment = deployment.environment
        self.undoing = False
        self.inherited = False
        """Taken over from somebody."""
        self.goes_on = False
        """What was begun on the server before may still be going on there."""
        self.plan: Plan | None = None
        self._ahead = Ahead()
        self._update: tuple[Plan, ContainerSpec] | None = None
        self._state = self._row().order_by().values_list("status", "cancelled_by")
        """Made once: it is asked before every side effect."""
        self._checked = 0.0
        self._began = time.monotonic()
        self._owner = threading.get_ident()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"heartbeat-{deployment.pk}", daemon=True)

    @cached_property
    def config(self) -> Frozen:
        """The settings that this deployment uses, frozen by whoever asks first."""
        return thaw(self.deployment) if self.deployment.configuration else freeze(self.deployment)

    @cached_property
    def runtime(self) -> Runtime:
        """The server's; before each of its side effects it is checked that they are still ours."""
        return fenced(runtime_for(self.environment.server), self._fence)

    def _fence(self) -> None:
        """Who cleans up undisturbed, and who works in a thread beside, which is called away with its step, is stopped
        by another's hold alone."""
        if threading.get_ident() == self._owner and waiting.heeded():
            self.check()
        else:
            self._hold()

    def __enter__(self) -> "Run":
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._heart.join()

    def _beat(self) -> None:
        try:
            while not self._stop.wait(HEARTBEAT_SECONDS):
                try:
                    held = self._row().update(heartbeat_at=timezone.now())
                except OperationalError as error:
                    logger.warning("%s could not write its heartbeat: %s", self.deployment, error)
                    connection.close()
                    continue
                if not held:
                    self._lost.set()
                    return
        finally:
            connection.close()

    def _row(self) -> Any:
        return Deployment.objects.filter(pk=self.deployment.pk, token=self.token)

    def check(self) -> None:
        """Before every side effect: is this still ours to do? Raises `Lost` or `Cancelled`."""
        canceller = self._hold()
        if canceller is not None and not self.undoing:
            raise Cancelled(f"Cancelled by {canceller}.", advice="Deploy again when you want to.")

    def _hold(self) -> str | None:
        """Who cancelled it, if somebody did. Raises `Lost`."""
        self._checked = time.monotonic()
        status, canceller = next(iter(self._state.all()), (None, ""))
        if self._lost.is_set() or status is None or status not in UNDERWAY:
            raise Lost(f"{self.deployment} is no longer held under token {self.token}")
        return canceller if status == Status.CANCELLING else None

    def check_soon(self) -> None:
        """`check`, for who asks all the time. In a whole deployment's time, which no rollback is measured by, too."""
        if time.monotonic() - self._checked > CHECK_SECONDS:
            self.check()
        if time.monotonic() - self._began > settings.OCORE_DEPLOYMENT_TIMEOUT and not self.undoing:
            raise TookTooLong(
                f"{self.deployment} took longer than {settings.OCORE_DEPLOYMENT_TIMEOUT} s in all and was ended.",
                advice="Its steps' durations tell which one needs so long. If all is well, raise "
                "OCORE_DEPLOYMENT_TIMEOUT.",
            )

    def save(self, **fields: Any) -> None:
        """Write to the deployment's row, if it is still ours."""
        if not self._row().update(**fields):
            raise Lost(f"{self.deployment} is no longer held under token {self.token}")
        for name, value in fields.items():
            setattr(self.deployment, name, value)

    @property
    def begins_with(self) -> Environment | None:
        """The environment whose data a second version has, or begins as a copy of; None once it has its own."""
        environment = self.environment
        return environment.second_of if environment.shares_data or self.live is None else None

    def say(self, error: ExpectedError) -> None:
        """Put on the deployment's row what happened, what the machine said and what to do; without secrets."""
        self.save(error=self.redact(error.message), detail=self.redact(error.detail), advice=self.redact(error.advice))

    def redact(self, text: str) -> str:
        return redact(text, self.secrets)

    def step(self, kind: StepKind) -> Step | None:
        return self.deployment.steps.filter(kind=kind).first()

    @property
    def live(self) -> Deployment | None:
        """What runs in the environment; None before its first deployment has succeeded."""
        return Deployment.objects.filter(environment=self.environment, live=True).first()

    @property
    def instances(self) -> list[Instance]:
        """Those that there were at the start; one added since is the next deployment's."""
        return list(self.environment.instances.filter(slug__in=self.config.instances).order_by("pk"))

    @property
    def ahead(self) -> Ahead:
        """What was asked of the server a moment ago; nothing where that is longer."""
        return self._ahead if self._ahead.fresh else Ahead()

    @ahead.setter
    def ahead(self, found: Ahead) -> None:
        self._ahead = found

    @cached_property
    def serving(self) -> list[ContainerSpec]:
        """Made once: each holds a password that nobody knows, so another would be another container."""
        return serving.containers(self.deployment, self.config, self.instances, self.runtime)

    @property
    def update(self) -> ContainerSpec | None:
        """What brings the database up to the new code as planned; made once, as `serving`."""
        plan = self.plan
        if plan is None or not plan.changes_database:
            return None
        if self._update is None or self._update[0] != plan:
            self._update = plan, serving.update(self.deployment, self.config, plan, self.runtime)
        return self._update[1]

    @property
    def secrets(self) -> list[str]:
        environment = self.environment
        return [
            environment.database_password,
            environment.odoo_admin_password,
            *environment.project.secrets,
            *(one for repository in environment.project.repositories.all() for one in repository.secrets),
            environment.server.postgres_dsn,
            *self.config.secrets,
        ]


class Stage:
    """What one step has at hand: its row, its log, and the run."""

    def __init__(self, run: Run, row: Step) -> None:
        self.run = run
        self.row = row
        self._log = StepLog(row, run.secrets)
        self._clock = None if run.undoing else StepClock(StepKind(row.kind))

    def write(self, text: str) -> None:
        """Write to the step's log, and nothing else."""
        self._log(text)

    def log(self, text: str) -> None:
        """Write to the step's log; raises as `pulse`."""
        self._log(text)
        if self._clock:
            self._clock.hear(text)
        self.pulse()

    def pulse(self) -> None:
        """Whatever waits calls this all the time (`ocore.waiting`). Raises `Cancelled` or `Lost` soon after that became
        true, and `TookTooLong`."""
        self.run.check_soon()
        if self._clock:
            self._clock.check()

    def flush(self) -> None:
        self._log.flush()

    def intend(self, **facts: Any) -> None:
        """Write down what is about to be done, so that it can be undone by whoever comes; checks the fence first."""
        self.run.check()
        self.row.facts |= facts
        ours = Step.objects.filter(pk=self.row.pk, deployment__token=self.run.token)
        if not ours.update(facts=self.row.facts):
            raise Lost(f"{self.run.deployment} is no longer held under token {self.run.token}")

    @property
    def facts(self) -> dict[str, Any]:
        return self.row.facts  # type: ignore[no-any-return]


def claim(pk: int) -> Deployment:
    """Queued and admitted -> running, for exactly one caller. Raises `Busy`; then its slot is for another, unless
    somebody else has claimed it."""
    now = timezone.now()
    try:
        with transaction.atomic():
            deployment = _load(pk)
            # The lock that everything takes that begins something in an environment.
            environment = Environment.objects.select_for_update().get(pk=deployment.environment_id)
            found = at_work.hindrance(environment, behind_doors=True)
            reason = found.message if found else at_work.why_locked(environment)
            if reason:
                raise Busy(reason)
            # Locked: nobody gives its slot away meanwhile.
            if not Deployment.objects.select_for_update().filter(pk=pk, admitted_at__isnull=False):
                raise Busy(f"{deployment} waits for its turn")
            deployment.move(Status.RUNNING, started_at=now, heartbeat_at=now, holder=own_name(), raise_token=True)
            # A claim that has lapsed is over: whoever stood still with it does not come back.
            Environment.objects.filter(pk=environment.pk).update(busy_with="", busy_until=None, busy_by="")
    except (IntegrityError, StaleTransition, Deployment.DoesNotExist, Busy) as error:
        schedule.give_back(pk)
        raise Busy(str(error)) from error
    return _load(pk)


def take_over(pk: int) -> Deployment:
    """Raise the token of a deployment whose worker is gone, for exactly one caller. Raises `Busy`.

    A worker that only seemed dead (stopped, swapped out) may stand just behind its last look at the token: where it
    lives on this machine, it is killed before anything else is done.
    """
    deployment = _load(pk)
    held = deployment.heartbeat_at and deployment.heartbeat_at >= timezone.now() - STALE
    if held and not is_dead(deployment.holder):
        raise Busy(f"{deployment} is held by somebody who lives")
    if not kill_named(deployment.holder):
        raise Busy(f"{deployment} is held by {deployment.holder}, which cannot be killed")
    rows = Deployment.objects.filter(pk=pk, token=deployment.token, status__in=UNDERWAY)
    if not rows.update(token=deployment.token + 1, heartbeat_at=timezone.now(), holder=own_name()):
        raise Busy(f"{deployment} was taken over by somebody else")
    return _load(pk)


def _load(pk: int) -> Deployment:
    """With what each needs; few have a delivery, or others that they go back to."""
    return Deployment.objects.select_related("environment__project", "environment__server").get(pk=pk)
