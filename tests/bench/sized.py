"""Environments with as much data as wanted: Odoo's initialised database, tables beside it, and a filestore."""

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from django.conf import settings

from instances import templates
from instances.runtimes import runtime_for
from instances.runtimes.base import NAMESPACE_LABEL, ContainerSpec, Runtime
from ocore import waiting
from projects.models import Environment
from tests.bench.cast import BenchFailed, Cast

MB = 10**6
BYTES_PER_ROW = 246
"""Of the tables below, their indexes included, as PostgreSQL 17 stores them."""
ROWS_PER_TABLE = 800_000
FILES = 200
"""At least; else two per MB of the database, of 16 KB each."""
FOLDERS = 20
FILE_BYTES = 16 * 1024
FILES_SECONDS = 300.0

# Random text, so that a dump can't compress it away; indexes, so that a restore has to build some.
TABLE_SQL = """
CREATE TABLE bench_{number} AS
SELECT n AS id, n % 997 AS partner, date '2020-01-01' + n % 2000 AS day, random() * 1000 AS amount,
       md5(random()::text) AS name, 'Entry ' || n || ' of ' || md5(random()::text) AS note
FROM generate_series(1, {rows}) AS n;
ALTER TABLE bench_{number} ADD PRIMARY KEY (id);
CREATE INDEX ON bench_{number} (partner, day);
CREATE INDEX ON bench_{number} (name);
"""
UPDATE_SQL = """
CREATE TABLE bench_update AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 20000) AS n;
ALTER TABLE res_partner ADD COLUMN bench varchar;
UPDATE ir_module_module SET latest_version = '0.0' WHERE state = 'installed';
"""
"""What an update does to a database, and so what is taken back: the same at every size."""

FILES_SCRIPT = """
set -eu
cd "$1/filestore"
owner=$(stat -c %u:%g .)
for folder in $(seq -w 1 "$3"); do
  mkdir -p "$2/$folder"
  head -c "$(($4 * $5))" /dev/urandom | split -b "$5" -a 3 - "$2/$folder/$6"
done
chown -R "$owner" "$2"
"""


def label(megabytes: int) -> str:
    return f"{megabytes / 1000:g} GB" if megabytes >= 1000 else f"{megabytes} MB"


def tables(missing_bytes: int) -> list[int]:
    """Rows of each table that together have about so many bytes, as many in each."""
    rows = max(0, missing_bytes) // BYTES_PER_ROW
    number = math.ceil(rows / ROWS_PER_TABLE)
    return [rows // number] * number if number else []


def files_of(megabytes: int) -> int:
    return max(FILES, 2 * megabytes)


def needed_bytes(megabytes: int) -> int:
    """On the server: the database and its clone or copy, the dump, both filestores, the log, and a rest."""
    return 3 * megabytes * MB + 6 * 1000 * MB


@contextmanager
def sized(cast: Cast, megabytes: int) -> Iterator[Environment]:
    """Gone at the end, so that the next one finds the room."""
    name = label(megabytes)
    environment = Environment.objects.create(
        project=cast.environment.project,
        server=cast.environment.server,
        name=name,
        slug=name.lower().replace(" ", "").replace(".", "-"),
        branch="main",
        auto_deploy=False,
    )
    runtime = runtime_for(environment.server)
    try:
        with cast.progress.step(f"Making a database of {name}"):
            _make(environment, runtime, megabytes)
        yield environment
    finally:
        with waiting.undisturbed():
            runtime.databases.drop(environment.database)
            runtime.databases.drop_role(environment.database)
            runtime.filestores.remove(environment.volume)
        environment.delete()


def _make(environment: Environment, runtime: Runtime, megabytes: int) -> None:
    name, databases = environment.database, runtime.databases
    version = settings.OCORE_DEFAULTS["odoo_version"]
    template = templates.ensure(runtime, environment.base_image, version, lambda _: None, lambda: None)
    databases.create_role(name, environment.database_password)
    databases.create(name, name, template.database, template.owner)
    rows = tables(megabytes * MB - databases.size(name))
    waiting.together(
        *[
            partial(databases.query, name, TABLE_SQL.format(number=number, rows=each))
            for number, each in enumerate(rows)
        ]
    )
    runtime.filestores.ensure(environment.volume, environment.base_image)
    add_files(environment, runtime, files_of(megabytes) // FOLDERS, FOLDERS)


def update(environment: Environment) -> None:
    """As a module's update: a table, a column, versions, some files."""
    runtime = runtime_for(environment.server)
    runtime.databases.query(environment.database, UPDATE_SQL)
    add_files(environment, runtime, 5, 1)


def add_files(environment: Environment, runtime: Runtime, each: int, folders: int) -> None:
    """So many new ones in each of so many folders, in one container."""
    token = secrets.token_hex(4)
    spec = ContainerSpec(
        name=f"{environment.volume}-fill-{token}",
        image=settings.OCORE_POSTGRES_IMAGE,
        entrypoint=["sh", "-c", FILES_SCRIPT, "sh", "/data"],
        command=[environment.database, str(folders), str(each), str(FILE_BYTES), token],
        user="0:0",
        volumes={environment.volume: "/data"},
        labels={NAMESPACE_LABEL: settings.OCORE_NAMESPACE},
        capabilities=["CHOWN", "DAC_OVERRIDE", "FOWNER"],
    )
    done = runtime.containers.run(spec, lambda _: None, timeout=FILES_SECONDS, silence=FILES_SECONDS)
    if not done.ok:
        raise BenchFailed(f"The files of {environment} could not be made.", detail=done.output)
