"""Whether anybody does what is queued and what the clock sees to: Redis has lately heard of those who do."""

from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from redis.exceptions import RedisError

from ocore.machine import redis, signs, supervisor

KEEPERS = {
    signs.CLOCK: "the clock gives no sign of life",
    "chores": "nobody does the clock's chores",
}
"""Without these deployments go on, and nobody looks after them."""


@dataclass(frozen=True)
class Trouble:
    """`reason` and `advice` are clauses: the one without a capital, both without a full stop."""

    reason: str
    advice: str
    meanwhile: str = "Nothing is deployed meanwhile"

    def __str__(self) -> str:
        return f"{self.reason[:1].upper()}{self.reason[1:]}."


def trouble() -> Trouble | None:
    """Why nothing takes what is queued; None while a worker lives."""
    lacking, log = "no worker of it lives", "worker.1.log"
    try:
        if "deployments" not in signs.missing():
            return None
    except RedisError:
        if not redis.is_our_own():
            return Trouble("the Redis that REDIS_URL names does not answer", "Start that Redis, or correct REDIS_URL")
        lacking, log = "its Redis does not answer", "redis.log"
    if supervisor.lives():
        return Trouble(f"the portal is up, but {lacking}", f"See why in {_log(log)}")
    return Trouble("the portal isn't running", "Start it with: make up")


def unkept() -> Trouble | None:
    """Why nobody takes over what died or brings back what is down; None while clock and chores go on."""
    try:
        missing = signs.missing()
    except RedisError:
        return None  # `trouble` says that
    name = next((one for one in KEEPERS if one in missing), None)
    if name is None:
        return None
    return Trouble(
        KEEPERS[name],
        f"make up starts what stands still again within two minutes; if this stays, see why in {_log(f'{name}.log')}",
        "Nothing is taken over, brought back or looked at meanwhile",
    )


def _log(name: str) -> Path:
    return Path(settings.STATE_DIR) / "log" / name
