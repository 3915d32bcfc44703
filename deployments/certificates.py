"""The clock's look at the certificate that each edge shows for each of its host names."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from deployments.models import Deployment
from instances.entries import names
from instances.handshakes import look
from instances.models import Certificate
from instances.runtimes import runtime_for
from instances.runtimes.base import EdgeError, Name
from ocore.errors import ExpectedError
from ocore.redaction import redact
from ocore.rows import some
from projects.certificates import Facts
from projects.models import Environment, Server

AT_ONCE = 8
LOG_LINES = 300
FAILED = ("could not get certificate from issuer", "will retry")
"""As Caddy logs it; its `error` has the host in brackets, and what the authority said."""
PATIENCE = timedelta(minutes=10)
"""A new name gets its certificate within seconds; its DNS takes longer. What lasts longer is told on every page."""


def look_at_all() -> None:
    """Of every environment that is live on a server with an HTTPS port; rows of names that are gone go."""
    live = Deployment.objects.filter(live=True).values("environment")
    rows = Environment.objects.filter(pk__in=live, server__https_port__isnull=False, server__kind=Server.Kind.DOCKER)
    environments = list(rows.select_related("server", "project").prefetch_related("domains"))
    wanted = [(environment, name) for environment in environments for name in names(environment)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = list(pool.map(_look, *zip(*wanted, strict=True))) if wanted else []
    logs = {one.server_id: _log(one.server) for (one, _), found in zip(wanted, seen, strict=True) if _has_none(found)}
    kept = []
    with transaction.atomic():
        for (environment, name), found in zip(wanted, seen, strict=True):
            kept.append(_record(environment, name, found, logs.get(environment.server_id, "")))
        Certificate.objects.exclude(pk__in=kept).delete()


def troubled() -> list[Certificate]:
    """What a person must know: without one for a while, or with one that ends."""
    now = timezone.now()
    long_ago, far = now - PATIENCE, now + timedelta(days=settings.OCORE_CERTIFICATE_WARN_DAYS)
    rows = Certificate.objects.filter(Q(problem_since__lt=long_ago) | Q(ends_at__lt=far))
    found = some(rows.select_related("environment__project"))
    return [one for one in found if (one.problem_since and one.problem_since < long_ago) or one.ends_soon]


def _look(environment: Environment, name: Name) -> Facts | EdgeError:
    try:
        return look(environment.server.edge_host, environment.server.https_port or 0, name.host)
    except EdgeError as error:
        return error


def _has_none(found: Facts | EdgeError) -> bool:
    return isinstance(found, EdgeError)


def _record(environment: Environment, name: Name, found: Facts | EdgeError, log: str) -> int:
    now = timezone.now()
    before = Certificate.objects.filter(environment=environment, host=name.host).first()
    row = before or Certificate(environment=environment, host=name.host)
    row.checked_at = now
    row.problem = _problem(name, found, log)
    row.problem_since = (row.problem_since or now) if row.problem else None
    if isinstance(found, Facts):
        row.issuer, row.fingerprint = found.issuer, found.fingerprint
        row.begins_at, row.ends_at = found.begins_at, found.ends_at
    else:
        row.issuer, row.fingerprint, row.begins_at, row.ends_at = "", "", None, None
    row.save()
    return row.pk


def _problem(name: Name, found: Facts | EdgeError, log: str) -> str:
    """In sentences, for whoever reads the page."""
    if isinstance(found, EdgeError):
        said = reason(log.splitlines(), name.host)
        return redact(f"{found.message} {said or found.detail}".strip())
    if not found.covers(name.host):
        return f"The edge shows a certificate for {', '.join(found.names[:3]) or found.subject}, not for {name.host}."
    if found.ends_at <= timezone.now():
        return f"The certificate ended on {found.ends_at:%Y-%m-%d %H:%M} UTC."
    return ""


def _log(server: Server) -> str:
    try:
        runtime = runtime_for(server)
        edge = next(name for name, part in runtime.parts.items() if part == "edge")
        return runtime.containers.logs(edge, LOG_LINES)
    except ExpectedError:
        return ""


def reason(lines: Iterable[str], host: str) -> str:
    """Why the edge got no certificate for the host, in its own words: the newest in its log."""
    for line in reversed(list(lines)):
        _, brace, rest = line.partition("{")
        try:
            entry: dict[str, Any] = json.loads(brace + rest)
        except ValueError:
            continue
        if entry.get("msg") in FAILED and f"[{host}]" in str(entry.get("error", "")):
            return str(entry["error"])[:1000]
    return ""
