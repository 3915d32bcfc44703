"""The git host is told what becomes of each commit, by jobs of their own queue: no deployment waits for it or fails by
it, since nothing here is called from its steps. What is owed follows from the rows, so whatever dies loses nothing.

Told is always what the deployment's row says at that moment: a newer status takes the place of one that was not sent
yet. Only one status of an environment is on its way at a time, so none overtakes another.
"""

import logging
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from deployments import queues
from deployments.commit_status import CommitStatus
from deployments.models import Deployment, Step
from deployments.states import FORWARD, Status, StepKind, StepStatus
from ocore.errors import ExpectedError
from projects import reporting
from projects.hosts import Report, State, StatusNotTaken
from projects.models import Environment

logger = logging.getLogger(__name__)
STATES: dict[Status, State] = {
    Status.QUEUED: "pending",
    Status.RUNNING: "running",
    Status.ROLLING_BACK: "running",
    Status.CANCELLING: "running",
    Status.SUCCEEDED: "success",
    Status.FAILED: "failure",
    Status.ROLLED_BACK: "failure",
    Status.ROLLBACK_FAILED: "error",
    Status.CANCELLED: "cancelled",
    Status.SUPERSEDED: "skipped",
}
WORDS: dict[Status, str] = {
    Status.QUEUED: "Waits for its turn",
    Status.RUNNING: "Being deployed",
    Status.ROLLING_BACK: "Did not work, being taken back",
    Status.CANCELLING: "Being cancelled",
    Status.SUCCEEDED: "Deployed",
    Status.FAILED: "Not deployed: it failed, nothing was changed",
    Status.ROLLED_BACK: "Not deployed: it failed and was taken back",
    Status.ROLLBACK_FAILED: "It failed and could not be taken back: somebody has to look",
    Status.CANCELLED: "Not deployed: it was cancelled",
    Status.SUPERSEDED: "Not deployed: superseded",
}
"""For readers of the git host. Errors may name what they need not see; they stand on the page that is linked."""
MOVED = "moved"
"""Stands for the deployment's status of a commit that it has left for a later one of its branch."""
RECENT = timedelta(days=3)
"""What ended longer ago is told no more."""
LEASE = timedelta(seconds=120)
"""Longer than RQ lets a job of this queue live."""
PAUSES = (15, 60, 240, 900, 3600, 3 * 3600, 6 * 3600)
"""Seconds between the attempts with one status; then it is given up."""
BROKE_OFF = "The attempt broke off, and what became of it is unknown."


def hand_over_owed() -> None:
    for pk in owed():
        queues.enqueue_report(pk)


def owed() -> list[int]:
    """Deployments of which the git host is to be told something now, the oldest first."""
    rows = CommitStatus.objects.filter(deployment=OuterRef("pk"))
    settled = rows.filter(commit=OuterRef("commit"), settled=OuterRef("status"))
    left = rows.exclude(commit=OuterRef("commit")).exclude(settled=MOVED)
    told = Deployment.objects.filter(
        Q(finished_at=None) | Q(finished_at__gt=timezone.now() - RECENT),
        environment__project__report_since__lte=F("created_at"),
    ).exclude(commit="")
    candidates = told.filter(~Exists(settled) | Exists(left)).order_by("pk").prefetch_related("commit_statuses")
    return [one.pk for one in candidates.only("pk", "commit", "status") if _is_due(one)]


def _is_due(deployment: Deployment) -> bool:
    known = {row.commit: row for row in deployment.commit_statuses.all()}
    if deployment.commit not in known:
        return True
    wanted = {commit: _wanted(deployment, commit) for commit in known}
    return any(row.settled != wanted[commit] and row.due_at(wanted[commit]) is None for commit, row in known.items())


def _wanted(deployment: Deployment, commit: str) -> str:
    return MOVED if deployment.commit and commit != deployment.commit else deployment.status


def carry_out(pk: int) -> None:
    """Tell what is owed of this deployment. A failure is kept on its row, and shown."""
    deployment = Deployment.objects.select_related("environment__project", "superseded_by").filter(pk=pk).first()
    if deployment is None or not deployment.commit:
        return
    since = deployment.environment.project.report_since
    if since is None or deployment.created_at < since:
        return
    CommitStatus.objects.get_or_create(deployment=deployment, commit=deployment.commit)
    for row in deployment.commit_statuses.all():
        _bring_up_to_date(row, deployment)


def tell_again(deployment: Deployment) -> bool:
    """A person wants it told, also what was given up or is known to the host. False: nothing is told of this one."""
    since = deployment.environment.project.report_since
    if since is None or deployment.created_at < since or not deployment.commit:
        return False
    deployment.commit_statuses.filter(commit=deployment.commit).update(
        settled="", attempts=0, tried="", next_at=None, not_before=None, given_up=False
    )
    queues.enqueue_report(deployment.pk)
    return True


