"""The portal's own Redis: private, on a unix socket, holding nothing that may not be lost.

It only carries primary keys to the workers; the database's rows are the truth and the reconciler queues anew what
Redis forgot. So it writes nothing to disk.
"""

import os
import time
from pathlib import Path

import redis
from django.conf import settings

from ocore.errors import ExpectedError
from ocore.machine.packages import ensure_program
from ocore.machine.progress import Progress


class RedisUnavailable(ExpectedError):
    default_advice = "Start that Redis, or remove REDIS_URL from the environment to let oCore run its own."


def is_our_own() -> bool:
    """Whether the portal runs its Redis itself; otherwise REDIS_URL names one that others look after."""
    return str(settings.REDIS_URL).startswith(f"unix://{settings.REDIS_SOCKET}")


def ensure_redis(progress: Progress) -> None:
    """Our own is installed (the supervisor runs it), or the one that REDIS_URL names answers."""
    if is_our_own():
        ensure_program("redis-server", "redis-server", progress, purpose="the queue of deployments")
    else:
        wait_for_redis(timeout=5)


def command() -> list[str]:
    """The argv of our own, in a folder that only this user can enter."""
    socket = Path(settings.REDIS_SOCKET)
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.parent.chmod(0o700)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(socket.parent),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "logfile": "",
        "maxmemory-policy": "noeviction",
    }
    program = ensure_program("redis-server", "redis-server", Progress(), purpose="the queue of deployments")
    return [program, *(part for name, value in options.items() for part in (f"--{name}", value))]


def answers() -> bool:
    """Whether it answers now; raises `redis.RedisError` never."""
    client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, socket_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def wait_for_redis(*, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not answers():
        if time.monotonic() > deadline:
            where = f"at {settings.REDIS_SOCKET}" if is_our_own() else "at REDIS_URL"
            raise RedisUnavailable(
                f"Redis does not answer {where} after {timeout:.0f} s.",
                advice=f"See what it says in {Path(settings.STATE_DIR) / 'log' / 'redis.log'}." if is_our_own() else "",
            )
        time.sleep(0.05)


def run() -> None:
    """Become the Redis server; never returns."""
    argv = command()
    os.umask(0o077)
    os.execv(argv[0], argv)  # noqa: S606 - no shell, and our own argv
