"""What costs much to make and is the same for many tests is made once, kept, and copied into each: rows and files."""

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import apps
from django.db import connection, transaction
from django.db.models import DateTimeField, Model
from django.db.models.fields import AutoFieldMixin

from ocore.fields import EncryptedTextField
from projects.models import Environment, new_token

APPS = ("projects", "instances", "deployments")
REMOTE = "remote"
"""A test's own repository, in its folder: each has its own already."""


Rows = dict[str, tuple[list[str], list[tuple[Any, ...]]]]
"""By table: its columns, and what they hold."""


@dataclass(frozen=True)
class Kept:
    rows: Rows
    files: Path

    @classmethod
    def of(cls, state: Path, folder: Path) -> "Kept":
        """As they are now, the files in `state`; a copy of these is kept in `folder`."""
        shutil.copytree(state, folder, ignore=lambda at, _: [REMOTE] if Path(at) == state else [])
        return cls(_rows(), folder)

    def give(self, state: Path) -> None:
        """Instead of all rows of ours that are there now; and the files."""
        shutil.copytree(self.files, state, dirs_exist_ok=True)
        quote = connection.ops.quote_name
        with transaction.atomic(), connection.cursor() as cursor:
            for table, (columns, rows) in self.rows.items():
                cursor.execute(f"DELETE FROM {quote(table)}")  # noqa: S608
                if rows:
                    names, places = ", ".join(map(quote, columns)), ", ".join(["%s"] * len(columns))
                    cursor.executemany(f"INSERT INTO {quote(table)} ({names}) VALUES ({places})", rows)  # noqa: S608
            if connection.vendor == "postgresql":  # it doesn't look at the numbers that are there
                _count_from(cursor, {table: f"(SELECT MAX(id) FROM {quote(table)})" for table in _numbered()})  # noqa: S608


def traits(environment: Environment) -> tuple[Any, ...]:
    """What makes one world another: how many rows there are of what, and all that those of an environment say, but for
    secrets, times and the test's folder."""
    rows = [environment.server, environment.project, environment, *environment.instances.order_by("pk")]
    said = (
        (field.attname, repr(getattr(row, field.attname)))
        for row in rows
        for field in row._meta.concrete_fields
        if field.default is not new_token
        and not isinstance(field, DateTimeField | EncryptedTextField)
        and field.attname != "repository_url"
    )
    quote = connection.ops.quote_name
    counts = ", ".join(f"(SELECT COUNT(*) FROM {quote(table)})" for table in _tables())  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {counts}")
        return cursor.fetchone(), *said


def exactly(state: Path, url: str) -> tuple[str, ...]:
    """All that there is in rows and on simulated servers: of two copies the same, until one is changed. `url`: where
    the test has its repository."""
    servers = [path.read_text() for path in sorted(state.glob("simulated/*.json"))]
    return repr(_rows()).replace(url, ""), *servers


def _rows() -> Rows:
    found = {}
    with connection.cursor() as cursor:
        for table in _tables():
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608 - our own names
            found[table] = [column[0] for column in cursor.description], cursor.fetchall()
    return found


def number_apart() -> None:
    """Rows of each table get numbers of their own, the same in every test: no two kinds are both 1, and what is
    copied meets the numbers that it had."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("DELETE FROM sqlite_sequence")
            rows = [(table, 100 * number) for number, table in enumerate(_tables(), 1)]
            cursor.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", rows)
        else:
            _count_from(cursor, {table: str(100 * number) for number, table in enumerate(_tables(), 1)})


def _count_from(cursor: Any, highest: dict[str, str]) -> None:
    """PostgreSQL's sequences go on after these, each an expression; where it is null, from where they are."""
    said = (f"setval(pg_get_serial_sequence('{table}', 'id'), {highest[table]})" for table in _numbered())
    cursor.execute(f"SELECT {', '.join(said)}")


@cache
def _numbered() -> list[str]:
    return [table for table, model in _models().items() if isinstance(model._meta.pk, AutoFieldMixin)]


def _tables() -> list[str]:
    return list(_models())


@cache
def _models() -> dict[str, type[Model]]:
    configs = [apps.get_app_config(name) for name in APPS]
    return {model._meta.db_table: model for one in configs for model in one.get_models(include_auto_created=True)}
