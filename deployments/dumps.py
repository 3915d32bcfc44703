"""A portable dump of each snapshot, made from its clone, off every critical path."""

import logging
from pathlib import Path

from django.conf import settings

from deployments.models import Snapshot
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from ocore.redaction import redact

logger = logging.getLogger(__name__)


def dump_for(deployment: int) -> None:
    """Dump the snapshot that was taken before this deployment. A failure is kept on the snapshot's row, and shown."""
    snapshot = (
        Snapshot.objects.filter(deployment=deployment, state=Snapshot.State.READY, dump_path="")
        .select_related("environment__server", "environment__project")
        .first()
    )
    if snapshot is None:
        return
    environment = snapshot.environment
    name = f"{environment.key}-{snapshot.taken_at:%Y%m%d-%H%M%S}-{snapshot.label}.dump"
    target = Path(settings.STATE_DIR) / "dumps" / environment.key / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        facts = runtime_for(environment.server).databases.dump(snapshot.database, target, logger.info)
    except ExpectedError as error:
        logger.warning("%s could not be dumped: %s", snapshot, error)
        Snapshot.objects.filter(pk=snapshot.pk).update(dump_problem=redact(f"{error.message} {error.detail}"))
        return
    Snapshot.objects.filter(pk=snapshot.pk).update(
        dump_path=str(target.relative_to(settings.STATE_DIR)),
        dump_sha256=facts.sha256,
        dump_bytes=facts.size_bytes,
        dump_problem="",
    )
