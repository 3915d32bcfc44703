"""Whose turn it is: which queued deployments are handed to the workers, and what the others wait for.

A deployment holds one of its server's slots from its admission to its end, and one of the build slots until its build
step has ended. `hand_out` is the only one that admits, under the lock of the server's row; whoever frees a slot, or
asks for one, calls it. So no worker takes what it would have to wait with, be it for its environment or for an image
that another worker is just building.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet
from django.utils import timezone

from deployments import at_work, queues
from deployments.models import Deployment, Step
from deployments.states import UNDERWAY, Status, StepKind, Trigger
from projects.models import Environment, Server

ADMITTED = Q(status=Status.QUEUED, admitted_at__isnull=False)
HOLDS_A_SLOT = ADMITTED | Q(status__in=UNDERWAY)


@dataclass(frozen=True)
class Waiting:
    """A queued deployment that nothing in its own environment holds up."""

    pk: int
    project: int
    since: datetime
    trigger: str
    ref: str = ""
    commit: str = ""
    version: str | None = None
    image: str | None = None
    packages: Sequence[str] | None = None
    """The environment's own; None inherits."""

    @property
    def builds(self) -> frozenset[tuple[object, ...]]:
        """What it will build, by ref and what that is put on; nothing where it is plain Odoo, or goes back to an
        image."""
        names = () if self.by_hand_back else (self.ref, self.commit)
        return frozenset((self.project, name, *self.put_on) for name in names if name)

    @property
    def put_on(self) -> tuple[object, ...]:
        """What environments of a project may build on instead of what they inherit from it."""
        packages = None if self.packages is None else tuple(self.packages)
        return self.version, self.image, packages

    @property
    def by_hand_back(self) -> bool:
        """A person goes back to what worked: clients may be without their Odoo."""
        return self.trigger == Trigger.ROLLBACK


@dataclass(frozen=True)
class Load:
    """What a server runs, admitted ones included, beside what it may."""

    deployments: int
    builds: int
    may_deploy: int
    may_build: int

    @property
    def free(self) -> int:
        return max(0, min(self.may_deploy - self.deployments, self.may_build - self.builds))

    def __str__(self) -> str:
        if self.deployments >= self.may_deploy:
            return f"runs {self.deployments} of {self.may_deploy} deployments"
        return f"builds {self.builds} of {self.may_build}"


def hand_out(server: int) -> None:
    """Admit as many as there are free slots, and hand them to the workers. Cheap when nobody waits."""
    if not _queued(server).exists():
        return
    with transaction.atomic():
        row = Server.objects.select_for_update(no_key=True).get(pk=server)
        chosen = [one.pk for one in islice(_startable(server), load(row).free)]
        now = timezone.now()
        turns = {pk: now + timedelta(microseconds=turn) for turn, pk in enumerate(chosen)}
        # In the order in which a push to several environments takes their rows: else each waits for the other.
        for pk in Deployment.objects.filter(pk__in=chosen).order_by("environment_id").values_list("pk", flat=True):
            Deployment.objects.filter(pk=pk, status=Status.QUEUED).update(admitted_at=turns[pk])
        for pk in chosen:
            transaction.on_commit(lambda pk=pk: queues.enqueue_deployment(pk), robust=True)  # type: ignore[misc]


def hand_out_everywhere() -> None:
    """Whatever got lost: free slots whose giver died, and admissions whose job went with Redis."""
    queued = Deployment.objects.filter(status=Status.QUEUED)
    for server in queued.filter(admitted_at=None).values_list("environment__server", flat=True).distinct().order_by():
        hand_out(server)
    for pk in queued.filter(ADMITTED).order_by("admitted_at").values_list("pk", flat=True):
        queues.enqueue_deployment(pk)


def give_back(pk: int) -> None:
    """Something else is at work in its environment: its slot is for another, it keeps its place in the line."""
    Deployment.objects.filter(pk=pk, status=Status.QUEUED).update(admitted_at=None)


def fair_order(
    waiting: Iterable[Waiting], shares: Mapping[int, int], served: Mapping[int, datetime]
) -> Iterator[Waiting]:
    """The project with the fewest slots first, then the one that waits longest for its turn, then its oldest. So one
    with 100 environments and one with a single one take turns. A rollback by hand goes before everything.

    `shares`: how many slots each project holds; `served`: when each was given its latest.
    """
    rest, taken, latest = list(waiting), Counter(shares), dict(served)
    now = timezone.now()

    def turn(one: Waiting) -> tuple[bool, int, datetime, datetime, int]:
        since = max(one.since, latest.get(one.project, one.since))
        return not one.by_hand_back, taken[one.project], since, one.since, one.pk

    while rest:
        first = min(rest, key=turn)
        rest.remove(first)
        taken[first.project] += 1
        now += timedelta(microseconds=1)
        latest[first.project] = now
        yield first


