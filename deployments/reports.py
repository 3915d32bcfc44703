"""The git host is told what becomes of each commit, by jobs of their own queue: no deployment waits for it or fails by
it, since nothing here is called from its steps. What is owed follows from the rows, so whatever dies loses nothing.

Told is always what the deployment's row says at that moment: a newer status takes the place of one that was not sent
yet. Only one status of an environment is on its way at a time, so none overtakes another.
"""

import logging
from datetime import timedelta
from itertools import islice

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone
from rq.timeouts import JobTimeoutException

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
DEFECT = "The attempt broke off by a mistake of oCore's own."
MOST_AT_ONCE = 200
"""Deployments that are handed over together: the rest is still owed the next time."""


def hand_over_owed() -> None:
    queues.enqueue_reports(owed())


def owed() -> list[int]:
    """Deployments of which the git host is to be told something now, the oldest first and not all of a backlog."""
    rows = CommitStatus.objects.filter(deployment=OuterRef("pk"))
    settled = rows.filter(commit=OuterRef("commit"), settled=OuterRef("status"))
    left = rows.exclude(commit=OuterRef("commit")).exclude(settled=MOVED)
    told = Deployment.objects.filter(
        Q(finished_at=None) | Q(finished_at__gt=timezone.now() - RECENT),
        environment__project__report_since__lte=F("created_at"),
    ).exclude(commit="")
    candidates = told.filter(~Exists(settled) | Exists(left)).exclude(environment__project__in=_left_alone())
    few = candidates.order_by("pk").only("pk", "commit", "status").prefetch_related("commit_statuses")
    due = (one.pk for one in few.iterator(chunk_size=MOST_AT_ONCE) if _is_due(one))
    return list(islice(due, MOST_AT_ONCE))


def _left_alone() -> QuerySet[CommitStatus, int]:
    """Projects whose host has asked for that: whatever the row that it was answered to, it is one account's."""
    asked = CommitStatus.objects.filter(not_before__gt=timezone.now())
    return asked.values_list("deployment__environment__project", flat=True)


def _is_due(deployment: Deployment) -> bool:
    known = {row.commit: row for row in deployment.commit_statuses.all()}
    if deployment.commit not in known:
        return True
    return any(_is_owed(row, deployment) for row in known.values())


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
    of_project = CommitStatus.objects.filter(deployment__environment__project=deployment.environment.project_id)
    of_project.exclude(not_before=None).update(not_before=None)
    deployment.commit_statuses.filter(commit=deployment.commit).update(
        settled="", attempts=0, tried="", next_at=None, given_up=False
    )
    queues.enqueue_report(deployment.pk)
    return True


def _bring_up_to_date(row: CommitStatus, deployment: Deployment) -> None:
    if not _is_owed(row, deployment):
        return
    speaker = _claim(row, deployment)
    if speaker is None:
        return
    mine = CommitStatus.objects.filter(pk=row.pk, busy_until=row.busy_until)
    wanted = row.tried
    try:
        setup = reporting.reporting_of(deployment.environment.project)
        report = _report(row, deployment, wanted, speaker)
        remote = setup.statuses.send(setup.api(), setup.place, report)
    except StatusNotTaken as error:
        _keep_problem(row, deployment, _words(error), error.again, error.wait)
    except ExpectedError as error:
        _keep_problem(row, deployment, _words(error), False)
    except JobTimeoutException:
        raise
    except Exception:
        _keep_problem(row, deployment, DEFECT, False)
        raise
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
    """Whose outcome stands beside the commit: of those in the environment the newest that was neither superseded nor
    cancelled before it began. One that was corrects, in that one's words, what it has told of itself before."""
    same = Deployment.objects.filter(environment=deployment.environment_id, commit=commit).order_by("-pk")
    few = same.only("pk", "status", "commit", "superseded_by")
    counted = few.exclude(status=Status.SUPERSEDED)
    begun = counted.exclude(status=Status.CANCELLED, started_at=None)
    return begun.first() or counted.first() or few.first() or deployment


def _is_owed(row: CommitStatus, deployment: Deployment) -> bool:
    wanted = _wanted(deployment, row.commit)
    return row.settled != wanted and row.due_at(wanted) is None


def _claim(row: CommitStatus, deployment: Deployment) -> Deployment | None:
    """Who speaks, if it is to be sent. Written before anything is: the attempt counts, and has broken off unless it
    says otherwise. All is read again under the lock: what this worker knew may have been told by another."""
    environment = deployment.environment
    with transaction.atomic():
        Environment.objects.select_for_update().get(pk=environment.pk)
        row.refresh_from_db()
        deployment.refresh_from_db(fields=["status", "commit", "ref", "superseded_by"])
        now = timezone.now()
        if not _is_owed(row, deployment):
            return None
        wanted, speaker = _wanted(deployment, row.commit), _speaker(deployment, row.commit)
        if speaker.pk > deployment.pk and not row.remote_id:
            row.settled, row.problem, row.given_up = wanted, "", False
            row.save(update_fields=["settled", "problem", "given_up"])
            return None
        others = CommitStatus.objects.filter(deployment__environment=environment, busy_until__gt=now)
        left_alone = _left_alone().filter(deployment__environment__project=environment.project_id)
        if others.exists() or left_alone.exists():
            return None
        attempts = row.attempts + 1 if row.tried == wanted else 1
        if attempts <= len(PAUSES) + 1:
            pause = PAUSES[min(attempts, len(PAUSES)) - 1]
            row.busy_until, row.attempts, row.tried = now + LEASE, attempts, wanted
            row.next_at, row.problem, row.given_up = now + timedelta(seconds=pause), BROKE_OFF, False
            row.sends += 1
            row.save(update_fields=["busy_until", "attempts", "tried", "next_at", "problem", "given_up", "sends"])
            return speaker
    # Whoever made the last attempt did not live to give it up.
    _keep_problem(row, deployment, row.problem or BROKE_OFF, False)
    return None


def _words(error: ExpectedError) -> str:
    return " ".join(filter(None, (error.message, error.detail and f"“{error.detail}”", error.advice)))


def _keep_problem(row: CommitStatus, deployment: Deployment, problem: str, again: bool, wait: float = 0) -> None:
    project = deployment.environment.project
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
        again=not row.remote_id and row.sends > 1,
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
