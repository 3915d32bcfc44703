"""A webhook's way in: verify, store, queue, answer. Milliseconds; git and the server are asked later, by workers."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import IntegrityError, transaction
from django.utils import timezone

from deployments import queues, services
from deployments.models import Delivery, Deployment
from deployments.services import NotPossible, Who
from deployments.states import Status, Trigger
from ocore.redaction import redact, redact_headers
from projects.hosts import HOSTS, Push, RefChange, Refused, Unreadable
from projects.inheritance import resolve
from projects.models import Environment, Project

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
    r"(?i)user-agent|content-(?:type|length)|x-forwarded-for|x-[a-z]+-(?:event|delivery)"
)
HEADER_CHARACTERS = 300
NO_PROJECT = 0
"""The key of none."""
_SAME: dict[str, str] = {
    Status.QUEUED: "is queued",
    Status.RUNNING: "is running",
    Status.ROLLING_BACK: "is being rolled back",
}
"""What a pushed commit that needs no other deployment does there already; else it is live."""
NO_ENTRY = "The signature does not fit."
"""All that a stranger learns, whether the project exists or not."""


@dataclass
class Decision:
    verdict: Delivery.Verdict
    reason: str
    event: str = ""
    outcome: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    delivery_id: str = ""


def receive(
    project: Project | None, host: str, body: bytes, headers: Mapping[str, str], remote_address: str | None
) -> tuple[int, dict[str, Any]]:
    """Status code and JSON answer to a webhook call. Never raises for what the call contains."""
    started = time.monotonic()
    driver = HOSTS[host]
    secrets = project.webhook_secrets if project and project.host == host else []
    try:
        driver.verify(body, headers, secrets)
    except Refused as refused:
        known = project if project and project.host == host else None
        _store_refused(known, host, refused.reason, headers, remote_address, started)
        return 401, {"status": Verdict.REFUSED, "reason": NO_ENTRY}
    assert project is not None  # noqa: S101 - no secret fits where there is no project
    try:
        push = driver.parse(body, headers)
    except Unreadable as unreadable:
        decision = Decision(Verdict.UNREADABLE, unreadable.reason)
        delivery = _store(project, host, decision, body, headers, remote_address, started)
        return delivery.status_code, {"status": decision.verdict, "reason": decision.reason}
    delivery = _take_in(project, host, push, body, headers, remote_address, started)
    return delivery.status_code, {
        "status": delivery.verdict,
        "reason": delivery.reason,
        "delivery": delivery.pk,
        "environments": delivery.outcome,
    }


def _take_in(
    project: Project,
    host: str,
    push: Push,
    body: bytes,
    headers: Mapping[str, str],
    remote_address: str | None,
    started: float,
) -> Delivery:
    """The delivery's row and what it queues are one transaction; the row's uniqueness is what makes it once only."""
    decision = Decision(Verdict.IGNORED, "", event=push.event, delivery_id=push.delivery_id)
    try:
        with transaction.atomic():
            delivery = _store(project, host, decision, body, headers, remote_address, started)
            _decide(project, push, delivery, decision)
            delivery.verdict, delivery.reason, delivery.outcome = decision.verdict, decision.reason, decision.outcome
            delivery.status_code = STATUS_CODES[decision.verdict]
            delivery.seconds = time.monotonic() - started
            delivery.save(update_fields=["verdict", "reason", "outcome", "status_code", "seconds"])
    except IntegrityError:
        decision = Decision(
            Verdict.DUPLICATE,
            f"Delivery {push.delivery_id} was received before.",
            event=push.event,
            delivery_id=push.delivery_id,
        )
        delivery = _store(project, host, decision, body, headers, remote_address, started)
    return delivery


def _store_refused(
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


def _store(
    project: Project,
    host: str,
    decision: Decision,
    body: bytes,
    headers: Mapping[str, str],
    remote_address: str | None,
    started: float,
) -> Delivery:
    return Delivery.objects.create(
        project=project,
        host=host,
        delivery_id=decision.delivery_id[:200],
        event=decision.event[:100],
        verdict=decision.verdict,
        reason=decision.reason,
        headers=redact_headers(_kept(headers)),
        body=redact(body.decode("utf-8", "replace").replace("\x00", ""), project.webhook_secrets),
        remote_address=remote_address,
        status_code=STATUS_CODES[decision.verdict],
        seconds=time.monotonic() - started,
    )


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Enough to see who called and how; a stranger's call is kept too, so not more."""
    return {name[:HEADER_CHARACTERS]: value[:HEADER_CHARACTERS] for name, value in list(headers.items())[:HEADERS_KEPT]}


