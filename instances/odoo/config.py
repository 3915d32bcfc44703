"""odoo.conf: written by oCore, with what a person may add and never what keeps clients apart.

Odoo reads the file with Python's `RawConfigParser`: no interpolation, so `%` is a plain character; a line that
starts with white space continues the one before; `#` and `;` start comments only at a line's beginning. After that
Odoo takes some texts for something else than text (`None`, `False`). Values that would not come back as they were given
are refused, with the option's name.
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ocore.errors import ExpectedError

from .versions import Series

CONFIG_PATH = "/etc/odoo/odoo.conf"
DATA_DIR = "/var/lib/odoo"
ADDONS_DIR = "/opt/ocore/addons"
HTTP_PORT = 8069
EVENT_PORT = 8072

PROTECTED_OPTIONS = frozenset(
    {
        "addons_path",
        "admin_passwd",
        "bin_path",
        "config",
        "data_dir",
        "db_host",
        "db_name",
        "db_password",
        "db_port",
        "db_replica_host",
        "db_replica_port",
        "db_template",
        "db_user",
        "dbfilter",
        "demo",
        "dev_mode",
        "gevent_port",
        "http_enable",
        "http_interface",
        "http_port",
        "limit_memory_hard",
        "limit_memory_soft",
        "limit_time_cpu",
        "limit_time_real",
        "list_db",
        "log_db",
        "logfile",
        "longpolling_port",
        "max_cron_threads",
        "pg_path",
        "pidfile",
        "proxy_access_token",
        "proxy_mode",
        "syslog",
        "with_demo",
        "without_demo",
        "workers",
        "xmlrpc",
        "xmlrpc_interface",
        "xmlrpc_port",
    }
)
"""What an extra option may not set: it would let one client reach another's data, or oCore sets it from a setting
of its own. Every other `db_*` is refused too, except `db_maxconn`, `db_maxconn_gevent`, `db_sslmode`."""

_FREE_DATABASE_OPTIONS = frozenset({"db_maxconn", "db_maxconn_gevent", "db_sslmode"})
_READ_AS_SOMETHING_ELSE = frozenset({"", "None", "none", "False", "false", "True", "true"})


class InvalidOption(ExpectedError):
    default_advice = "Correct the extra odoo.conf options of the environment or of whom it inherits them from."


@dataclass(frozen=True)
class OdooConfig:
    """What one environment's Odoo runs with. Sizes in bytes, times in seconds."""

    series: Series
    db_host: str
    db_user: str
    db_password: str = field(repr=False)
    db_name: str
    admin_passwd: str = field(repr=False)
    """A hash made by `password_hash`: of the master password, which opens the database manager."""
    db_port: int = 5432
    data_dir: str = DATA_DIR
    addons_path: tuple[str, ...] = (ADDONS_DIR,)
    """Besides Odoo's own addons, which it finds by itself. Empty when the image is plain Odoo."""
    workers: int = 0
    max_cron_threads: int = 1
    limit_memory_soft: int = 2 * 1024**3
    limit_memory_hard: int = 2560 * 1024**2
    limit_time_cpu: int = 600
    limit_time_real: int = 1200
    db_maxconn: int = 0
    """Per process; 0: 64 for the one threaded process, 16 for each of several workers."""
    extra: Mapping[str, str] = field(default_factory=dict)


def render_config(config: OdooConfig) -> str:
    """The text of odoo.conf. Raises `InvalidOption` naming the option that cannot be written or may not be set."""
    check_extra_options(config.extra)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", config.db_name):
        raise InvalidOption(f"“{config.db_name}” cannot be the name of a database in odoo.conf.")
    if any("," in path for path in config.addons_path):
        raise InvalidOption("A folder in addons_path contains a comma, which separates folders there.")
    lines: dict[str, str | int] = {
        "admin_passwd": config.admin_passwd,
        "db_host": config.db_host,
        "db_port": config.db_port,
        "db_user": config.db_user,
        "db_password": config.db_password,
        "db_name": config.db_name,
        "db_maxconn": config.extra.get("db_maxconn") or config.db_maxconn or (16 if config.workers else 64),
        "dbfilter": f"^{re.escape(config.db_name)}$",
        "data_dir": config.data_dir,
        "http_interface": "0.0.0.0",  # noqa: S104 - in a container that publishes no port
        "http_port": HTTP_PORT,
        config.series.event_port_option: EVENT_PORT,
        "workers": config.workers,
        "max_cron_threads": config.max_cron_threads,
        "limit_memory_soft": config.limit_memory_soft,
        "limit_memory_hard": config.limit_memory_hard,
        "limit_time_cpu": config.limit_time_cpu,
        "limit_time_real": config.limit_time_real,
    }
    if config.addons_path:
        lines["addons_path"] = ",".join(config.addons_path)
    for key, value in lines.items():
        check_value(key, str(value))
    flags = dict([config.series.no_demo]) | {"list_db": "False", "proxy_mode": "True"}
    return "[options]\n" + "".join(f"{key} = {value}\n" for key, value in {**config.extra, **lines, **flags}.items())


