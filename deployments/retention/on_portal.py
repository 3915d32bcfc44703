"""What lies on the portal's machine: dumps, copies of repositories, build folders."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db.models import Max
from django.utils import timezone

from deployments.models import Deployment, Snapshot
from deployments.retention.needs import Needs
from deployments.retention.strays import UNKNOWN
from deployments.retention.verdicts import Kind, StillNeeded, Thing
from deployments.states import UNDERWAY
from projects import mirrors
from projects.models import Environment, Project, Repository

PARTIAL = timedelta(days=1)
"""So long a file that is being written may lie there half-made."""


def dumps(environments: list[Environment], needs: Needs) -> Iterator[Thing]:
    by_pk = {environment.pk: environment for environment in environments}
    rows = Snapshot.objects.exclude(dump_path="").order_by("-taken_at")
    known, newest = set(), set()
    for snapshot in rows:
        environment = by_pk.get(snapshot.environment_id) or snapshot.environment
        path = Path(settings.STATE_DIR) / snapshot.dump_path
        known.add(path)
        first = snapshot.environment_id not in newest and snapshot.dump_removed_at is None
        if first:
            newest.add(snapshot.environment_id)
        yield Thing(
            kind=Kind.DUMP,
            name=snapshot.dump_path,
            of=str(environment),
            since=snapshot.taken_at,
            size_bytes=snapshot.dump_bytes or 0,
            group=snapshot.environment_id,
            needed=needs.environments.get(snapshot.environment_id) or (f"the newest of {environment}" if first else ""),
            over="its removal had begun" if snapshot.dump_removed_at else "",
            remove=lambda pk=snapshot.pk, path=path: _remove_dump(pk, path),  # type: ignore[misc]
        )
    yield from _other_files(known)


def _other_files(known: set[Path]) -> Iterator[Thing]:
    folder = Path(settings.STATE_DIR) / "dumps"
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path in known or not path.is_file():
            continue
        since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        partial = path.suffix == ".partial"
        young = timezone.now() - since < PARTIAL
        yield Thing(
            kind=Kind.DUMP,
            name=str(path.relative_to(settings.STATE_DIR)),
            of="",
            since=since,
            size_bytes=path.stat().st_size,
            needed="it was written less than a day ago" if young else "",
            over="a dump that was never completed" if partial else "",
            unknown="" if partial else UNKNOWN,
            remove=lambda path=path: path.unlink(missing_ok=True),  # type: ignore[misc]
        )


def _remove_dump(pk: int, path: Path) -> None:
    """The row says it first, and last that it is done."""
    rows = Snapshot.objects.filter(pk=pk).exclude(dump_path="")
    rows.filter(dump_removed_at=None).update(dump_removed_at=timezone.now())
    path.unlink(missing_ok=True)
    rows.update(dump_path="")


def copies_of_repositories() -> Iterator[Thing]:
    projects = {project.slug: project for project in Project.objects.only("slug", "name", "repository_url")}
    further = {one.mirror_name: one for one in Repository.objects.select_related("project")}
    live = set(Deployment.objects.filter(live=True).values_list("environment__project", flat=True))
    live |= set(Deployment.objects.filter(status__in=UNDERWAY).values_list("environment__project", flat=True))
    last = dict(Deployment.objects.order_by().values_list("environment__project").annotate(last=Max("created_at")))
    for name in mirrors.kept():
        slug, _, of_further = name.partition(mirrors.FURTHER)
        project = projects.get(slug)
        over = _without_owner(slug, of_further, project, known=name in further)
        since, size = mirrors.facts(name)
        yield Thing(
            kind=Kind.MIRROR,
            name=f"mirrors/{name}.git",
            of=f"{project or slug}{f': {of_further}' if of_further else ''}",
            since=max(since, last.get(project.pk) or since) if project else since,
            size_bytes=size,
            group=name,
            needed=f"{project} runs, and a rollback may need a commit that its repository has forgotten"
            if project and project.pk in live and not over
            else "",
            over=over,
            remove=lambda name=name: _remove_mirror(name),  # type: ignore[misc]
        )


def _without_owner(slug: str, of_further: str, project: Project | None, *, known: bool) -> str:
    if project is None:
        return f"there is no project {slug} any more"
    if of_further:
        return "" if known else f"{project} has no further repository {of_further} any more"
    return "" if project.repository_url else f"{project} has no repository any more"


def _remove_mirror(name: str) -> None:
    """Only a copy: what is needed again is fetched again."""
    slug, _, of_further = name.partition(mirrors.FURTHER)

    def for_good() -> bool:
        """Whoever claims a deployment from here on waits for the lock, and fetches anew."""
        if Deployment.objects.filter(environment__project__slug=slug, status__in=UNDERWAY).exists():
            raise StillNeeded("a deployment of its project is underway")
        if of_further:
            return not Repository.objects.filter(project__slug=slug, name=of_further).exists()
        return not Project.objects.filter(slug=slug).exists()

    if not mirrors.remove(name, for_good=for_good):
        raise StillNeeded("it is just being fetched")


def builds() -> Iterator[Thing]:
    folder = Path(settings.STATE_DIR) / "builds"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        yield Thing(
            kind=Kind.BUILD,
            name=f"builds/{path.name}",
            of="",
            since=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            size_bytes=mirrors.size_of(path),
            needed=_building(path),
            over="its build is over",
            remove=lambda path=path: _remove_build(path),  # type: ignore[misc]
        )


def _building(path: Path) -> str:
    pk = int(path.name) if path.name.isascii() and path.name.isdigit() else 0
    underway = Deployment.objects.filter(pk=pk, status__in=UNDERWAY).exists()
    return f"#{pk} is underway" if underway else ""


def _remove_build(path: Path) -> None:
    if reason := _building(path):
        raise StillNeeded(reason)
    shutil.rmtree(path, ignore_errors=True)
