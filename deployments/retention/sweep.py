"""Look at a place, a server or the portal itself, judge what lies there, and remove what may go."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from deployments.retention import on_portal, on_server, records, strays
from deployments.retention.needs import needs_of
from deployments.retention.on_server import Scene
from deployments.retention.verdicts import ROWS, Kind, StillNeeded, Thing, Verdict, judge
from instances import clusters
from instances.runtimes import runtime_for
from instances.runtimes.base import NAMESPACE_LABEL, ServerUnreachable
from ocore.errors import ExpectedError
from ocore.locks import file_lock
from projects.models import Environment, Server

logger = logging.getLogger(__name__)
BUDGET_SECONDS = 60.0
"""A worker is given back to the deployments after so long; what is left follows in another job."""


@dataclass(frozen=True)
class Survey:
    """What lies in a place, and what becomes of each thing."""

    place: str
    free_bytes: int
    wanted_bytes: int
    """Below so much free the oldest that nobody needs goes before its time."""
    verdicts: tuple[Verdict, ...]

    @property
    def spare_bytes(self) -> int:
        """What can be had by removing all that nothing needs."""
        return sum(one.thing.size_bytes for one in self.verdicts if one.could_go and one.thing.frees)

    @property
    def going_bytes(self) -> int:
        return sum(one.thing.size_bytes for one in self.verdicts if not one.keep and one.thing.frees)

    def totals(self) -> list["Total"]:
        found = {kind: Total(kind) for kind in Kind}
        for one in self.verdicts:
            found[one.thing.kind].add(one)
        return [total for total in found.values() if total.kept or total.going]


@dataclass
class Total:
    """Of one kind in one place."""

    kind: Kind
    kept: int = 0
    kept_bytes: int = 0
    going: int = 0
    going_bytes: int = 0

    def add(self, verdict: Verdict) -> None:
        if verdict.keep:
            self.kept += verdict.thing.count
            self.kept_bytes += verdict.thing.size_bytes
        else:
            self.going += verdict.thing.count
            self.going_bytes += verdict.thing.size_bytes


@dataclass
class Swept:
    removed: list[Verdict] = field(default_factory=list)
    stayed: list[tuple[Verdict, str]] = field(default_factory=list)
    """With what has come between."""
    failed: list[tuple[Verdict, ExpectedError]] = field(default_factory=list)
    unfinished: bool = False


class AlreadyAtIt(Exception):
    """Another process is removing things in this place."""


def survey(server: Server | None, *, also_unknown: bool = False, ending: int = 0) -> Survey:
    """Of a server, or of the portal's own machine and database (None). Changes nothing. Raises `ExpectedError`.

    `ending`: a deployment that is about to end, having changed nothing, and asks what there will be then.
    """
    if server is None:
        return _portal(also_unknown)
    scene = look_at(server, ending)
    things: list[Thing] = [
        *on_server.snapshots(scene),
        *on_server.images(scene),
        *strays.databases(scene),
        *strays.volumes(scene),
        *strays.containers(scene),
    ]
    free, wanted = scene.runtime.facts().disk_free_bytes, _wanted(scene, things)
    verdicts = judge(things, free=free, wanted=wanted, also_unknown=also_unknown)
    return Survey(str(server), free, wanted, tuple(verdicts))


def look_at(server: Server, ending: int = 0) -> Scene:
    runtime = runtime_for(server)
    # What the server has comes first: what is made in between is then not taken for something that no row knows.
    sizes = runtime.databases.sizes()
    containers = tuple(runtime.containers.list({NAMESPACE_LABEL: settings.OCORE_NAMESPACE}))
    environments = tuple(Environment.objects.filter(server=server).select_related("project", "server"))
    others = tuple(one for one in clusters.sharing(server) if one != server)
    return Scene(server, runtime, environments, needs_of(environments, ending=ending), sizes, containers, others)


def _wanted(scene: Scene, things: list[Thing]) -> int:
    """Enough for the next snapshot of the largest database, and for the next build: else both would be refused."""
    own = [scene.sizes.get(environment.database, 0) for environment in scene.environments]
    database = max(own, default=0) if scene.local_databases else 0
    image = max((thing.size_bytes for thing in things if thing.kind == Kind.IMAGE), default=0)
    usual: int = settings.OCORE_KEEP_FREE_BYTES
    least: int = settings.OCORE_MIN_FREE_BYTES
    return max(usual, least + max(2 * database, image))


def _portal(also_unknown: bool) -> Survey:
    environments = list(Environment.objects.select_related("project"))
    needs = needs_of(environments)
    things: list[Thing] = [
        *on_portal.dumps(environments, needs),
        *on_portal.copies_of_repositories(),
        *on_portal.builds(),
        *records.deployments(environments, needs),
        *records.logs(environments, needs),
        *records.deliveries(),
        *records.probes(environments),
    ]
    free = shutil.disk_usage(settings.STATE_DIR).free
    wanted: int = settings.OCORE_KEEP_FREE_BYTES
    verdicts = judge(things, free=free, wanted=wanted, also_unknown=also_unknown)
    return Survey("The portal", free, wanted, tuple(verdicts))


def sweep(
    server: Server | None,
    *,
    also_unknown: bool = False,
    budget: float = BUDGET_SECONDS,
    say: Callable[[str], None] = logger.info,
) -> Swept:
    """Remove what may go, the oldest first. Raises `AlreadyAtIt`, and `ExpectedError` when the place can't be seen."""
    name = server.slug if server else "the-portal"

    def busy() -> None:
        raise AlreadyAtIt(f"Another process is at it on {server or 'the portal'}")

    with file_lock(Path(settings.STATE_DIR) / "locks" / f"retention-{name}.lock", busy):
        going = [one for one in survey(server, also_unknown=also_unknown).verdicts if not one.keep]
        going.sort(key=lambda one: (one.thing.kind in ROWS, one.thing.since.timestamp() if one.thing.since else 0.0))
        return _remove(going, time.monotonic() + budget, say)


def _remove(going: list[Verdict], deadline: float, say: Callable[[str], None]) -> Swept:
    done = Swept()
    for verdict in going:
        if time.monotonic() > deadline:
            done.unfinished = True
            break
        thing = verdict.thing
        try:
            thing.remove()
        except StillNeeded as reason:
            done.stayed.append((verdict, str(reason)))
        except ServerUnreachable:
            raise
        except ExpectedError as error:
            logger.warning("%s %s could not be removed: %s", thing.kind, thing.name, error.message)
            done.failed.append((verdict, error))
        else:
            done.removed.append(verdict)
            if thing.kind not in ROWS:
                say(f"{thing.name} {verdict.sentence}")
    return done