def _bring_up_to_date(row: CommitStatus, deployment: Deployment) -> None:
    wanted = _wanted(deployment, row.commit)
    if row.settled == wanted or row.due_at(wanted) is not None:
        return
    speaker = _speaker(deployment, row.commit)
    if speaker.pk > deployment.pk and not row.remote_id:
        CommitStatus.objects.filter(pk=row.pk).update(settled=wanted, problem="", given_up=False)
        return
    if not _claim(row, deployment.environment, wanted):
        return
    mine = CommitStatus.objects.filter(pk=row.pk, busy_until=row.busy_until)
    try:
        setup = reporting.reporting_of(deployment.environment.project)
        report = _report(row, deployment, wanted, speaker)
        remote = setup.statuses.send(setup.api(), setup.place, report)
    except StatusNotTaken as error:
        _keep_problem(row, deployment, error, error.again, error.wait)
    except ExpectedError as error:
        _keep_problem(row, deployment, error, False, 0)
    else:
        mine.update(
            settled=wanted,
            state=report.state,
            sent_at=timezone.now(),
            attempts=0,
            next_at=None,
            not_before=None,
            busy_until=None,
            problem="",
            given_up=False,
            remote_id=remote,
        )


def _speaker(deployment: Deployment, commit: str) -> Deployment:
    """Whose outcome stands beside the commit: of those in the environment the newest that was not superseded. One that
    was corrects, in that one's words, what it has told of itself before."""
    same = Deployment.objects.filter(environment=deployment.environment_id, commit=commit).order_by("-pk")
    few = same.only("pk", "status", "commit", "superseded_by")
    return few.exclude(status=Status.SUPERSEDED).first() or few.first() or deployment


def _claim(row: CommitStatus, environment: Environment, wanted: str) -> bool:
    """Written before anything is sent: the attempt counts, and has broken off unless it says otherwise."""
    now = timezone.now()
    attempts = row.attempts + 1 if row.tried == wanted else 1
    pause = PAUSES[min(attempts, len(PAUSES)) - 1]
    with transaction.atomic():
        Environment.objects.select_for_update().get(pk=environment.pk)
        others = CommitStatus.objects.filter(deployment__environment=environment, busy_until__gt=now)
        if others.exists():
            return False
        row.busy_until, row.attempts, row.tried = now + LEASE, attempts, wanted
        row.next_at, row.problem = now + timedelta(seconds=pause), BROKE_OFF
        row.save(update_fields=["busy_until", "attempts", "tried", "next_at", "problem"])
    return True


def _keep_problem(row: CommitStatus, deployment: Deployment, error: ExpectedError, again: bool, wait: float) -> None:
    project = deployment.environment.project
    problem = " ".join(filter(None, (error.message, error.detail and f"“{error.detail}”", error.advice)))
    over = not again or row.attempts > len(PAUSES)
    changes: dict[str, object] = {"problem": problem, "busy_until": None, "given_up": over}
    if over:
        changes["settled"] = row.tried
        logger.error("%s could not be told of %s, and that is given up: %s", project, deployment, problem)
    else:
        logger.info("%s could not be told of %s yet: %s", project, deployment, problem)
    if wait:
        changes["not_before"] = timezone.now() + timedelta(seconds=wait)
    CommitStatus.objects.filter(pk=row.pk, busy_until=row.busy_until).update(**changes)


def _report(row: CommitStatus, deployment: Deployment, wanted: str, speaker: Deployment) -> Report:
    environment, project = deployment.environment, deployment.environment.project
    state, description = _said(row, deployment, wanted, speaker)
    ref = deployment.ref.removeprefix("refs/tags/")
    own = STATES[Status(deployment.status)] if wanted != MOVED else "skipped"
    return Report(
        state=state,
        commit=row.commit,
        context=f"{settings.OCORE_NAMESPACE}/{environment.path}",
        description=f"{description} ({environment.name})",
        url=settings.OCORE_BASE_URL + deployment.get_absolute_url(),
        ref="" if ref == deployment.commit else ref,
        environment=environment.name,
        environment_url=environment.url if environment.public else "",
        production=environment.kind == Environment.Kind.PRODUCTION,
        deployment=deployment.pk,
        speaks=speaker.pk <= deployment.pk,
        deployment_state=own if project.report_to_host == reporting.DEPLOYMENT else None,
        remote_id=row.remote_id,
        again=row.attempts > 1,
    )


def _said(row: CommitStatus, deployment: Deployment, wanted: str, speaker: Deployment) -> tuple[State, str]:
    if wanted == MOVED and speaker.commit != row.commit:
        return "skipped", f"Not deployed by itself: {deployment.commit[:10]}, a later one, is"
    status = Status(speaker.status)
    words = WORDS[status]
    if status == Status.SUPERSEDED and speaker.superseded_by_id:
        words = f"{words} by #{speaker.superseded_by_id}"
    step = _step(speaker, status)
    return STATES[status], f"{words} ({step})" if step else words


def _step(deployment: Deployment, status: Status) -> str:
    """The one that it is at, or that failed."""
    if status not in (Status.RUNNING, Status.FAILED, Status.ROLLED_BACK):
        return ""
    wanted = StepStatus.RUNNING if status == Status.RUNNING else StepStatus.FAILED
    kind = Step.objects.filter(deployment=deployment, kind__in=FORWARD, status=wanted).values_list("kind", flat=True)
    return str(StepKind(kind[0]).label).lower() if kind else ""