def _decide(project: Project, push: Push, delivery: Delivery, decision: Decision) -> None:
    if push.kind == "ping":
        decision.reason = "The ping arrived, and its signature is right."
        return
    changes = [change for change in push.changes if change.type == "branch" and change.head and not change.deleted]
    stranger = _other_repository(project, push)
    if changes and stranger:
        decision.reason = (
            f"The push is of the repository {stranger}; {project.name} is deployed from {project.repository_url}. "
            "Correct the project's repository if it has moved, or remove the webhook from that other one."
        )
        return
    if not changes:
        decision.reason = _why_nothing(push)
        return
    for change in changes:
        _decide_branch(project, push, change, delivery, decision)
    queued = [entry for entry in decision.outcome if entry["verdict"] == Verdict.ACCEPTED]
    if queued:
        decision.verdict = Verdict.ACCEPTED
        decision.reason = "Queued: " + ", ".join(entry["environment"] for entry in queued) + "."
    elif decision.outcome and all(entry["verdict"] == Verdict.DUPLICATE for entry in decision.outcome):
        decision.verdict = Verdict.DUPLICATE
        decision.reason = decision.outcome[0]["reason"]
    elif decision.outcome:
        decision.reason = " ".join(dict.fromkeys(entry["reason"] for entry in decision.outcome))
    else:
        names = ", ".join(dict.fromkeys(change.name for change in changes))
        decision.reason = f"No environment of {project.name} is mapped to the branch {names}."


def _other_repository(project: Project, push: Push) -> str:
    """The name of the repository that was pushed to, when it isn't the project's. Hosts are not compared: a repository
    is reached under several names."""
    if not project.repository_url or project.repository_url.startswith("file://"):
        return ""
    told = [name for name in (push.full_name, *push.urls) if _last_parts(name)]
    wanted = _last_parts(project.repository_url)
    if not told or any(_same(wanted, _last_parts(name)) for name in told):
        return ""
    return told[0]


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[len(one) - length :] == other[len(other) - length :]


def _last_parts(address: str) -> tuple[str, ...]:
    """Owner and name of a repository from its URL or full name; fewer where there are fewer."""
    _, scheme, rest = address.partition("://")
    path = rest.partition("/")[2] if scheme else address.rpartition(":")[2]
    parts = [part for part in path.lower().split("/") if part]
    return tuple(part.removesuffix(".git") for part in parts[-2:])


def _why_nothing(push: Push) -> str:
    if not push.changes:
        return f"Nothing to deploy in the event “{push.event}”."
    if any(change.deleted for change in push.changes):
        return "A ref was deleted; that deploys nothing."
    moved = (f"a {change.type}" if change.type == "tag" else change.ref for change in push.changes)
    return f"Only branches deploy; this push moved {', '.join(dict.fromkeys(moved))}."


def _decide_branch(project: Project, push: Push, change: RefChange, delivery: Delivery, decision: Decision) -> None:
    rows = project.environments.filter(branch=change.name).select_related("project", "server").order_by("pk")
    # Locked, so that of two deliveries of one commit at once the second sees what the first has queued.
    for environment in rows.select_for_update(of=("self",)):
        verdict, reason, deployment = _decide_environment(environment, push, change, delivery)
        entry: dict[str, Any] = {"environment": environment.path, "verdict": verdict, "reason": reason}
        if deployment:
            entry |= {"deployment": deployment.pk, "commit": change.head}
            replaced = deployment.supersedes.first()
            if replaced:
                entry |= {"reason": f"Queued; it supersedes #{replaced.pk}, which waited.", "supersedes": replaced.pk}
            decision.deployments.append(deployment)
        decision.outcome.append(entry)


def _decide_environment(
    environment: Environment, push: Push, change: RefChange, delivery: Delivery
) -> tuple[Verdict, str, Deployment | None]:
    auto = resolve(environment, "auto_deploy")
    if not auto.value:
        transaction.on_commit(lambda: queues.enqueue_pending(environment.pk))
        return (
            Verdict.IGNORED,
            f"Auto-deploy of {environment.path} is off (from {auto.origin}); the commits are shown as pending.",
            None,
        )
    by_hand = services.waiting_by_hand(environment)
    if by_hand:
        what = "a rollback by hand" if by_hand.rollback_to_id else f"asked for by {by_hand.requester or 'a person'}"
        transaction.on_commit(lambda: queues.enqueue_pending(environment.pk))
        return (
            Verdict.IGNORED,
            f"#{by_hand.pk}, {what}, is queued there, and a push does not replace that; "
            "the commits are shown as pending.",
            None,
        )
    same = services.duplicate_of(environment, change.head)
    if same:
        return (
            Verdict.DUPLICATE,
            f"{change.head[:10]} {_SAME.get(same.status, 'is live')} there as #{same.pk}.",
            None,
        )
    head = next((commit for commit in push.commits if commit.sha == change.head), None)
    try:
        deployment = services.request_deployment(
            environment,
            Trigger.PUSH,
            Who(push.pusher or "unknown pusher"),
            ref=change.name,
            commit=change.head,
            subject=head.subject if head else "",
            author=head.author if head else "",
            delivery=delivery,
        )
    except NotPossible as error:
        return Verdict.IGNORED, error.message, None
    return Verdict.ACCEPTED, "Queued.", deployment
