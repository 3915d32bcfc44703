"""Where the portal's web server listens, and whether it answers there."""

import http.client
import json
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from ocore.errors import ExpectedError

TAIL_LINES = 15
CONNECTION_SECONDS = 60


class WebUnavailable(ExpectedError):
    """The web server can't listen, or does not answer."""


def keep_connections(databases: Iterable[dict[str, Any]]) -> None:
    """Of the web's threads, from one request to the next: connecting, and closing SQLite's last connection (it puts its
    log away then), took longer than the whole answer to a webhook. Not of the workers, which fork."""
    for database in databases:
        database |= {"CONN_MAX_AGE": CONNECTION_SECONDS, "CONN_HEALTH_CHECKS": True}


def address(bind: str = "") -> tuple[str, int]:
    """Host and port of OCORE_WEB_BIND; raises ValueError unless it is `host:port` or `[v6]:port`."""
    parts = urlsplit(f"//{bind or settings.OCORE_WEB_BIND}")
    if not parts.hostname or not parts.port or parts.path or parts.query or parts.username:
        raise ValueError(f"{bind!r} is not host:port")
    return parts.hostname, parts.port


def refuse_taken_address() -> None:
    """Better one clear sentence now than a web server that keeps failing."""
    host, port = address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise WebUnavailable(
                f"The portal can't listen on {settings.OCORE_WEB_BIND}: {error.strerror}.",
                advice="End what listens there, or choose another address: OCORE_WEB_BIND (and OCORE_BASE_URL).",
            ) from error


def health(timeout: float = 5.0) -> tuple[int, dict[str, str]]:
    """Status and parts of /healthz, asked as a client of OCORE_BASE_URL would; 0 when nothing answers."""
    host, port = address()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    public = urlsplit(settings.OCORE_BASE_URL)
    try:
        connection.request("GET", "/healthz", headers={"Host": public.netloc, "X-Forwarded-Proto": public.scheme})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()) if answer.status in (200, 503) else {}
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


def _answers(status: int, parts: dict[str, str]) -> bool:
    return status in (200, 301) or parts.get("database") == parts.get("redis") == "pass"


def wait_until_healthy(*, timeout: float, log: Path) -> None:
    """Until /healthz says that the web server has what it needs (or sends us to https, which only a portal that is up
    can do). Workers and clock may still be starting."""
    deadline = time.monotonic() + timeout
    while not _answers(*(found := health())):
        status = found[0]
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.exists() else []
            answer = f"answers {status} on /healthz" if status else "does not answer"
            raise WebUnavailable(
                f"The portal {answer} after {timeout:.0f} s.",
                detail="\n".join(said),
                advice=f"The rest of what the web server said is in {log}.",
            )
        time.sleep(0.1)
