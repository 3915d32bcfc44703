"""Lock an environment, so that no deployment begins there, and unlock it. What is asked for meanwhile waits in line;
what is underway goes on to its end."""

from django.db import transaction
from django.utils import timezone

from deployments import locks, schedule
from deployments.locks import Lock
from deployments.services import NotPossible, Who
from projects.models import Environment

MOST_CHARACTERS = 500
"""Of a reason."""


def lock(environment: Environment, who: Who, reason: str) -> Lock:
    """Once this has returned nothing begins there. Raises `NotPossible`, also where it is locked already."""
    reason = " ".join(reason.split())
    if not reason:
        raise NotPossible(f"{environment} was not locked: nobody would know why.", advice="Give a reason.")
    if len(reason) > MOST_CHARACTERS:
        raise NotPossible(f"The reason has {len(reason)} characters, {MOST_CHARACTERS} are possible.")
    with transaction.atomic():
        # The lock that everything takes that begins something in an environment.
        row = Environment.objects.select_for_update().get(pk=environment.pk)
        if row.removing_since:
            raise NotPossible(f"{environment} is being removed.")
        found = locks.current(environment)
        if found:
            raise NotPossible(
                f"{environment} is locked already, {found.words}",
                advice="Unlock it first if that is over.",
            )
        return Lock.objects.create(
            environment=environment, reason=reason, locked_at=timezone.now(), locked_by=who.name[:200]
        )


def unlock(environment: Environment, who: Who) -> Lock:
    """What waited there gets its turn. Raises `NotPossible`."""
    found = locks.current(environment)
    ended = {"unlocked_at": timezone.now(), "unlocked_by": who.name[:200]}
    if found is None or not Lock.objects.filter(pk=found.pk, unlocked_at=None).update(**ended):
        raise NotPossible(f"{environment} is not locked.")
    found.refresh_from_db()
    transaction.on_commit(lambda: schedule.hand_out(environment.server_id), robust=True)
    return found
