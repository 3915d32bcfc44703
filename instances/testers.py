"""Links with which testers pass maintenance.

A link is a row and its signature: an HMAC under the portal's secret key, 256 bits that nobody guesses. The portal can
show it again, and write the edge's files anew from rows without keeping a secret; the edge compares by a file's name,
so it needs neither the portal nor a reload (`instances/edge_maintenance.py`). Each is bound to its environment, ends by
itself, and is revoked one by one. A new `DJANGO_SECRET_KEY` ends them all.
"""

import secrets
from datetime import timedelta

from django.utils import timezone
from django.utils.crypto import salted_hmac

from instances.edge_maintenance import LINK_PARAMETER, LINK_PATH
from instances.models import TesterLink
from ocore.errors import ExpectedError
from projects.models import Environment

HOURS = 8.0
MOST_HOURS = 31 * 24.0


class LinkRefused(ExpectedError):
    """It could not be made or revoked; nothing was changed."""


def make(environment: Environment, who: str, *, for_whom: str, hours: float = HOURS) -> TesterLink:
    for_whom = for_whom.strip()
    if not for_whom:
        raise LinkRefused("A tester's link needs a note of who it is for.", advice="Say a name, or an address.")
    if not 0 < hours <= MOST_HOURS:
        raise LinkRefused(f"A tester's link is valid for up to {MOST_HOURS:.0f} hours, not for {hours:g}.")
    if environment.removing_since:
        raise LinkRefused(f"{environment} is being removed.")
    now = timezone.now()
    return TesterLink.objects.create(
        environment=environment,
        for_whom=for_whom[:150],
        nonce=secrets.token_urlsafe(24),
        made_at=now,
        made_by=who,
        # Whole seconds, as a cookie's end has them.
        expires_at=(now + timedelta(hours=hours)).replace(microsecond=0),
    )


def revoke(link: TesterLink, who: str) -> None:
    now = timezone.now()
    if not TesterLink.objects.filter(pk=link.pk, revoked_at=None, expires_at__gt=now).update(
        revoked_at=now, revoked_by=who
    ):
        raise LinkRefused(f"{link} is not valid any more.")
    link.refresh_from_db()


def token(link: TesterLink) -> str:
    """64 hexadecimal digits; whoever has them passes."""
    signed = f"{link.environment.key} {link.pk} {link.nonce}"
    return salted_hmac("ocore.edge.tester", signed, algorithm="sha256").hexdigest()


def address(link: TesterLink) -> str:
    """What the tester opens. A secret until it expires."""
    return f"{link.environment.url}{LINK_PATH}?{LINK_PARAMETER}={token(link)}"
