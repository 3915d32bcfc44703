"""Django's system checks of the settings: each with an id, and a hint that says what to write instead."""

import ipaddress
import os
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from ocore.machine.web import address

SOCKET_PATH_BYTES = 107
"""The kernel's limit for a unix socket's path (sun_path, 108 with the closing zero)."""
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.IGNORECASE
)
POSITIVE = (
    "OCORE_WORKERS",
    "OCORE_DEPLOYMENT_TIMEOUT",
    "OCORE_WEBHOOK_MAX_BYTES",
    "OCORE_REGISTRY_TIMEOUT",
    "OCORE_HOLD_SECONDS",
    "OCORE_PROBE_SECONDS",
    "OCORE_DRAIN_SECONDS",
    "OCORE_RETENTION_SECONDS",
    "OCORE_CERTIFICATE_SECONDS",
    "OCORE_API_ANSWER_HOURS",
)
NOT_NEGATIVE = (
    "OCORE_STANDSTILL_SECONDS",
    "OCORE_MIN_FREE_BYTES",
    "OCORE_SECRET_GRACE_SECONDS",
    "OCORE_REFUSED_PER_MINUTE",
    "OCORE_KEEP_ROLLBACKS",
    "OCORE_KEEP_SNAPSHOTS",
    "OCORE_KEEP_SNAPSHOT_DAYS",
    "OCORE_KEEP_DUMPS",
    "OCORE_KEEP_DUMP_DAYS",
    "OCORE_KEEP_IMAGES",
    "OCORE_KEEP_IMAGE_DAYS",
    "OCORE_KEEP_MIRROR_DAYS",
    "OCORE_KEEP_DEPLOYMENTS",
    "OCORE_KEEP_DEPLOYMENT_DAYS",
    "OCORE_KEEP_LOGS",
    "OCORE_KEEP_LOG_DAYS",
    "OCORE_KEEP_DELIVERIES",
    "OCORE_KEEP_DELIVERY_DAYS",
    "OCORE_KEEP_PROBE_DAYS",
    "OCORE_KEEP_FREE_BYTES",
    "OCORE_CERTIFICATE_WARN_DAYS",
    "OCORE_API_PER_ADDRESS",
    "OCORE_API_PER_TOKEN",
)
STEPS = ("build", "snapshot", "deploy", "health_check", "complete")


@register
def check_settings(**_everything: Any) -> list[CheckMessage]:
    return [
        *_state_folder(),
        *_encryption_keys(),
        *_addresses(),
        *_services(),
        *_hosts(),
        *_images(),
        *_repositories(),
        *_numbers(),
        *_deadlines(),
    ]


def _state_folder() -> Iterator[CheckMessage]:
    folder = Path(settings.STATE_DIR)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Error(
            f"The state folder {folder} is not a folder that this user can write to.",
            hint="Create it and give it to this user, or set OCORE_STATE_DIR to another one.",
            id="ocore.E001",
        )


def _encryption_keys() -> Iterator[CheckMessage]:
    for position, key in enumerate(settings.OCORE_ENCRYPTION_KEYS, start=1):
        try:
            Fernet(key)
        except ValueError:
            yield Error(
                f"Key {position} of OCORE_ENCRYPTION_KEYS is not a Fernet key.",
                hint="Make one with: python -c 'from cryptography.fernet import Fernet; "
                "print(Fernet.generate_key().decode())'. Keep the older keys behind it.",
                id="ocore.E003",
            )


def _addresses() -> Iterator[CheckMessage]:
    base = _split(settings.OCORE_BASE_URL)
    if base is None or base.scheme not in ("http", "https") or base.query or base.fragment or base.username:
        yield Error(
            f"OCORE_BASE_URL ({settings.OCORE_BASE_URL}) is not an address of this portal.",
            hint="Write it as https://portal.example.com, without user, query or fragment.",
            id="ocore.E004",
        )
    elif base.hostname not in LOCAL_HOSTS and base.scheme == "http":
        yield Warning(
            f"OCORE_BASE_URL ({settings.OCORE_BASE_URL}) has people send their passwords unencrypted.",
            hint="Put a reverse proxy with TLS in front, set OCORE_BASE_URL to https://... and OCORE_BEHIND_TLS_PROXY.",
            id="ocore.W001",
        )
    try:
        address(settings.OCORE_WEB_BIND)
    except ValueError:
        yield Error(
            f"OCORE_WEB_BIND ({settings.OCORE_WEB_BIND}) is not an address to listen on.",
            hint="Write it as 127.0.0.1:8000, or [::]:8000 for IPv6.",
            id="ocore.E010",
        )
    try:
        ipaddress.ip_address(settings.OCORE_EDGE_BIND)
    except ValueError:
        yield Error(
            f"OCORE_EDGE_BIND ({settings.OCORE_EDGE_BIND}) is not an IP address.",
            hint="Write 0.0.0.0 to be reached from everywhere, or 127.0.0.1 from this machine only.",
            id="ocore.E011",
        )
    if not HOST.fullmatch(settings.OCORE_BASE_DOMAIN):
        yield Error(
            f"OCORE_BASE_DOMAIN ({settings.OCORE_BASE_DOMAIN}) is not a domain name.",
            hint="Write it as odoo.example.com, without a scheme, port or leading dot.",
            id="ocore.E012",
        )


