"""What a project's git host was told, for the pages of a deployment and of a project."""

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.utils.safestring import SafeString

from deployments.commit_status import CommitStatus
from deployments.models import Deployment
from ocore.show import ago, tag
from projects import reporting
from projects.hosts import STATUSES
from projects.models import Project

_TONES = {
    "pending": "muted",
    "running": "busy",
    "success": "ok",
    "failure": "bad",
    "error": "bad",
    "cancelled": "muted",
    "skipped": "muted",
}


@dataclass(frozen=True)
class Told:
    """Of one commit: the last word that the host took, and what is still to be said."""

    commit: str
    last: SafeString | str
    when: SafeString | str
    problem: str = ""
    given_up: bool = False
    next: SafeString | str = ""


def told_of(deployment: Deployment) -> list[Told]:
    return [_told(row, deployment) for row in deployment.commit_statuses.all()]


def _told(row: CommitStatus, deployment: Deployment) -> Told:
    last = tag(row.state, _TONES.get(row.state, "muted")) if row.state else ""
    due = row.due_at(deployment.status) if row.problem and not row.given_up else None
    return Told(
        row.commit, last, ago(row.sent_at) if row.sent_at else "", row.problem, row.given_up, ago(due) if due else ""
    )


def may_be_told(deployment: Deployment) -> bool:
    since = deployment.environment.project.report_since
    return bool(since and deployment.commit and deployment.created_at >= since)


def card(project: Project) -> dict[str, Any]:
    """For the project's page: where it is told, as whom, and what came of it last."""
    statuses = STATUSES.get(project.host)
    known: dict[str, Any] = {"can": statuses is not None, "note": statuses.token_note if statuses else ""}
    if not project.report_to_host:
        return known
    try:
        setup = reporting.reporting_of(project)
        known |= {"base": setup.place.base, "repository": setup.place.name, "borrowed": setup.borrowed}
    except reporting.CannotTell as error:
        known["trouble"] = f"{error.message} {error.advice}"
    rows = _rows(project)
    last = rows.exclude(sent_at=None).order_by("-sent_at").first()
    problem = rows.exclude(problem="").order_by("-pk").first()
    # What went wrong before a later deployment could be told of is over.
    return known | {"last": last, "problem": None if problem and last and problem.pk < last.pk else problem}


def _rows(project: Project) -> QuerySet[CommitStatus]:
    rows = CommitStatus.objects.filter(deployment__environment__project=project)
    return rows.select_related("deployment__environment__project")
