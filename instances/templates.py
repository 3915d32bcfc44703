"""An initialised database per Odoo image: only the very first environment on a server waits for Odoo's 20 seconds."""

import contextlib
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from instances import processes
from instances.odoo import commands, config, queries
from instances.odoo.versions import series
from instances.runtimes.base import (
    HOLDER_LABEL,
    NAMESPACE_LABEL,
    ContainerSpec,
    DatabaseError,
    File,
    ImageMissing,
    Log,
    RunFailed,
    Runtime,
)
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.locks import file_lock
from ocore.machine.processes import own_name

INIT_SECONDS = 900.0
INIT_SILENCE_SECONDS = 300.0
PREFIX, DRAFT = "ocore_base_", "_draft"


@dataclass(frozen=True)
class Template:
    database: str
    owner: str


def ensure(runtime: Runtime, image: str, version: str, log: Log, check: Callable[[], None]) -> Template:
    """The template of this image on this server, made if it isn't there. Raises `RunFailed`, `DatabaseError`."""
    runtime.images.ensure_base(image, log)
    name = name_for(runtime, image)
    template = Template(database=name, owner=name)
    with file_lock(lock_of(name)):
        check()
        if runtime.databases.exists(name):
            return template
        log(f"Initialising a database for {image}: once for this image on this server, about 20 seconds.")
        made = False
        try:
            _initialise(runtime, image, version, name, log)
            made = True
        finally:
            if not made:
                _tidy(runtime, name)
    return template


def forget_drafts(runtime: Runtime, log: Log, others_at_work: Callable[[], bool]) -> None:
    """Away with what a worker that died while it initialised a database has left; what somebody is at stays. The locks
    tell that of this machine only; `others_at_work`, asked once the drafts are known, of every other one."""
    drafts = [name for name in runtime.databases.list() if name.startswith(PREFIX) and name.endswith(DRAFT)]
    if not drafts or others_at_work():
        return
    for name in (draft.removesuffix(DRAFT) for draft in drafts):
        with contextlib.suppress(_AtWork), file_lock(lock_of(name), _not_now):
            log(f"Removing {name}{DRAFT}, which nobody finishes any more.")
            runtime.containers.remove(_container(name))
            runtime.databases.drop(f"{name}{DRAFT}")


class _AtWork(Exception):
    """Somebody initialises it just now."""


def _not_now() -> None:
    raise _AtWork


def _container(name: str) -> str:
    return f"{settings.OCORE_NAMESPACE}-{name.replace('_', '-')}"


def lock_of(name: str) -> Path:
    """Of the file that whoever makes or removes this template holds."""
    return Path(settings.STATE_DIR) / "locks" / f"{name}.lock"


def name_for(runtime: Runtime, image: str) -> str:
    """Of the template's database. Raises `ImageMissing` when the server doesn't have the image."""
    return f"{PREFIX}{hashlib.sha256(image_id(runtime, image).encode()).hexdigest()[:12]}"


def image_id(runtime: Runtime, image: str) -> str:
    """Of the image that the name stands for now, and its template is made with. Raises `ImageMissing`."""
    found = runtime.images.find(image)
    if found is None:
        raise ImageMissing(f"The image {image} is not on the server.")
    return found.id


def _tidy(runtime: Runtime, name: str) -> None:
    """No draft stays; what can't be removed now is removed before the next attempt."""
    with contextlib.suppress(ExpectedError), waiting.undisturbed():
        runtime.databases.drop(f"{name}{DRAFT}")
        runtime.databases.drop_role(name)


def _initialise(runtime: Runtime, image: str, version: str, name: str, log: Log) -> None:
    """Under another name first: a half-made template must never be taken for a whole one."""
    draft, password = f"{name}{DRAFT}", secrets.token_urlsafe(32)
    runtime.databases.drop(draft)
    runtime.databases.drop_role(name)
    runtime.databases.create_role(name, password)
    runtime.databases.create(draft, name)
    for statement in queries.EXTENSIONS_SQL:
        runtime.databases.query(draft, statement)
    conf = config.render_config(
        config.OdooConfig(
            series=series(version),
            db_host=runtime.databases.host,
            db_port=runtime.databases.port,
            db_user=name,
            db_password=password,
            db_name=draft,
            admin_passwd=config.password_hash(secrets.token_urlsafe(24), rounds=1000),
            data_dir="/tmp/odoo",  # noqa: S108 - in a container that is gone a moment later
            addons_path=(),
        )
    )
    spec = ContainerSpec(
        name=_container(name),
        image=image,
        command=tuple(commands.then_files_into_database(commands.initialise(series(version)))),
        entrypoint=(),
        files=(File(config.CONFIG_PATH, conf.encode(), mode=0o444),),
        network=runtime.network,
        labels={
            NAMESPACE_LABEL: settings.OCORE_NAMESPACE,
            HOLDER_LABEL: own_name(),
            "io.ocore.role": "template",
        },
        memory_bytes=2 * 1024**3,
        pids=processes.ODOO_PIDS,
    )
    runtime.containers.remove(spec.name)
    exit = runtime.containers.run(spec, log, timeout=INIT_SECONDS, silence=INIT_SILENCE_SECONDS)
    if not exit.ok or not runtime.databases.query(draft, queries.IS_INITIALISED_SQL):
        raise RunFailed(
            f"Odoo could not initialise a database with the image {image}.",
            detail=exit.output[-2000:],
            advice="Read the log above; an image that is not an Odoo of this version is the usual reason.",
        )
    pending = queries.module_rows(runtime.databases.query(draft, queries.PENDING_MODULES_SQL))
    if runtime.databases.query(draft, queries.FILES_OUTSIDE_SQL):
        raise DatabaseError("Odoo left files of the new database outside of it; copies would miss them.")
    if pending:
        raise DatabaseError(f"Odoo left modules half installed: {', '.join(row.name for row in pending)}.")
    runtime.databases.rename(draft, name)
