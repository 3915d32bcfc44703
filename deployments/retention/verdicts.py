"""The one mechanism: of each thing whether it stays or goes, and why, in a sentence.

What is needed stays, whatever else holds. What has lost its reason to be goes. Of the rest so many stay of each group,
for so many days; and where the disk is short, the oldest of these go first.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone

from ocore.forms import format_size


class Kind(models.TextChoices):
    SNAPSHOT = "snapshot", "Snapshots"
    IMAGE = "image", "Images"
    DATABASE = "database", "Databases"
    VOLUME = "volume", "Volumes"
    CONTAINER = "container", "Containers"
    DUMP = "dump", "Dumps"
    MIRROR = "mirror", "Copies of repositories"
    BUILD = "build", "Build folders"
    LOG = "log", "Logs"
    DEPLOYMENT = "deployment", "Deployments"
    DELIVERY = "delivery", "Deliveries"
    PROBE = "probe", "Health probes"


ROWS = frozenset({Kind.LOG, Kind.DEPLOYMENT, Kind.DELIVERY, Kind.PROBE})
"""Rows of the portal's database: too many to be listed one by one."""


class StillNeeded(Exception):
    """Looked at again in the instant before its removal, it may not go; the message says why."""


@dataclass(frozen=True)
class Limit:
    """Beyond either it goes; None: no such limit."""

    count: int | None = None
    days: int | None = None


@dataclass(frozen=True)
class Thing:
    kind: Kind
    name: str
    of: str
    """Whose it is: `Acme / Production`, `Acme`; empty where nobody's."""
    since: datetime | None
    remove: Callable[[], None]
    """Idempotent, and looks again first. Raises `StillNeeded`, or `ExpectedError` when it could not be done."""
    size_bytes: int = 0
    frees: bool = True
    """Its size lies on the disk that is looked at."""
    group: Hashable = None
    """Within which the limit's number counts."""
    count: int = 1
    needed: str = ""
    """Why it must stay; goes before all else."""
    over: str = ""
    """Why it goes whatever the limits say."""
    unknown: str = ""
    """Nothing on record knows it: why it is left to a person to remove it."""


@dataclass(frozen=True)
class Verdict:
    thing: Thing
    keep: bool
    reason: str

    @property
    def sentence(self) -> str:
        return sentence(self.keep, self.reason)

    @property
    def could_go(self) -> bool:
        """Nothing needs it."""
        return not self.keep or not (self.thing.needed or self.thing.unknown)


def sentence(keep: bool, reason: str) -> str:
    return f"{'kept' if keep else 'removed'}: {reason}"


def limits() -> dict[Kind, Limit]:
    return {
        Kind.SNAPSHOT: Limit(settings.OCORE_KEEP_SNAPSHOTS, settings.OCORE_KEEP_SNAPSHOT_DAYS),
        Kind.IMAGE: Limit(settings.OCORE_KEEP_IMAGES, settings.OCORE_KEEP_IMAGE_DAYS),
        Kind.DUMP: Limit(settings.OCORE_KEEP_DUMPS, settings.OCORE_KEEP_DUMP_DAYS),
        Kind.MIRROR: Limit(None, settings.OCORE_KEEP_MIRROR_DAYS),
        Kind.LOG: Limit(settings.OCORE_KEEP_LOGS, settings.OCORE_KEEP_LOG_DAYS),
        Kind.DEPLOYMENT: Limit(settings.OCORE_KEEP_DEPLOYMENTS, settings.OCORE_KEEP_DEPLOYMENT_DAYS),
        Kind.DELIVERY: Limit(settings.OCORE_KEEP_DELIVERIES, settings.OCORE_KEEP_DELIVERY_DAYS),
        # A copy of which the record says that it went already: as long as a snapshot would have stayed.
        Kind.DATABASE: Limit(None, settings.OCORE_KEEP_SNAPSHOT_DAYS),
    }


def judge(things: Iterable[Thing], *, free: int, wanted: int, also_unknown: bool = False) -> list[Verdict]:
    """In the order given. `free` and `wanted` are bytes of the disk on which the things lie."""
    things = list(things)
    now, by_kind = timezone.now(), limits()
    ranks = _ranks(things)
    verdicts = {
        position: _judge(thing, by_kind.get(thing.kind, Limit()), ranks[position], now, also_unknown)
        for position, thing in enumerate(things)
    }
    missing = wanted - free - sum(_freed(verdict) for verdict in verdicts.values())
    spare = [position for position, verdict in verdicts.items() if verdict.keep and verdict.could_go]
    for position in sorted(spare, key=lambda position: _age(things[position])):
        thing = things[position]
        if missing <= 0:
            break
        if thing.size_bytes and thing.frees and thing.kind not in ROWS:
            reason = f"the oldest that no rollback needs; the disk has less than {format_size(wanted)} free"
            verdicts[position] = Verdict(thing, False, reason)
            missing -= thing.size_bytes
    return [verdicts[position] for position in range(len(things))]


def _judge(thing: Thing, limit: Limit, rank: int, now: datetime, also_unknown: bool) -> Verdict:
    if thing.needed:
        return Verdict(thing, True, thing.needed)
    if thing.unknown:
        reason = "nothing on record knows it, and its removal was asked for" if also_unknown else thing.unknown
        return Verdict(thing, not also_unknown, reason)
    if thing.over:
        return Verdict(thing, False, thing.over)
    of = f" of {thing.of}" if thing.of else ""
    if limit.count is not None and rank >= limit.count:
        return Verdict(thing, False, f"not among the newest {limit.count}{of}")
    if limit.days is not None and thing.since and now - thing.since > timedelta(days=limit.days):
        return Verdict(thing, False, f"older than {limit.days} days")
    newest = f"among the newest {limit.count}{of}" if limit.count is not None else ""
    younger = f"not older than {limit.days} days" if limit.days is not None else ""
    return Verdict(thing, True, ", ".join(filter(None, (newest, younger))) or "nothing says that it should go")


def _ranks(things: list[Thing]) -> dict[int, int]:
    """Of each the number of newer ones in its group."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, thing in enumerate(things):
        groups[thing.kind, thing.group].append(position)
    ranks: dict[int, int] = {}
    for positions in groups.values():
        newest_first = sorted(positions, key=lambda position: _age(things[position]), reverse=True)
        ranks |= {position: rank for rank, position in enumerate(newest_first)}
    return ranks


def _age(thing: Thing) -> float:
    return thing.since.timestamp() if thing.since else 0.0


def _freed(verdict: Verdict) -> int:
    return verdict.thing.size_bytes if not verdict.keep and verdict.thing.frees else 0
