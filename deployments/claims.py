"""Act on an environment outside of a deployment: no deployment begins meanwhile, and none is underway."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from deployments import at_work, schedule
from deployments.services import NotPossible
from ocore import waiting
from ocore.machine.processes import own_name
from projects.models import Environment


class Lapsed(NotPossible):
    """A claim's holder stood still for too long; whoever sees this must not act any more."""


@dataclass
class Claim:
    """A hold on an environment that ends by itself, `lasting` after the last look at it, when its holder dies.

    What is done to the server under it goes through `fenced(runtime, claim.check)`.
    """

    environment: Environment
    what: str
    lasting: timedelta
    until: datetime
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """What is done side by side looks at the same hold."""

    def check(self) -> None:
        """Before a side effect: it is still ours, and so it stays for another while. Raises `Lapsed`; it is never
        renewed then, since somebody may have come and gone."""
        with self._lock:
            now = timezone.now()
            if not self._row().filter(busy_until__gt=now).update(busy_until=now + self.lasting):
                raise Lapsed(f"{self.what} took too long and was left: something else may be at work there now.")
            self.until = now + self.lasting

    def pulse(self) -> None:
        """`check`, for who waits and asks all the time: nobody else can have it before its time is over."""
        if self.until - timezone.now() < self.lasting * 0.75:
            self.check()

    def release(self) -> None:
        self._row().update(busy_with="", busy_until=None, busy_by="")

    def _row(self) -> QuerySet[Environment]:
        return Environment.objects.filter(pk=self.environment.pk, busy_with=self.what, busy_until=self.until)


@contextmanager
def claimed(
    environment: int,
    what: str,
    lasting: timedelta,
    *,
    behind_doors: bool = False,
    being_removed: bool = False,
    ending: bool = False,
) -> Iterator[Claim]:
    """Raises `NotPossible` while anything else is at work in it (`at_work`); hands on what waited when it ends. Whoever
    waits inside keeps it."""
    what = what[:200]
    with transaction.atomic():
        # The lock that everything takes that begins something in an environment; of this row alone, since the server's
        # is taken first by others.
        rows = Environment.objects.select_for_update(of=("self",)).select_related("server", "project")
        row = rows.get(pk=environment)
        require_free(row, behind_doors=behind_doors, being_removed=being_removed, ending=ending)
        claim = Claim(row, what, lasting, timezone.now() + lasting)
        Environment.objects.filter(pk=environment).update(busy_with=what, busy_until=claim.until, busy_by=own_name())
    try:
        with waiting.heeding(claim.pulse):
            yield claim
    finally:
        claim.release()
        schedule.hand_out(row.server_id)


def require_free(environment: Environment, **allowed: bool) -> None:
    """Raises `NotPossible` as `at_work.hindrance` says."""
    found = at_work.hindrance(environment, **allowed)
    if found:
        raise NotPossible(found.message, advice=found.advice)
