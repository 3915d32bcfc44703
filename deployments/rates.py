"""How many calls a minute are taken: of webhooks from an address and for a project, of the API from an address and of a
token. Counted in Redis, so that all of the web's processes count together; while that doesn't answer, each counts by
itself."""

import logging
import threading
import time
from ipaddress import ip_address

import redis
from django.conf import settings
from django.http import HttpRequest
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
WINDOW = 60
PATIENCE = 0.1
"""Seconds that Redis may take."""
PAUSE = 5.0
"""Seconds for which it isn't asked after it didn't answer."""


class Counter:
    """Calls within the present minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own: dict[str, int] = {}
        self._window = 0
        self._quiet_until = 0.0
        self._client: redis.Redis | None = None

    def add(self, key: str, window: int) -> int:
        if time.monotonic() >= self._quiet_until:
            try:
                return self._add_in_redis(f"{settings.OCORE_NAMESPACE}:calls:{window}:{key}")
            except (RedisError, OSError):
                self._quiet_until = time.monotonic() + PAUSE
                logger.warning("Redis does not answer: each process counts calls by itself meanwhile.")
        with self._lock:
            if window != self._window:
                self._own, self._window = {}, window
            self._own[key] = self._own.get(key, 0) + 1
            return self._own[key]

    def _add_in_redis(self, name: str) -> int:
        with self._connected().pipeline(transaction=False) as pipeline:
            pipeline.incr(name)
            pipeline.expire(name, 2 * WINDOW)
            return int(pipeline.execute()[0])

    def _connected(self) -> redis.Redis:
        """Made by one thread only: a client that another replaces closes its connections as it is thrown away, under
        the thread that is using them."""
        with self._lock:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    settings.REDIS_URL, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
                )
            return self._client


counter = Counter()


def wait_for(kind: str, key: object, limit: int) -> int:
    """Counts a call; seconds to wait if it was one too many, 0 if not. A limit of 0 is none."""
    if limit <= 0:
        return 0
    now = time.time()
    window = int(now // WINDOW)
    if counter.add(f"{kind}:{key}", window) <= limit:
        return 0
    return max(1, int((window + 1) * WINDOW - now) + 1)


def address_of(request: HttpRequest) -> str | None:
    """Who calls: behind the proxy, what that has appended itself."""
    if settings.OCORE_BEHIND_TLS_PROXY:
        told = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        try:
            return str(ip_address(told))
        except ValueError:
            pass
    return request.META.get("REMOTE_ADDR") or None
