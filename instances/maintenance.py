"""Maintenance that a person sets by hand: rows first, then the edge is told (`instances/notices.py`)."""

from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils import timezone

from instances.models import Instance, Maintenance
from ocore.errors import ExpectedError
from projects.models import Environment

MOST_CHARACTERS = 500
"""Of the text."""


class MaintenanceRefused(ExpectedError):
    """It could not be set or ended; nothing was changed."""


def current(environment: Environment) -> Maintenance | None:
    return Maintenance.objects.filter(environment=environment, ended_at=None).first()


def begin(environment: Environment, who: str, *, text: str = "", until: datetime | None = None) -> Maintenance:
    """From now on; where it is set already, its text and end become these. `until` None: until somebody ends it."""
    now = timezone.now()
    text = text.strip().replace("\r\n", "\n")
    if len(text) > MOST_CHARACTERS:
        raise MaintenanceRefused(f"The text has {len(text)} characters, {MOST_CHARACTERS} are possible.")
    if until and until <= now:
        raise MaintenanceRefused(
            f"The end, {until:%Y-%m-%d %H:%M} UTC, is over already.",
            advice="Give an end that is still to come, or none.",
        )
    if environment.removing_since:
        raise MaintenanceRefused(f"{environment} is being removed.")
    if not environment.instances.exclude(state=Instance.State.NEW).exists():
        raise MaintenanceRefused(
            f"Nothing has been deployed to {environment} yet: there is nobody to keep out.", advice="Deploy it first."
        )
    fields = {"text": text, "until": until}
    if not Maintenance.objects.filter(environment=environment, ended_at=None).update(**fields):
        try:
            with transaction.atomic():
                return Maintenance.objects.create(environment=environment, began_at=now, began_by=who, **fields)
        except IntegrityError:  # another was faster; the last word counts
            Maintenance.objects.filter(environment=environment, ended_at=None).update(**fields)
    return Maintenance.objects.filter(environment=environment).latest("pk")


def end(environment: Environment, who: str) -> Maintenance:
    """Clients come in again."""
    ended = {"ended_at": timezone.now(), "ended_by": who}
    if not Maintenance.objects.filter(environment=environment, ended_at=None).update(**ended):
        raise MaintenanceRefused(f"{environment} is not in maintenance.")
    return Maintenance.objects.filter(environment=environment).latest("pk")


def end_what_is_due() -> int:
    """The clock's: those whose end has come."""
    now = timezone.now()
    return Maintenance.objects.filter(ended_at=None, until__lte=now).update(ended_at=now, ended_by="")