def _services() -> Iterator[CheckMessage]:
    redis = _split(settings.REDIS_URL, host=False)
    if redis is None or redis.scheme not in ("redis", "rediss", "unix"):
        # The whole URL may hold a password: only its scheme is told.
        yield Error(
            f"REDIS_URL begins with {settings.REDIS_URL.partition(':')[0]!r}, which is not a Redis.",
            hint="Write redis://host:6379/0, rediss://... for TLS, or unix:///path/to/redis.sock?db=0.",
            id="ocore.E005",
        )
    elif redis.scheme == "unix" and len(os.fsencode(redis.path)) > SOCKET_PATH_BYTES:
        yield Error(
            f"The path of Redis's socket {redis.path} is longer than {SOCKET_PATH_BYTES} bytes, the system's limit.",
            hint="Set OCORE_STATE_DIR to a shorter path.",
            id="ocore.E002",
        )
    engine = settings.DATABASES["default"]["ENGINE"]
    if engine not in ("django.db.backends.sqlite3", "django.db.backends.postgresql"):
        yield Error(
            f"DATABASE_URL asks for {engine}, but oCore runs on SQLite or PostgreSQL.",
            hint="Write sqlite:////path/to/file.sqlite3 or postgres://user:password@host:5432/name.",
            id="ocore.E006",
        )


def _hosts() -> Iterator[CheckMessage]:
    if "*" in settings.ALLOWED_HOSTS and not settings.DEBUG:
        yield Error(
            "DJANGO_ALLOWED_HOSTS lets any host name in, so links in messages can be made to lead elsewhere.",
            hint="Name the hosts under which the portal is reached, separated by commas.",
            id="ocore.E007",
        )
    base = _split(settings.OCORE_BASE_URL)
    if settings.DEBUG and base is not None and base.hostname not in LOCAL_HOSTS:
        yield Error(
            "DJANGO_DEBUG is on for a portal that others reach: its error pages show settings and data.",
            hint="Remove DJANGO_DEBUG from the environment.",
            id="ocore.E008",
        )
    if base is not None and base.hostname is not None and not _allowed(base.hostname):
        yield Error(
            f"DJANGO_ALLOWED_HOSTS does not name {base.hostname}, the host of OCORE_BASE_URL: "
            "every request would be refused.",
            hint=f"Add it: DJANGO_ALLOWED_HOSTS={','.join([*settings.ALLOWED_HOSTS, base.hostname])}",
            id="ocore.E009",
        )


def _images() -> Iterator[CheckMessage]:
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(settings.OCORE_ODOO_IMAGE) if field is not None}
    except ValueError:
        fields = set()
    if fields != {"version"}:
        yield Error(
            f"OCORE_ODOO_IMAGE ({settings.OCORE_ODOO_IMAGE}) must hold {{version}}, and nothing else in braces.",
            hint="Write it as odoo:{version} or registry.example.com/odoo:{version}.",
            id="ocore.E013",
        )
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", settings.OCORE_NAMESPACE):
        yield Error(
            f"OCORE_NAMESPACE ({settings.OCORE_NAMESPACE}) can't begin the name of a container.",
            hint="Use at most 32 lower-case letters, digits and dashes, beginning and ending with a letter or digit.",
            id="ocore.E014",
        )


def _repositories() -> Iterator[CheckMessage]:
    for folder in settings.OCORE_FILE_REPOSITORIES:
        if not Path(folder).is_absolute() or Path(folder) == Path("/"):
            yield Error(
                f"OCORE_FILE_REPOSITORIES names {folder!r}, from which any file could be taken.",
                hint="Name the folders that hold the repositories, each with its whole path.",
                id="ocore.E015",
            )


def _numbers() -> Iterator[CheckMessage]:
    least = dict.fromkeys(POSITIVE, 1) | dict.fromkeys(NOT_NEGATIVE, 0)
    for name, minimum in least.items():
        if getattr(settings, name) < minimum:
            yield Error(
                f"{name} is {getattr(settings, name)}, but must be at least {minimum}.",
                hint=f"Correct it, or remove {name} from the environment for its default.",
                id="ocore.E016",
            )
    if not 1 <= settings.OCORE_EDGE_HTTP_PORT <= 65535:
        yield Error(
            f"OCORE_EDGE_HTTP_PORT ({settings.OCORE_EDGE_HTTP_PORT}) is not a port.",
            hint="Use a number from 1 to 65535, 80 for a server of its own.",
            id="ocore.E017",
        )


def _deadlines() -> Iterator[CheckMessage]:
    for step, (total, silence) in settings.OCORE_DEADLINES.items():
        if step not in STEPS or not (total > 0 and silence > 0):
            yield Error(
                f"OCORE_DEADLINES says of “{step}” what is not a step's seconds in all and of silence.",
                hint=f"Write it as build=1200/300,deploy=7200; the steps are {', '.join(STEPS)}.",
                id="ocore.E018",
            )


def _split(url: str, *, host: bool = True) -> SplitResult | None:
    """The URL's parts; None when it is not one, or lacks a host where there has to be one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname or not host else None


def _allowed(host: str) -> bool:
    bare = {entry.strip("[]").lower() for entry in settings.ALLOWED_HOSTS}
    return "*" in bare or any(host == entry or (entry.startswith(".") and f".{host}".endswith(entry)) for entry in bare)
