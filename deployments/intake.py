"""A webhook's way in: verify, store, queue, answer. Milliseconds; git and the server are asked later, by workers."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import IntegrityError, connection, transaction

from deployments import rates, routing
from deployments.decision import Decision, decide, nowhere
from deployments.delivery_rows import STATUS_CODES, Verdict, store, store_refused
from deployments.models import Delivery
from ocore.errors import ExpectedError
from projects.hosts import HOSTS, Push, Refused, Unreadable
from projects.models import Project

logger = logging.getLogger(__name__)
NO_ENTRY = "The signature does not fit."
"""All that a stranger learns, whether the project exists or not."""
TOO_MANY = "Too many calls. Come again later."
TURN_SECONDS = 1.0
_writing = threading.Lock()


@dataclass(frozen=True)
class Answer:
    status: int
    content: dict[str, Any]
    retry_after: int = 0
    """Seconds."""


class NotReplayable(ExpectedError):
    """There is nothing kept that could be read again."""


@dataclass(frozen=True)
class Call:
    """What came, as far as it is kept."""

    body: bytes
    headers: Mapping[str, str]
    remote_address: str | None
    started: float


def receive(
    project: Project | None, host: str, body: bytes, headers: Mapping[str, str], remote_address: str | None
) -> Answer:
    """The answer to a webhook call. Never raises for what the call contains."""
    call = Call(body, headers, remote_address, time.monotonic())
    driver = HOSTS[host]
    known = project if project and project.host == host else None
    try:
        driver.verify(body, headers, project.webhook_secrets if project else [])
    except Refused as refused:
        store_refused(known, host, refused.reason, headers, remote_address, call.started)
        return Answer(401, {"status": Verdict.REFUSED, "reason": NO_ENTRY})
    assert project is not None  # noqa: S101 - no secret fits where there is no project
    if known is None:
        reason = _elsewhere(project, host)
        store_refused(project, host, reason, headers, remote_address, call.started)
        return Answer(401, {"status": Verdict.REFUSED, "reason": reason})
    wait = rates.wait_for("project", known.pk, settings.OCORE_WEBHOOKS_PER_PROJECT)
    if wait:
        if cache.add(f"too-many-{known.pk}", True, 60):
            logger.warning("Deliveries for %s come more often than OCORE_WEBHOOKS_PER_PROJECT allows.", known)
        return Answer(429, {"status": Verdict.REFUSED, "reason": TOO_MANY}, wait)
    try:
        push = driver.parse(body, headers)
    except Unreadable as unreadable:
        delivery = store(
            known, host, Verdict.UNREADABLE, unreadable.reason, body, headers, remote_address, call.started
        )
        return Answer(delivery.status_code, {"status": delivery.verdict, "reason": delivery.reason})
    delivery = _take_in(known, host, push, call, {"delivery_id": push.delivery_id[:200]})
    return Answer(
        delivery.status_code,
        {
            "status": delivery.verdict,
            "reason": delivery.reason,
            "delivery": delivery.pk,
            "environments": delivery.outcome,
        },
    )


def _elsewhere(project: Project, host: str) -> str:
    """Only for who has the secret: what to mend where the project has another git host than the address."""
    if project.host not in HOSTS:
        return f"This is the address for {HOSTS[host].title}, and {project.name} has no git host that calls."
    return (
        f"This is the address for {HOSTS[host].title}, and {project.name} is deployed from "
        f"{HOSTS[project.host].title}. Remove this webhook, or give it the address that the project's page shows."
    )


def replayable(delivery: Delivery) -> bool:
    kept = bool(delivery.body) and delivery.host in HOSTS
    return kept and delivery.verdict not in (Verdict.REFUSED, Verdict.UNREADABLE)


def replay(delivery: Delivery, who: str) -> Delivery:
    """Decide again upon what was proven when it came; it does nothing that has been done. Raises `NotReplayable`."""
    host = HOSTS.get(delivery.host)
    if host is None or not replayable(delivery):
        raise NotReplayable(
            "Only a delivery that was proven and could be read can be replayed.",
            advice="Deliver it again at the git host.",
        )
    call = Call(delivery.body.encode(), delivery.headers, None, time.monotonic())
    try:
        push = host.parse(call.body, call.headers)
    except Unreadable as error:
        raise NotReplayable(
            f"What is kept of it cannot be read: {error.reason}.", advice="Deliver it again at the git host."
        ) from None
    origin = {"origin": Delivery.Origin.REPLAY, "replay_of": delivery, "sent_by": who[:200]}
    return _take_in(delivery.project, delivery.host, push, call, origin)


def rehearse(project: Project, push: Push) -> Decision:
    """What would be decided now: the same code, and everything taken back."""
    if decision := nowhere(project, push):
        return decision
    with transaction.atomic():
        delivery = Delivery.objects.create(project=project, host=project.host, verdict=Verdict.IGNORED, status_code=0)
        decision = decide(project, push, delivery)
        transaction.set_rollback(True)
    return decision


def unreached(project: Project, push: Push) -> list[dict[str, str]]:
    """Why each of the other environments isn't reached, per ref."""
    environments = list(project.environments.select_related("project").prefetch_related("branch_rules"))
    found = []
    for change in push.changes:
        by = routing.reached(project, change)
        there = {environment.pk for environment in by.environments}
        found += [
            {"environment": one.path, "ref": change.ref, "reason": routing.why_not(one, change, by)}
            for one in environments
            if one.pk not in there
        ]
    return found


def _take_in(project: Project, host: str, push: Push, call: Call, fields: dict[str, Any]) -> Delivery:
    """The delivery's row and what it queues are one transaction; the row's uniqueness is what makes it once only."""
    fields |= {"event": push.event[:100], "refs": ", ".join(change.name for change in push.changes)[:300]}
    kept = (call.body, call.headers, call.remote_address, call.started)
    decision = nowhere(project, push)
    try:
        if decision:
            with _in_turn(), transaction.atomic():
                return store(project, host, decision.verdict, decision.reason, *kept, **fields)
        with _in_turn() as turn, transaction.atomic():
            transaction.on_commit(turn.close)  # before Redis is told
            delivery = store(project, host, Verdict.IGNORED, "", *kept, **fields)
            decision = decide(project, push, delivery)
            delivery.verdict, delivery.reason, delivery.outcome = decision.verdict, decision.reason, decision.outcome
            delivery.status_code = STATUS_CODES[decision.verdict]
            delivery.seconds = time.monotonic() - call.started
            delivery.save(update_fields=["verdict", "reason", "outcome", "status_code", "seconds"])
    except IntegrityError:
        reason = f"Delivery {push.delivery_id} was received before."
        delivery = store(project, host, Verdict.DUPLICATE, reason, *kept, **fields)
    return delivery


@contextmanager
def _in_turn() -> Iterator[ExitStack]:
    """SQLite lets one write at a time, and who finds it busy sleeps, longer each time it looks: so the threads of this
    process line up here. Closed, it is the next one's turn."""
    with ExitStack() as turn:
        if connection.vendor == "sqlite" and _writing.acquire(timeout=TURN_SECONDS):
            turn.callback(_writing.release)
        yield turn
