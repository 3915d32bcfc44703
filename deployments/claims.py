"""Act on an environment outside of a deployment: no deployment begins meanwhile, and none is underway."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from deployments import schedule, services
from deployments.services import NotPossible
from instances.models import Door
from ocore.machine.processes import own_name
from projects.models import Environment


@dataclass
class Claim:
    """A hold on an environment that ends by itself, `lasting` after the last look at it, when its holder dies."""

    environment: Environment
    what: str
    lasting: timedelta
    until: datetime

    def check(self) -> None:
        """Before a side effect: it is still ours, and so it stays for another while. Raises `NotPossible`."""
        until = timezone.now() + self.lasting
        if not self._row().update(busy_until=until):
            raise NotPossible(f"{self.what} took too long and was left: something else may be at work there now.")
        self.until = until

    def release(self) -> None:
        self._row().update(busy_with="", busy_until=None, busy_by="")

    def _row(self) -> QuerySet[Environment]:
        return Environment.objects.filter(pk=self.environment.pk, busy_with=self.what, busy_until=self.until)


@contextmanager
def claimed(environment: int, what: str, lasting: timedelta) -> Iterator[Claim]:
    """Raises `NotPossible` while anything else is at work in it; hands on what waited when it ends."""
    what = what[:200]
    with transaction.atomic():
        # The lock that everything takes that begins something in an environment.
        row = Environment.objects.select_for_update().select_related("server", "project").get(pk=environment)
        require_free(row)
        claim = Claim(row, what, lasting, timezone.now() + lasting)
        Environment.objects.filter(pk=environment).update(busy_with=what, busy_until=claim.until, busy_by=own_name())
    try:
        yield claim
    finally:
        claim.release()
        schedule.hand_out(row.server_id)


def require_free(environment: Environment) -> None:
    """Raises `NotPossible` while a deployment is underway, somebody else acts, or a door is closed."""
    at_work = services.underway(environment)
    if at_work:
        raise NotPossible(f"{at_work} is underway in {environment}.", advice="Wait until it has ended.")
    if environment.busy:
        raise NotPossible(f"{environment.busy_with} is at work in {environment}.", advice="Wait until it has ended.")
    door = Door.objects.filter(environment=environment).first()
    if door:
        raise NotPossible(
            f"The door of {environment} is closed by {door.holder}: starting anything could change data that is still "
            "to be put back.",
            advice="Look at that deployment first; docs/operations.md, “A rollback failed”.",
        )
