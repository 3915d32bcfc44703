"""What else carries our label on a server: databases, volumes and containers, those that run and those left over.

What nothing on record knows is told, and left: after the portal's records were put back from an older backup it
may be a client's. A person has it removed with `./manage.py retention --unknown`.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from deployments.at_work import underway_on
from deployments.models import Snapshot
from deployments.retention.needs import needs_of
from deployments.retention.on_server import Scene, State
from deployments.retention.verdicts import Kind, StillNeeded, Thing
from instances import templates
from instances.filestore import VOLUME_LABEL
from instances.models import Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import HOLDER_LABEL, Container, ImageMissing, ServerUnreachable, aside_name
from ocore.locks import file_lock
from ocore.machine.processes import is_dead
from projects.models import Environment

UNKNOWN = "nothing on record knows it, and it may be a client's: look at it, then ./manage.py retention --unknown"
TEMPLATE = re.compile(r"(ocore_base_[0-9a-f]{12})(_draft)?")
SNAPSHOT = re.compile(r"(.+)__s([0-9]+)")


def databases(scene: Scene) -> Iterator[Thing]:
    """All but the snapshots that are kept: these are things of their own."""
    own = {environment.database: environment for environment in scene.environments if not environment.shares_data}
    rows = Snapshot.objects.filter(environment__in=scene.environments)
    snapshots = {row.database: row for row in rows.only("database", "state", "taken_at", "environment_id")}
    elsewhere, wanted = _elsewhere(scene), _wanted_templates(scene)
    for name, size in scene.sizes.items():
        if name in elsewhere:
            continue
        snapshot = snapshots.get(name)
        if snapshot is not None and snapshot.state in (State.TAKING, State.READY, State.REMOVING):
            continue
        drop = lambda name=name: scene.runtime.databases.drop(name)  # noqa: E731
        thing = _Made(scene, Kind.DATABASE, name, size)
        if name in own:
            yield thing(drop, of=str(own[name]), needed=f"the database of {own[name]}")
        elif template := TEMPLATE.fullmatch(name):
            yield _template(scene, thing, template[1], draft=bool(template[2]), wanted=wanted)
        elif snapshot is not None:
            environment = own[SNAPSHOT.sub(r"\1", name)]
            yield thing(
                _unless_touched(environment, drop),
                of=str(environment),
                since=snapshot.taken_at,
                needed=scene.needs.environments.get(environment.pk, ""),
            )
        elif aside := next((one for base, one in own.items() if name == aside_name(base)), None):
            yield thing(
                _unless_touched(aside, drop),
                of=str(aside),
                needed=scene.needs.environments.get(aside.pk, ""),
                over="a rollback has put it aside for good",
            )
        else:
            yield thing(drop, unknown=UNKNOWN)


def _elsewhere(scene: Scene) -> set[str]:
    """Databases of the environments of other servers in the same PostgreSQL: a look at those servers tells of them."""
    rows = Environment.objects.filter(server__in=scene.others).select_related("project")
    own = {environment.database for environment in rows}
    copies = Snapshot.objects.filter(environment__in=rows).values_list("database", flat=True)
    return {*own, *map(aside_name, own), *copies}


class _Made:
    """A thing of this kind, name and size, with what differs."""

    def __init__(self, scene: Scene, kind: Kind, name: str, size: int = 0) -> None:
        self._scene, self._kind, self.name, self._size = scene, kind, name, size

    def __call__(self, remove: Callable[[], None], **more: object) -> Thing:
        said: dict[str, object] = {"of": "", "since": None} | more
        frees = self._kind != Kind.DATABASE or self._scene.local_databases
        return Thing(
            kind=self._kind,
            name=self.name,
            remove=remove,
            size_bytes=self._size,
            frees=frees,
            **said,  # type: ignore[arg-type]
        )


def _unless_touched(environment: Environment, act: Callable[[], None]) -> Callable[[], None]:
    def remove() -> None:
        with transaction.atomic():
            locked = Environment.objects.select_for_update().filter(pk=environment.pk).first()
            reason = needs_of([locked]).environments.get(locked.pk) if locked else ""
        if reason:
            raise StillNeeded(reason)
        act()

    return remove


def _wanted_templates(scene: Scene) -> set[str] | None:
    """Of the images that a first deployment would stand on now; None: a server that shares them cannot be asked."""
    default = settings.OCORE_ODOO_IMAGE.replace("{version}", settings.OCORE_DEFAULTS["odoo_version"])
    wanted = set()
    for server in (scene.server, *scene.others):
        runtime = scene.runtime if server == scene.server else runtime_for(server)
        environments = Environment.objects.filter(server=server).select_related("project")
        for reference in {default, *(environment.base_image for environment in environments)}:
            try:
                wanted.add(templates.name_for(runtime, reference))
            except ImageMissing:
                continue
            except ServerUnreachable:
                if server == scene.server:
                    raise
                return None
    return wanted


def _template(scene: Scene, thing: _Made, name: str, *, draft: bool, wanted: set[str] | None) -> Thing:
    servers = (scene.server, *scene.others)

    def remove() -> None:
        def busy() -> None:
            raise StillNeeded("it is just being made")

        with file_lock(templates.lock_of(name), busy):
            if underway_on(servers):
                raise StillNeeded("a deployment is underway on the server")
            scene.runtime.databases.drop(thing.name)
            if not draft:
                scene.runtime.databases.drop_role(name)

    needed = ""
    if wanted is None and not draft:
        needed = "another server with the same PostgreSQL does not answer, and may need it"
    elif wanted and name in wanted and not draft:
        needed = "new environments begin as a copy of it"
    elif underway_on(servers):
        needed = "a deployment is underway on the server, and may begin with it"
    over = "it was never completed" if draft else "no environment's Odoo image is the one that it was made with"
    return thing(remove, needed=needed, over=over)


def volumes(scene: Scene) -> Iterator[Thing]:
    own = {environment.volume: environment for environment in scene.environments if not environment.shares_data}
    ours = {f"{settings.OCORE_NAMESPACE}-{name}" for name in ("edge", "limiter", "postgres")}
    for name in scene.runtime.filestores.volumes():
        thing = _Made(scene, Kind.VOLUME, name)
        remove = lambda name=name: scene.runtime.filestores.remove(name)  # noqa: E731
        if name in own:
            yield thing(remove, of=str(own[name]), needed=f"the files of {own[name]}, and of its snapshots")
        elif name in ours:
            yield thing(remove, needed="oCore's own")
        else:
            yield thing(remove, unknown=UNKNOWN)


def containers(scene: Scene) -> Iterator[Thing]:
    by_key = {environment.key: environment for environment in scene.environments}
    rows = Instance.objects.filter(environment__in=scene.environments).exclude(container="")
    serving = {instance.container: str(instance) for instance in rows.select_related("environment__project")}
    ours = {f"{settings.OCORE_NAMESPACE}-{name}" for name in ("edge", "limiter", "postgres", "pgtools")}
    for container in scene.containers:
        thing = _Made(scene, Kind.CONTAINER, container.name)
        key = container.labels.get("io.ocore.environment", "")
        remove = lambda name=container.name: scene.runtime.containers.remove(name)  # noqa: E731
        if container.name in serving:
            yield thing(remove, of=serving[container.name], needed=f"it is what runs as {serving[container.name]}")
        elif container.name in ours:
            yield thing(remove, needed="oCore's own")
        elif key in by_key:
            environment = by_key[key]
            yield thing(
                _unless_serving(environment, container.name, remove),
                of=str(environment),
                since=container.created_at,
                needed=scene.needs.environments.get(environment.pk) or young(container),
                over="left behind; it is not what serves",
            )
        elif _helper(container):
            yield thing(
                remove, since=container.created_at, needed=young(container), over="a worker that was killed left it"
            )
        else:
            yield thing(remove, since=container.created_at, unknown=UNKNOWN)


def _unless_serving(environment: Environment, name: str, act: Callable[[], None]) -> Callable[[], None]:
    def checked() -> None:
        if Instance.objects.filter(environment=environment, container=name).exists():
            raise StillNeeded("it serves now")
        act()

    return _unless_touched(environment, checked)


def _helper(container: Container) -> bool:
    """One that does a single thing and ends: at a volume, for a template, to measure the disk."""
    return (
        VOLUME_LABEL in container.labels
        or container.labels.get("io.ocore.role") == "template"
        or container.name.startswith(f"{settings.OCORE_NAMESPACE}-df-")
    )


def young(container: Container) -> str:
    """Nothing that a worker does takes longer than a deployment may; and nobody waits for what a dead one began."""
    if is_dead(container.labels.get(HOLDER_LABEL, "")):
        return ""
    hours = settings.OCORE_DEPLOYMENT_TIMEOUT / 3600
    if container.created_at and timezone.now() - container.created_at < timedelta(hours=hours):
        return f"made less than {hours:.0f} h ago, so somebody may be at work with it"
    return ""
