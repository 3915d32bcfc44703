"""What was pushed to an environment's branch and isn't live yet."""

import logging
from typing import Any

from django.utils import timezone

from deployments.models import Deployment
from ocore.errors import ExpectedError
from projects.git import Mirror
from projects.mirrors import mirror_of
from projects.models import Environment

logger = logging.getLogger(__name__)
LIMIT = 50


def refresh(pk: int) -> None:
    """Fetch, and write down the commits between what is live and the tip of the branch."""
    environment = _with_branch(pk)
    if environment is None:
        return
    mirror = mirror_of(environment.project)
    try:
        mirror.fetch(logger.debug)
        _write(environment, mirror)
    except ExpectedError as error:
        logger.warning("%s: pending commits are unknown: %s", environment, error)
        Environment.objects.filter(pk=pk).update(pending={"problem": error.message, "seen_at": _now()})


def recount(pk: int) -> None:
    """The same from what was fetched last, without asking the repository: after a deployment, which has just done so.
    Where that isn't to be had, what was written stays."""
    environment = _with_branch(pk)
    if environment is None:
        return
    try:
        _write(environment, mirror_of(environment.project))
    except ExpectedError as error:
        logger.info("%s: pending commits stay as they were: %s", environment, error)


def _with_branch(pk: int) -> Environment | None:
    environments = Environment.objects.select_related("project").exclude(branch="").exclude(project__repository_url="")
    return environments.filter(pk=pk).first()


def _write(environment: Environment, mirror: Mirror) -> None:
    live = Deployment.objects.filter(environment=environment, live=True).first()
    tip = mirror.resolve(environment.branch)
    base = live.commit if live else ""
    commits = [] if tip.sha == base else mirror.log(base, tip.sha, LIMIT)
    pending: dict[str, Any] = {
        "tip": tip.sha,
        "seen_at": _now(),
        "commits": [{"sha": one.sha, "subject": one.subject[:200], "author": one.author} for one in commits],
    }
    Environment.objects.filter(pk=environment.pk).update(pending=pending if commits else {})


def _now() -> str:
    return timezone.now().isoformat()