def load(server: Server) -> Load:
    holding = Deployment.objects.filter(HOLDS_A_SLOT, environment__server=server)
    building = _building(server.pk).count()
    return Load(holding.count(), building, server.concurrent_deployments, server.concurrent_builds)


def why_waiting(deployment: Deployment) -> str:
    """What a queued one waits for, in a line; empty for any other."""
    if deployment.status != Status.QUEUED:
        return ""
    environment = deployment.environment
    ahead = at_work.underway(environment)
    if ahead:
        return f"Waits for the end of #{ahead.pk} in this environment."
    if environment.busy:
        return f"Waits for the end of something else in this environment: {environment.busy_with}."
    locked = at_work.why_locked(environment)
    if locked:
        return f"Waits until it is unlocked: {locked}"
    if deployment.admitted_at:
        return "Next: waits for a free worker."
    server = environment.server
    same = _builds_the_same(deployment)
    if same:
        return f"Waits for the image that #{same} is building."
    order = [one.pk for one in _line(server.pk)]
    place = order.index(deployment.pk) + 1 if deployment.pk in order else len(order) + 1
    now = load(server)
    return f"{_ordinal(place)} in line: {'about to start' if now.free else f'{server} {now}'}."


def _queued(server: int) -> QuerySet[Deployment]:
    return Deployment.objects.filter(environment__server=server, status=Status.QUEUED, admitted_at=None)


def _building(server: int) -> QuerySet[Deployment]:
    """Those that hold a slot and have not ended their build step."""
    built = Step.objects.filter(deployment=OuterRef("pk"), kind=StepKind.BUILD, finished_at__isnull=False)
    holding = Deployment.objects.filter(HOLDS_A_SLOT, environment__server=server)
    return holding.exclude(status=Status.ROLLING_BACK).exclude(Exists(built))


def _builds_the_same(deployment: Deployment) -> int | None:
    """Which other one has just what this one would build at work."""
    (own,) = _read(Deployment.objects.filter(pk=deployment.pk))
    if _is_built(own, deployment.environment.server_id):
        return None
    others = _read(_building(deployment.environment.server_id).exclude(pk=deployment.pk))  # admitted since it was read
    return next((other.pk for other in others if other.builds & own.builds), None)


def _startable(server: int) -> Iterator[Waiting]:
    """Those of the line whom nobody holds up. Who would only wait for an image that another is building stays in the
    line until that build has ended, and finds it then."""
    building: set[tuple[object, ...]] = set().union(*(one.builds for one in _read(_building(server))))
    for one in _line(server):
        if not one.builds & building or _is_built(one, server):
            building |= one.builds
            yield one


def _is_built(one: Waiting, server: int) -> bool:
    """Its image is there, as far as the rows know: nobody waits for a build."""
    if not one.commit:
        return False
    rows = Deployment.objects.filter(commit=one.commit, environment__project=one.project, environment__server=server)
    return any(one.put_on == other.put_on for other in _read(rows.exclude(content="")))


def _waiting(server: int) -> list[Waiting]:
    here = Environment.objects.filter(at_work.occupied(behind_doors=True) | at_work.locked(), server=server)
    return _read(_queued(server).exclude(environment__in=here))


def _read(rows: QuerySet[Deployment]) -> list[Waiting]:
    own = ("environment__odoo_version", "environment__odoo_image", "environment__pip_packages")
    fields = ("pk", "environment__project", "queued_since", "trigger", "ref", "commit", *own)
    return [Waiting(*values) for values in rows.order_by().values_list(*fields)]


def _line(server: int) -> Iterator[Waiting]:
    """Those that wait, in the order in which they would be admitted if nothing ended meanwhile."""
    waiting = _waiting(server)
    if not waiting:
        return iter(())
    here = Deployment.objects.filter(environment__server=server).order_by()
    shares = Counter(here.filter(HOLDS_A_SLOT).values_list("environment__project", flat=True))
    lately = here.filter(admitted_at__gt=min(one.since for one in waiting))
    served = dict(lately.values_list("environment__project").annotate(Max("admitted_at")))
    return fair_order(waiting, shares, served)


def _ordinal(number: int) -> str:
    last = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else last}"
