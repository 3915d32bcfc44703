"""How a webhook call is kept: redacted, and of a stranger's only a little."""

import logging
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone

from deployments.models import Delivery
from ocore.redaction import redact, redact_headers
from projects.models import Project

logger = logging.getLogger(__name__)
Verdict = Delivery.Verdict
STATUS_CODES = {
    Verdict.ACCEPTED: 202,
    Verdict.IGNORED: 200,
    Verdict.DUPLICATE: 200,
    Verdict.REFUSED: 401,
    Verdict.UNREADABLE: 400,
}
HEADERS_KEPT = 40
STRANGERS_HEADERS_KEPT = re.compile(
    r"(?i)user-agent|content-(?:type|length)|x-forwarded-for|x-event-key|x-[a-z]+-(?:event|delivery)"
)
HEADER_CHARACTERS = 300
NO_PROJECT = 0
"""The key of none."""


def store(
    project: Project,
    host: str,
    verdict: Delivery.Verdict,
    reason: str,
    body: bytes,
    headers: Mapping[str, str],
    remote_address: str | None,
    started: float,
    **fields: Any,
) -> Delivery:
    """A proven delivery's row."""
    return Delivery.objects.create(
        project=project,
        host=host,
        verdict=verdict,
        reason=reason,
        headers=redact_headers(_kept(headers)),
        body=redact(body.decode("utf-8", "replace").replace("\x00", ""), project.webhook_secrets),
        remote_address=remote_address,
        status_code=STATUS_CODES[verdict],
        seconds=time.monotonic() - started,
        **fields,
    )


def store_refused(
    project: Project | None,
    host: str,
    reason: str,
    headers: Mapping[str, str],
    remote_address: str | None,
    started: float,
) -> None:
    """So many a minute are kept for a project; strangers don't get to fill the disk. A call for an unknown project and
    one too many take the same way and are taken back, so that time doesn't tell which projects there are."""
    key = project.pk if project else NO_PROJECT
    few = {name: value for name, value in headers.items() if STRANGERS_HEADERS_KEPT.fullmatch(name)}
    since = timezone.now() - timedelta(minutes=1)
    earlier = Delivery.objects.filter(project=key, verdict=Verdict.REFUSED, received_at__gt=since)
    with transaction.atomic():
        count = earlier.order_by()[: settings.OCORE_REFUSED_PER_MINUTE + 1].count()
        kept = Delivery(
            project_id=key,
            host=host,
            verdict=Verdict.REFUSED,
            reason=reason,
            headers=redact_headers(_kept(few)),
            remote_address=remote_address,
            status_code=STATUS_CODES[Verdict.REFUSED],
            seconds=time.monotonic() - started,
        )
        kept.save(force_insert=True)
        if project is None or count >= settings.OCORE_REFUSED_PER_MINUTE:
            transaction.set_rollback(True)
    if project and count >= settings.OCORE_REFUSED_PER_MINUTE and cache.add(f"refused-{project.pk}", True, 60):
        logger.warning("Refused calls for %s come so often that not all are kept. The latest: %s", project, reason)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Enough to see who called and how; a stranger's call is kept too, so not more."""
    return {name[:HEADER_CHARACTERS]: value[:HEADER_CHARACTERS] for name, value in list(headers.items())[:HEADERS_KEPT]}
