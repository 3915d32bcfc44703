"""What differs between the Odoo versions that oCore runs, 14 to the newest, in one table."""

import re
from dataclasses import dataclass

from ocore.errors import ExpectedError

OLDEST = 14


class UnknownVersion(ExpectedError):
    default_advice = "Give the Odoo version as its series, like 19.0."


class InvalidModuleVersion(ExpectedError):
    default_advice = "Give the manifest a version like 19.0.1.0.0: the Odoo series, then the addon's own x.y.z."


@dataclass(frozen=True)
class Series:
    """One Odoo series, `19.0` say, and how it wants to be spoken to."""

    name: str
    major: int
    event_port_option: str
    """Name in odoo.conf of the port for the bus: `longpolling_port` until 15, `gevent_port` since 16."""
    event_path: str
    no_demo: tuple[str, str]
    """The odoo.conf line that keeps demo data out: asked for explicitly until 18, the default since 19."""
    health_path: str
    can_skip_auto_install: bool


def series(version: str) -> Series:
    """Of `19.0`, `19` or a longer release name such as `19.0-20260101`."""
    match = re.fullmatch(r"(\d{2})(?:\.(\d))?(?:[-.].*)?", version.strip())
    if not match or int(match[1]) < OLDEST:
        raise UnknownVersion(f"“{version}” is not an Odoo version that oCore knows ({OLDEST}.0 or newer).")
    major = int(match[1])
    return Series(
        name=f"{major}.{match[2] or 0}",
        major=major,
        event_port_option="gevent_port" if major >= 16 else "longpolling_port",
        event_path="/websocket" if major >= 16 else "/longpolling",
        no_demo=("with_demo", "False") if major >= 19 else ("without_demo", "all"),
        health_path="/web/health" if major >= 15 else "/web/login",
        can_skip_auto_install=major >= 17,
    )


def stored_version(version: str, odoo: Series) -> str:
    """What Odoo writes to `ir_module_module.latest_version` for a manifest's version.

    Raises `InvalidModuleVersion` where Odoo would refuse the addon: loudly in 17 and 18, since 19 by silently taking it
    as not installable.
    """
    own = f"{odoo.name}."
    refused = InvalidModuleVersion(f"Odoo {odoo.name} does not accept the version “{version}”.")
    if odoo.major < 19:
        full = version if version.startswith(own) else own + version
        if odoo.major >= 17 and not re.fullmatch(r"\d+\.\d+(\.\d+)?", full.removeprefix(own)):
            raise refused
        return full
    parts = version.split(".")
    if not 2 <= len(parts) <= 5 or not all(part.isdigit() for part in parts):
        raise refused
    full = own + version if len(parts) <= 3 and not version.startswith(odoo.name) else version
    if not full.startswith(own):
        raise refused
    return full