def check_extra_options(extra: Mapping[str, str]) -> None:
    """Raise `InvalidOption` for one that is protected, has no valid name or a value that odoo.conf cannot hold."""
    for key, value in extra.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", key):
            raise InvalidOption(f"“{key}” is not the name of an odoo.conf option.")
        if key in PROTECTED_OPTIONS or (key.startswith("db_") and key not in _FREE_DATABASE_OPTIONS):
            raise InvalidOption(
                f"The option “{key}” is set by oCore and cannot be an extra one.",
                advice="Remove it from the extra odoo.conf options; where oCore has a setting for it, use that.",
            )
        check_value(key, value, flags=True)
        if key.startswith("db_maxconn") and not re.fullmatch(r"[1-9]\d{0,3}", value):
            raise InvalidOption(f"The option “{key}” must be a number of connections, at least 1.")


def check_value(key: str, value: str, *, flags: bool = False) -> None:
    """Raise `InvalidOption` unless Odoo would read back exactly this text. `flags`: `True` and `False` are meant."""
    allowed = {"True", "False", "true", "false"} if flags else set()
    if any(character < " " or character == "\x7f" for character in value) or len(value.splitlines()) > 1:
        raise InvalidOption(f"The value of “{key}” contains a line break or another control character.")
    if value != value.strip() or (value in _READ_AS_SOMETHING_ELSE and value not in allowed):
        raise InvalidOption(
            f"The value of “{key}” would not reach Odoo as it is: it is empty, begins or ends with a space, or is a"
            " word that Odoo takes for something else."
        )


def check_environment(variables: Mapping[str, str]) -> None:
    """Raise `InvalidOption` for a variable that would overrule odoo.conf: since 19 Odoo reads options there too."""
    for name in variables:
        option = name.removeprefix("ODOO_").lower()
        overrules = name.startswith("ODOO_") and (option in PROTECTED_OPTIONS or option in {"rc", "dev"})
        if overrules or name.startswith("PG") or name in {"OPENERP_SERVER", "HOST", "PORT", "USER", "PASSWORD"}:
            raise InvalidOption(
                f"The environment variable “{name}” would overrule what oCore writes to odoo.conf.",
                advice="Remove it from the environment variables of the environment or of whom it inherits them from.",
            )


def max_requests(workers: int, extra: Mapping[str, str]) -> int:
    """How many requests the edge may have in flight with this Odoo; the rest wait there.

    A threaded Odoo starts a thread per request, each of which may take two connections of the pool; measured:
    16 at once and 64 connections answered a burst of 500 without an error. A worker serves one request at a time, and
    a second one waits in its socket.
    """
    connections = int(extra.get("db_maxconn") or 64)
    return 2 * workers if workers else max(1, min(16, connections // 4))


def password_hash(plain: str, rounds: int = 350_000) -> str:
    """In the format that passlib and so Odoo reads, for `res_users.password` and `admin_passwd`."""
    salt = os.urandom(16)
    digest = hashlib.pbkdf2_hmac("sha512", plain.encode(), salt, rounds)
    return f"$pbkdf2-sha512${rounds}${_adapted_base64(salt)}${_adapted_base64(digest)}"


def _adapted_base64(data: bytes) -> str:
    """Passlib's: without padding, with `.` for `+`."""
    return base64.b64encode(data).decode().rstrip("=").replace("+", ".")
