"""Is there room on the server for what comes next? Asked before it begins, by what such things take there today."""

from django.conf import settings

from deployments import queues
from deployments.models import Deployment
from deployments.retention.sweep import survey
from deployments.run import Run
from deployments.steps.base import DiskFull
from ocore.errors import ExpectedError
from ocore.forms import format_size

NOTHING_SPARE = (
    "Nothing on it could be removed without taking something that runs or that a rollback needs: give it more disk, or "
    "keep less (OCORE_KEEP_ROLLBACKS). ./manage.py retention --dry-run tells what takes it. Then deploy again."
)


def require_for_build(run: Run, free: int) -> None:
    """As much as the project's last image took beyond its base, and what must stay free. Raises `DiskFull`."""
    last = (
        Deployment.objects.filter(environment__project=run.environment.project_id)
        .filter(environment__server=run.environment.server_id)
        .exclude(image="")
        .exclude(base_image_id="")
        .values_list("image", "base_image_id")
        .first()
    )
    expected = 0
    if last and run.environment.project.repository_url:
        image, base = (run.runtime.images.find(reference) for reference in last)
        expected = max(0, image.size_bytes - (base.size_bytes if base else 0)) if image else 0
    _require(run, free, settings.OCORE_MIN_FREE_BYTES + expected)


def require_for_context(run: Run, size_bytes: int) -> None:
    """As much as is about to be put into the image: a further repository may be larger than all that there was. Raises
    `DiskFull`."""
    _require(run, run.runtime.facts().disk_free_bytes, settings.OCORE_MIN_FREE_BYTES + size_bytes)


def require_for_snapshot(run: Run) -> None:
    """The database once for its copy, and once more for what the update or the restored data take; files are linked and
    cost nothing. A PostgreSQL elsewhere has its own disk, which can't be seen. Raises `DiskFull`."""
    taken = snapshot_bytes(run) if run.ahead.snapshot_bytes is None else run.ahead.snapshot_bytes
    _require(run, run.runtime.facts().disk_free_bytes, settings.OCORE_MIN_FREE_BYTES + taken)


def snapshot_bytes(run: Run) -> int:
    """What it takes of the server's disk."""
    if run.environment.server.postgres_dsn:
        return 0
    size, restored = run.runtime.databases.size, run.deployment.restores or run.deployment.takes_from
    own = size(run.environment.database)
    return own + max(own, size(restored.database) if restored else 0)


def _require(run: Run, free: int, needed: int) -> None:
    if free >= needed:
        return
    server = run.environment.server
    raise DiskFull(
        f"{server} has {format_size(free)} of disk left; {format_size(needed)} are needed. Nothing was started.",
        advice=_advice(run),
    )


def _advice(run: Run) -> str:
    """What could be had, and that it is being had."""
    server = run.environment.server
    try:
        found = survey(server, ending=run.deployment.pk)
    except ExpectedError:
        return ""
    if not found.spare_bytes:
        return NOTHING_SPARE
    queues.enqueue_sweep(server.pk)
    return (
        f"{format_size(found.spare_bytes)} are taken by what no rollback needs: oCore removes the oldest of it now, as "
        "far as the room is needed. Deploy again in a minute; ./manage.py retention --dry-run tells what there is."
    )
