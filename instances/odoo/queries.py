"""The few questions and orders that go to an Odoo's database past Odoo: SQL, one statement each.

`ir_module_module`, `ir_config_parameter` and `res_users` have had these columns in all versions since 14.
"""

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import sql

from ocore.errors import ExpectedError

CHECKSUMS_KEY = "ocore.addon_checksums"

IS_INITIALISED_SQL = "SELECT 1 FROM pg_catalog.pg_class WHERE relname = 'ir_module_module' AND relkind = 'r'"
"""One row when Odoo has initialised the database."""

MODULE_ROWS_SQL = "SELECT name, state, COALESCE(latest_version, '') FROM ir_module_module ORDER BY name"

PENDING_MODULES_SQL = (
    "SELECT name, state, COALESCE(latest_version, '') FROM ir_module_module"
    " WHERE state IN ('to install', 'to upgrade', 'to remove') ORDER BY name"
)

EXTENSIONS_SQL = ("CREATE EXTENSION IF NOT EXISTS pg_trgm", "CREATE EXTENSION IF NOT EXISTS unaccent")
"""What Odoo adds when it creates a database itself: indexes for searching, and searching without accents."""

FILES_OUTSIDE_SQL = "SELECT id FROM ir_attachment WHERE store_fname IS NOT NULL LIMIT 1"
"""A row where the database needs a filestore to be whole."""

# S608: the text is a constant of ours.
READ_CHECKSUMS_SQL = f"SELECT value FROM ir_config_parameter WHERE key = '{CHECKSUMS_KEY}'"  # noqa: S608

# A module has a name.
BASIS_SQL = (
    "SELECT name, state, COALESCE(latest_version, '') FROM ir_module_module UNION ALL"  # noqa: S608
    f" SELECT '', '', value FROM ir_config_parameter WHERE key = '{CHECKSUMS_KEY}' ORDER BY name"
)
"""All that a plan is made from, in one question: the modules, and first, without a name, what oCore has stored."""


@dataclass(frozen=True)
class ModuleRow:
    """What the database says of one module; `version` is the one that was last installed or updated to."""

    name: str
    state: str
    version: str = ""

    @property
    def installed(self) -> bool:
        return self.state in {"installed", "to upgrade", "to remove"}

    @property
    def pending(self) -> bool:
        return self.state.startswith("to ")


@dataclass(frozen=True)
class Stored:
    """What oCore left in the database at the last deployment; it travels with the data, so a restored database knows
    what it was made with."""

    base_image: str = ""
    """Id of the Odoo image below the addons."""
    addons: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint of each addon of the image as the database knows it."""


def module_rows(rows: Iterable[Sequence[str]]) -> list[ModuleRow]:
    return [ModuleRow(*row) for row in rows]


def read_stored(rows: Iterable[Sequence[str]]) -> Stored | None:
    """From the answer to `READ_CHECKSUMS_SQL`; None where nothing usable is stored."""
    for (text,) in rows:
        try:
            value = json.loads(text)
        except ValueError:
            return None
        if isinstance(value, dict) and isinstance(value.get("addons"), dict):
            return Stored(
                base_image=str(value.get("base_image", "")),
                addons={str(name): str(checksum) for name, checksum in value["addons"].items()},
            )
    return None


def read_basis(rows: Iterable[Sequence[str]]) -> tuple[tuple[ModuleRow, ...], Stored | None]:
    """From the answer to `BASIS_SQL`."""
    found = list(rows)
    stored = read_stored((value,) for name, _, value in found if not name)
    return tuple(module_rows(row for row in found if row[0])), stored


def write_stored_sql(stored: Stored) -> str:
    value = json.dumps({"base_image": stored.base_image, "addons": dict(sorted(stored.addons.items()))})
    return _set_parameters({CHECKSUMS_KEY: value})


def new_identity_sql(base_url: str, now: datetime) -> str:
    """Make a copied database one of its own: Odoo's id for it, the key of its sessions and signed links, its birthday,
    and the address that stands in its mails, frozen so that no visitor's Host header changes it."""
    return _set_parameters(
        {
            "database.uuid": str(uuid.uuid4()),
            "database.secret": str(uuid.uuid4()),
            "database.create_date": now.strftime("%Y-%m-%d %H:%M:%S"),
            "web.base.url": base_url,
            "web.base.url.freeze": "True",
        }
    )


