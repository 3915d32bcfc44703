"""What was pushed to an environment's branch and isn't live yet."""

import logging
from typing import Any

from django.utils import timezone

from deployments.models import Deployment
from ocore.errors import ExpectedError
from projects.mirrors import mirror_of
from projects.models import Environment

logger = logging.getLogger(__name__)
LIMIT = 50


def refresh(pk: int) -> None:
    """Fetch, and write down the commits between what is live and the tip of the branch."""
    environment = Environment.objects.select_related("project").get(pk=pk)
    if not environment.branch or not environment.project.repository_url:
        return
    live = Deployment.objects.filter(environment=environment, live=True).first()
    mirror = mirror_of(environment.project)
    try:
        mirror.fetch(logger.debug)
        tip = mirror.resolve(environment.branch)
        base = live.commit if live and live.commit and mirror.has(live.commit) else ""
        commits = [] if tip.sha == base else mirror.log(base, tip.sha, LIMIT)
    except ExpectedError as error:
        logger.warning("%s: pending commits are unknown: %s", environment, error)
        Environment.objects.filter(pk=pk).update(pending={"problem": error.message, "seen_at": _now()})
        return
    pending: dict[str, Any] = {
        "tip": tip.sha,
        "seen_at": _now(),
        "commits": [{"sha": one.sha, "subject": one.subject[:200], "author": one.author} for one in commits],
    }
    Environment.objects.filter(pk=pk).update(pending=pending if commits else {})


def _now() -> str:
    return timezone.now().isoformat()
