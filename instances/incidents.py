"""The life of an incident: noticed, attempted with growing pauses, over, or given up loudly.

Every change is a conditional update: of several that look at the same time one acts.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.utils import timezone

from instances.models import Incident, Instance
from instances.runtimes.base import Container
from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.models import Environment, Server

logger = logging.getLogger(__name__)
Outcome = Incident.Outcome

LIMIT = 5
"""Attempts, each within `WINDOW` of the one before, after which it is given up."""
WINDOW = timedelta(minutes=10)
"""What is down again so soon after it was brought back is the same incident."""
PAUSES = (5, 15, 45, 120)
"""Seconds between an attempt and the next; the last one again and again."""
DETAIL_CHARACTERS = 8000


def unended() -> QuerySet[Incident]:
    """Those that are being worked on, and those that were given up and are still so."""
    return Incident.objects.filter(ended_at=None).select_related(
        "server", "environment__project", "instance__environment__project"
    )


def engines_down() -> dict[int, str]:
    """By server, what was seen: nobody but the keeper asks these, for each question may take a minute to fail."""
    return dict(unended().filter(part=Incident.Part.ENGINE).values_list("server_id", "seen"))


def about(environment: Environment) -> QuerySet[Incident]:
    """Its own, and those of what its server needs; the newest first."""
    return Incident.objects.filter(
        Q(environment=environment) | Q(environment=None, server=environment.server_id)
    ).select_related("server", "instance__environment__project")


def of_parts(server: Server) -> QuerySet[Incident]:
    """Of its engine, its PostgreSQL and its edge; the newest first."""
    return Incident.objects.filter(server=server, instance=None).select_related("server")


def notice(
    part: Incident.Part, server: Server, seen: str, *, instance: Instance | None = None, detail: str = ""
) -> Incident:
    """The unended incident of that part or instance: the one there is, the one that it was lately, or a new one. Where
    another makes and ends one in the same instant, that one."""
    now = timezone.now()
    about = Incident.objects.filter(part=part, server=server, instance=instance)
    known = about.filter(ended_at=None).first()
    if known:
        return known
    said = {"seen": redact(seen), "detail": redact(detail)[-DETAIL_CHARACTERS:]}
    lately = about.filter(outcome=Outcome.BROUGHT_BACK, attempted_at__gt=now - WINDOW).first()
    try:
        with transaction.atomic():
            if lately and Incident.objects.filter(pk=lately.pk).exclude(ended_at=None).update(
                ended_at=None, outcome=Outcome.OPEN, problem="", advice="", **_added(lately, said, now)
            ):
                logger.warning("%s is down again: %s", lately.subject, said["seen"])
                return Incident.objects.get(pk=lately.pk)
            environment = instance.environment if instance else None
            made = Incident.objects.create(
                part=part,
                server=server,
                instance=instance,
                environment=environment,
                noticed_at=now,
                next_attempt_at=now,
                **said,
            )
    except IntegrityError:  # another was faster, and may have ended it by now
        return about.latest("pk")
    logger.warning("%s is down: %s", made.subject, made.seen)
    return made


def _added(incident: Incident, said: dict[str, str], now: datetime) -> dict[str, str]:
    """What is seen later is told after what was seen first, which is where the cause stands."""
    if said["seen"] in incident.seen:
        return {"detail": said["detail"] or incident.detail}
    both = f"{incident.detail}\n{said['detail']}".strip()
    seen = f"{incident.seen} Then, at {now:%H:%M:%S} UTC: {said['seen']}"
    return {"seen": seen, "detail": both[-DETAIL_CHARACTERS:]}


def attempt(incident: Incident, **fields: Any) -> bool:
    """Whether this caller makes the next attempt, now. The row remembers that it was made, whatever becomes of it."""
    now = timezone.now()
    pause = timedelta(seconds=PAUSES[min(incident.attempts, len(PAUSES) - 1)])
    won = Incident.objects.filter(
        pk=incident.pk,
        outcome=Outcome.OPEN,
        ended_at=None,
        attempts=incident.attempts,
        next_attempt_at__lte=now,
    ).update(attempts=F("attempts") + 1, attempted_at=now, next_attempt_at=now + pause, problem="", **fields)
    incident.refresh_from_db()
    return bool(won)


def ended_by_itself(
    part: Incident.Part,
    server: Server,
    found: Container,
    incident: Incident | None,
    *,
    instance: Instance | None = None,
    since: datetime | None = None,
) -> Incident | None:
    """Where the engine has started the container again before anybody could look: an incident as any other, in which
    the engine's start counts as an attempt. Starts before `since` are nobody's business."""
    if not found.restart_count or found.started_at is None or (since and found.started_at < since):
        return incident
    last = incident or Incident.objects.filter(part=part, server=server, instance=instance).first()
    if last and last.engine_started_at == found.started_at:
        return incident
    words = f"Its container {found.name} ended by itself; the engine started it again."
    incident = incident or notice(part, server, words, instance=instance)
    Incident.objects.filter(pk=incident.pk).update(engine_started_at=found.started_at)
    if not exhausted(incident):
        attempt(incident)
    incident.refresh_from_db()
    return incident


def due(incident: Incident) -> bool:
    return incident.outcome == Outcome.OPEN and incident.next_attempt_at <= timezone.now()


def exhausted(incident: Incident) -> bool:
    return incident.attempts >= LIMIT


def failed(incident: Incident, error: ExpectedError) -> None:
    """An attempt did not help; the next one comes after the pause."""
    words = redact(f"{error.message} {error.detail}".strip())[:DETAIL_CHARACTERS]
    Incident.objects.filter(pk=incident.pk, outcome=Outcome.OPEN).update(problem=words, advice=redact(error.advice))
    incident.refresh_from_db()
    logger.warning("%s: attempt %s did not help: %s", incident.subject, incident.attempts, words)


def give_up(incident: Incident, problem: str, advice: str) -> None:
    """Loudly: from here on it is a person's."""
    given_up = Incident.objects.filter(pk=incident.pk, outcome=Outcome.OPEN, ended_at=None).update(
        outcome=Outcome.GIVEN_UP, problem=redact(problem), advice=redact(advice)
    )
    incident.refresh_from_db()
    if given_up:
        logger.critical("%s stays down, a person must look: %s", incident.subject, incident.problem)


def end(incident: Incident) -> None:
    """Seen healthy, or not wanted any more. What had been given up goes on being called so, for the record."""
    ended = Incident.objects.filter(pk=incident.pk, ended_at=None).update(
        ended_at=timezone.now(),
        outcome=Case(
            When(outcome=Outcome.GIVEN_UP, then=Value(Outcome.GIVEN_UP)),
            When(Q(attempts__gt=0), then=Value(Outcome.BROUGHT_BACK)),
            default=Value(Outcome.OVER),
        ),
    )
    incident.refresh_from_db()
    if ended:
        logger.warning("%s is no incident any more, after %s attempts", incident.subject, incident.attempts)