def set_admin_sql(login: str, hashed: str) -> str:
    """Answers the row's id: no row, no admin. `hashed` comes from `password_hash`."""
    if not hashed.startswith("$pbkdf2-sha512$"):
        raise ValueError("the administrator's password must be hashed")
    if not re.fullmatch(r"\S{1,200}", login):
        raise ExpectedError("The administrator's login is empty or contains a space.", advice="Give another login.")
    return _text(
        "UPDATE res_users SET login = {login}, password = {hashed}, active = true WHERE id ="
        " (SELECT res_id FROM ir_model_data WHERE module = 'base' AND name = 'user_admin') RETURNING id",
        login=login,
        hashed=hashed,
    )


def _set_parameters(values: Mapping[str, str]) -> str:
    rows = ", ".join(
        _text(
            "({key}, {value}, 1, now() AT TIME ZONE 'UTC', 1, now() AT TIME ZONE 'UTC')",
            key=key,
            value=value,
        )
        for key, value in values.items()
    )
    return (
        "INSERT INTO ir_config_parameter (key, value, create_uid, create_date, write_uid, write_date)"  # noqa: S608
        f" VALUES {rows} ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, write_date = EXCLUDED.write_date"
        " RETURNING key"
    )


def _text(template: Any, **values: str) -> str:
    """SQL with its values quoted as PostgreSQL's own client does it."""
    return sql.SQL(template).format(**{key: sql.Literal(value) for key, value in values.items()}).as_string(None)


QUIET_TABLES = re.compile(r"(bus|ir_cron|ir_logging|ir_profile|res_users_log|mail_presence)(_|$).*")
"""What Odoo writes by itself, without anybody's doing."""
MOST_ROWS = 10_000
"""Of a large table only the newest so many are looked at."""
LARGE = 200_000

WRITTEN_TABLES_SQL = """
SELECT c.table_name, COALESCE(MAX(m.model), c.table_name), COALESCE(MAX(p.reltuples), 0)::bigint
FROM information_schema.columns AS c
JOIN information_schema.tables AS t USING (table_schema, table_name)
LEFT JOIN ir_model AS m ON replace(m.model, '.', '_') = c.table_name
LEFT JOIN pg_class AS p ON p.relname = c.table_name AND p.relkind = 'r'
WHERE c.table_schema = 'public' AND c.column_name = 'write_date' AND t.table_type = 'BASE TABLE'
GROUP BY c.table_name ORDER BY c.table_name
"""
"""Tables whose rows say when they were written, their models, and about how many rows they have."""


def written_since_sql(tables: Iterable[Sequence[str]], since: datetime) -> str:
    """One question: a row for each model of which something was written since, with how many. Empty without tables."""
    asked = [
        _written(table, model, int(rows) > LARGE, since)
        for table, model, rows in tables
        if not QUIET_TABLES.match(table)
    ]
    if not asked:
        return ""
    union = sql.SQL(" UNION ALL ").join(asked)
    return (
        sql.SQL("SELECT model, count FROM ({}) AS found WHERE count > 0 ORDER BY count DESC, model")
        .format(union)
        .as_string()
    )


def _written(table: str, model: str, large: bool, since: datetime) -> sql.Composed:
    rows = sql.SQL("SELECT write_date FROM {}").format(sql.Identifier(table))
    if large:
        rows = sql.SQL("{} ORDER BY id DESC LIMIT {}").format(rows, sql.Literal(MOST_ROWS))
    moment = since.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
    return sql.SQL("SELECT {} AS model, count(*) AS count FROM ({}) AS rows WHERE write_date > {}::timestamp").format(
        sql.Literal(model), rows, sql.Literal(moment)
    )
