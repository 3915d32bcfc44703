"""A server's snapshots and images: what each is, and how it goes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from deployments.images import lock_of
from deployments.models import Deployment, Snapshot
from deployments.retention.needs import Needs, needs_of
from deployments.retention.verdicts import Kind, StillNeeded, Thing
from deployments.states import Status
from instances.runtimes.base import Container, Image, Runtime
from ocore.locks import file_lock
from projects.models import Environment, Project, Server

State = Snapshot.State
DUMPING = timedelta(days=1)
"""So long a snapshot waits for its dump, which is made from it."""


@dataclass(frozen=True)
class Scene:
    """A server at one instant: what it said, and what the rows say of it."""

    server: Server
    runtime: Runtime
    environments: tuple[Environment, ...]
    needs: Needs
    sizes: dict[str, int]
    """Of its databases, in bytes."""
    containers: tuple[Container, ...]
    others: tuple[Server, ...] = ()
    """Those whose databases lie in the same PostgreSQL."""

    @property
    def local_databases(self) -> bool:
        """They lie on the server's own disk."""
        return not self.server.postgres_dsn


def snapshots(scene: Scene) -> Iterator[Thing]:
    rows = Snapshot.objects.filter(
        environment__in=scene.environments, state__in=[State.TAKING, State.READY, State.REMOVING]
    ).select_related("deployment")
    by_pk = {environment.pk: environment for environment in scene.environments}
    for snapshot in rows:
        environment = by_pk[snapshot.environment_id]
        yield Thing(
            kind=Kind.SNAPSHOT,
            name=snapshot.database,
            of=str(environment),
            since=snapshot.taken_at,
            # The files are hard links: they cost what was deleted since, which nobody has counted.
            size_bytes=scene.sizes.get(snapshot.database, 0),
            frees=scene.local_databases,
            group=environment.pk,
            needed=scene.needs.of_snapshot(snapshot) or _awaits_dump(snapshot),
            over={
                State.REMOVING: "its removal had begun",
                State.TAKING: f"#{snapshot.deployment_id} ended before it was complete",
            }.get(State(snapshot.state), ""),
            remove=lambda snapshot=snapshot, environment=environment: _remove_snapshot(  # type: ignore[misc]
                snapshot, environment, scene.runtime
            ),
        )


def _awaits_dump(snapshot: Snapshot) -> str:
    waits = (
        snapshot.state == State.READY
        and not (snapshot.dump_path or snapshot.dump_problem or snapshot.dump_removed_at)
        and snapshot.deployment.status == Status.SUCCEEDED
        and timezone.now() - snapshot.taken_at < DUMPING
    )
    return "its dump is still to be made from it" if waits else ""


def _remove_snapshot(snapshot: Snapshot, environment: Environment, runtime: Runtime) -> None:
    """The row first: from then on no rollback can choose it, and whoever comes after a crash finishes."""
    with transaction.atomic():
        # The row that a request for a rollback locks too: one of the two sees the other.
        locked = Environment.objects.select_for_update().get(pk=environment.pk)
        reason = needs_of([locked]).of_snapshot(snapshot)
        if reason:
            raise StillNeeded(reason)
        begun = Snapshot.objects.filter(pk=snapshot.pk, state__in=[State.TAKING, State.READY, State.REMOVING])
        if not begun.update(state=State.REMOVING):
            raise StillNeeded("somebody else has just dealt with it")
    runtime.databases.drop(snapshot.database)
    runtime.filestores.discard(environment.volume, snapshot.label)
    Snapshot.objects.filter(pk=snapshot.pk, state=State.REMOVING).update(state=State.GONE)


@dataclass
class _Use:
    """What the rows say of an image."""

    last: datetime
    base: str


def images(scene: Scene) -> Iterator[Thing]:
    """Those that were built of a project's commit."""
    found = [image for image in scene.runtime.images.list() if image.labels.get("io.ocore.project")]
    rows = Deployment.objects.filter(environment__in=scene.environments, image__in=[one.reference for one in found])
    uses: dict[str, _Use] = {}
    for reference, created, base in rows.order_by("pk").values_list("image", "created_at", "base_image_id"):
        uses[reference] = _Use(last=created, base=base or (uses[reference].base if reference in uses else ""))
    projects = {project.slug: project for project in Project.objects.only("slug", "name")}
    bases: dict[str, int] = {}
    for image in found:
        use, slug = uses.get(image.reference), image.labels["io.ocore.project"]
        yield Thing(
            kind=Kind.IMAGE,
            name=image.reference,
            of=str(projects.get(slug, slug)),
            since=use.last if use else None,
            size_bytes=_own_size(scene.runtime, image, use, bases),
            group=slug,
            needed=_image_needed(scene.needs, image.reference, projects.get(slug), known=use is not None)
            or _stood_on(scene, image),
            over=""
            if use
            else "no deployment on record has it"
            if slug in projects
            else f"there is no project {slug} any more",
            remove=lambda image=image: _remove_image(scene, image),  # type: ignore[misc]
        )


def _own_size(runtime: Runtime, image: Image, use: _Use | None, bases: dict[str, int]) -> int:
    """Without the base image below it, which stays."""
    base = use.base if use else ""
    if base and base not in bases:
        below = runtime.images.find(base)
        bases[base] = below.size_bytes if below else 0
    return max(0, image.size_bytes - bases.get(base, 0))


def _image_needed(needs: Needs, reference: str, project: Project | None, *, known: bool) -> str:
    if reference in needs.images:
        return needs.images[reference]
    if not known and project is not None and project.pk in needs.building:
        return f"a deployment of {project} is underway and may just have built it"
    return ""


def _stood_on(scene: Scene, image: Image) -> str:
    above = next((one.name for one in scene.containers if one.image_id in (image.id, image.reference)), "")
    return f"the container {above} stands on it" if above else ""


def _remove_image(scene: Scene, image: Image) -> None:
    """Under the lock of whoever builds it or takes it for a deployment; it isn't waited for. There is no row to mark:
    the engine's own list says what is left to do."""

    def busy() -> None:
        raise StillNeeded("a deployment is about to use it")

    with file_lock(lock_of(image.reference), busy):
        needs = needs_of(scene.environments)
        project = Project.objects.filter(slug=image.labels["io.ocore.project"]).first()
        known = Deployment.objects.filter(environment__in=scene.environments, image=image.reference).exists()
        reason = _image_needed(needs, image.reference, project, known=known)
        if reason:
            raise StillNeeded(reason)
        scene.runtime.images.remove(image.reference)
