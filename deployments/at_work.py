"""Who is at work in an environment. Whoever wants to begin something there asks here, under the lock of its row."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Q
from django.utils import timezone

from deployments import locks
from deployments.locks import Lock
from deployments.models import Deployment
from deployments.states import UNDERWAY
from instances.models import Door
from projects.models import Environment, Server, Split

WAIT = "Wait until it has ended."


@dataclass(frozen=True)
class Hindrance:
    """Why nothing else may begin there now, and what to do."""

    message: str
    advice: str = WAIT


def underway(environment: Environment) -> Deployment | None:
    return Deployment.objects.filter(environment=environment, status__in=UNDERWAY).first()


def underway_on(servers: Iterable[Server], *, besides: int = 0) -> bool:
    """Whether a deployment is, somewhere on them."""
    rows = Deployment.objects.filter(environment__server__in=list(servers), status__in=UNDERWAY)
    return rows.exclude(pk=besides).exists()


def locked() -> Q:
    """Of environments: a person has locked it, so no deployment begins there. Anything else may."""
    return Q(pk__in=Lock.objects.filter(unlocked_at=None).order_by().values("environment"))


def why_locked(environment: Environment) -> str:
    """Empty where it isn't."""
    lock = locks.current(environment)
    return f"{environment} is locked {lock.words}" if lock else ""


def being_ended(environment: Environment) -> bool:
    """A second version that one of the two ends: its clients and data are being moved."""
    rows = Split.objects.filter(environment=environment).exclude(ending=Split.Ending.NOT)
    return environment.second_of_id is not None and rows.exists()


def hindrance(
    environment: Environment, *, behind_doors: bool = False, being_removed: bool = False, ending: bool = False
) -> Hindrance | None:
    """None: it is free. `behind_doors`: for who acts though its door is closed, `being_removed`: for who removes it,
    `ending`: for who ends the second version that it is.

    `occupied` asks the same of the rows, for many at once.
    """
    if environment.removing_since and not being_removed:
        return Hindrance(f"{environment} is being removed.", "Nothing can be done in it any more.")
    if not (being_removed or ending) and being_ended(environment):
        return Hindrance(f"{environment} is a second version that is being ended.", "Wait for its end.")
    deployment = underway(environment)
    if deployment:
        return Hindrance(f"{deployment} is underway in {environment}.")
    if environment.busy:
        return Hindrance(f"{environment.busy_with} is at work in {environment}.")
    door = None if behind_doors else Door.objects.filter(environment=environment).first()
    if door:
        return Hindrance(
            f"The door of {environment} is closed by {door.holder}: starting anything could change data that is still "
            "to be put back.",
            "Look at that deployment first; docs/operations.md, “A rollback failed”.",
        )
    return None


def occupied(*, behind_doors: bool = False) -> Q:
    """Of environments, as `hindrance`; only, that a holder is dead no query can tell, so its time is waited for."""
    found = (
        Q(removing_since__isnull=False)
        | Q(pk__in=Deployment.objects.filter(status__in=UNDERWAY).order_by().values("environment"))
        | Q(busy_until__gt=timezone.now())
        | Q(pk__in=Split.objects.exclude(ending=Split.Ending.NOT).order_by().values("environment"))
    )
    return found if behind_doors else found | Q(pk__in=Door.objects.order_by().values("environment"))
