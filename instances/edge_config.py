"""The edge's whole configuration, as data for Caddy's admin API; what each choice defends is said where it is made."""

import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from instances import edge_limits, edge_maintenance
from instances.edge_answers import ERROR_STATUS, FOR_PEOPLE, Json, answer, page
from instances.edge_answers import literal as _literal
from instances.edge_answers import plain as _plain
from instances.runtimes.base import EdgeError, Route, Upstream

HTTP_PORT = 8080
"""On which the edge listens inside its container."""
ADMIN = "127.0.0.1:2019"
DOORS = "127.0.0.1:2020"
"""Where the edge serves the doors to itself: its own loopback, which no other container reaches."""
STATE = "/data"
DOORS_FOLDER = f"{STATE}/doors"
PASS_HEADER = "X-Ocore-Pass"  # noqa: S105 - the header's name, not its value
DOOR_INTERVAL = 0.1
"""Seconds between two looks at a door."""
EVENT_DOOR_INTERVAL = 0.15
"""The same for websockets; what it costs an idle server to look more often isn't worth it."""
CLOSING_SECONDS = 0.25
"""After which every look has seen a door that was closed; more than either interval."""
TRY_INTERVAL = 0.05
"""Seconds after which a held request tries again."""
MAX_BODY_BYTES = 256 * 1024**2
BUFFER_BYTES = 256 * 1024
"""Of each request's body, kept in the edge's memory while it is held."""

HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
KEY = re.compile(r"[A-Za-z0-9-]+")

UPDATING = (
    "updating",
    "Back in a moment",
    "This service is being updated. Nothing that you have saved is lost; please try again shortly.",
)
UNREACHABLE = (
    "unreachable",
    "Not reachable at the moment",
    "This service does not answer just now. It is looked after; please try again in a few minutes.",
)


def configuration(routes: Iterable[Route], *, pass_key: str, hold_seconds: float) -> Json:
    """What the edge should be; the same routes in any order give the same data. `EdgeError` on names that are none.

    It carries its own `digest` as Caddy's `@id` of the last route, so that the admin API can be asked whether it is
    the one that is loaded."""
    ordered = sorted(routes, key=lambda route: route.key)
    _check(ordered)
    data = _everything(ordered, pass_key, hold_seconds)
    data["apps"]["http"]["servers"]["edge"]["routes"][-1]["@id"] = digest(data)
    return data


def digest(data: Json) -> str:
    """Names a configuration; that of one made by `configuration` is `loaded_id`."""
    return "ocore-" + hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:32]


def loaded_id(data: Json) -> str:
    return str(data["apps"]["http"]["servers"]["edge"]["routes"][-1]["@id"])


def _everything(ordered: Sequence[Route], pass_key: str, hold_seconds: float) -> Json:
    return {
        "admin": {"listen": ADMIN},
        "logging": {"logs": {"default": _log()}},
        "apps": {
            "http": {
                "grace_period": "3s",
                "servers": {
                    **edge_limits.servers(),
                    "doors": {
                        "listen": [DOORS],
                        "automatic_https": {"disable": True},
                        "routes": [{"handle": [{"handler": "file_server", "root": DOORS_FOLDER}]}],
                    },
                    "edge": {
                        "listen": [f":{HTTP_PORT}"],
                        "protocols": ["h1"],
                        "automatic_https": {"disable": True},
                        **edge_limits.TIMEOUTS,
                        "logs": {},
                        "routes": [
                            {"handle": [_hide_the_server(), edge_limits.too_slow()]},
                            *(_environment(route, pass_key, hold_seconds) for route in ordered),
                            {"handle": [_plain(404, "Not found\n")]},
                        ],
                        "errors": {"routes": _error_routes()},
                    },
                },
            }
        },
    }


def counted_address(upstream: Upstream) -> str:
    """The name under which Caddy counts an upstream's requests; those of websockets go by `_event_addresses`."""
    return f"{upstream.alias}:{upstream.http_port}"


def _check(routes: Sequence[Route]) -> None:
    owners: dict[str, str] = {}
    for route in routes:
        if not KEY.fullmatch(route.key):
            raise EdgeError(f"“{route.key}” cannot name a door.", advice="Use letters, digits and dashes.")
        for host in route.hosts:
            if not HOST.fullmatch(host):
                raise EdgeError(f"“{host}” is not a host name.", advice=f"Correct the host names of {route.key}.")
            if owners.setdefault(host, route.key) != route.key:
                raise EdgeError(
                    f"Two environments want the host name {host}: {owners[host]} and {route.key}.",
                    advice="Give one of them another host name.",
                )
        for upstream in route.upstreams:
            if not NAME.fullmatch(upstream.alias):
                raise EdgeError(f"“{upstream.alias}” cannot be a name on the edge's network.")


def _log() -> Json:
    """Errors only: a closed door alone would log ten lines a second. No header with a secret in it, and no query:
    Odoo's links carry tokens there."""
    secret: Json = {
        f"request>headers>{name}": {"filter": "delete"} for name in (PASS_HEADER, "Cookie", "Authorization")
    }
    secret["request>uri"] = {"filter": "regexp", "regexp": "\\?.*", "value": "?..."}
    return {
        "level": "ERROR",
        "writer": {"output": "stdout"},
        "encoder": {"format": "filter", "wrap": {"format": "json"}, "fields": secret},
    }


def _hide_the_server() -> Json:
    return {"handler": "headers", "response": {"deferred": True, "delete": ["Server", "Via"]}}


def _environment(route: Route, pass_key: str, hold_seconds: float) -> Json:
    return {
        "match": [{"host": sorted(route.hosts)}],
        "terminal": True,
        "handle": [
            {
                "handler": "subroute",
                "routes": [*_in_front(route, pass_key), *_inside(route, pass_key, hold_seconds)],
            }
        ],
    }


def _in_front(route: Route, pass_key: str) -> list[Json]:
    """What a request meets before anything of its environment."""
    key = {"pass_key_header": PASS_HEADER, "pass_key": pass_key}
    return [*edge_limits.in_front(route, **key), *edge_maintenance.in_front(route, state=STATE, **key)]


def _inside(route: Route, pass_key: str, hold_seconds: float) -> list[Json]:
    """The client's own word about where it comes from is dropped; Caddy then says it to Odoo (X-Forwarded-*)."""
    facts = {"handler": "vars", "ocore_title": _literal(html.escape(route.title)), "ocore_door": route.key}
    if not route.upstreams:
        return [{"handle": [facts, {"handler": "error", "status_code": 503}]}]
    limit = {"handler": "request_body", "max_size": MAX_BODY_BYTES}
    untrusted = [PASS_HEADER, "Forwarded", "X-Real-Ip", "X-Forwarded-Port", "X-Forwarded-Prefix"]
    return [
        {"handle": [facts]},
        {
            # One folder further down is the same page under a language's prefix.
            "match": [{"path": ["/web/database*", "/*/web/database", "/*/web/database/*"]}],
            "terminal": True,
            "handle": [_plain(404, "Not found\n")],
        },
        {
            "match": [{"header": {PASS_HEADER: [pass_key]}}],
            "terminal": True,
            "handle": [_drop(untrusted), limit, _proxy([{"dial": counted_address(each)} for each in route.upstreams])],
        },
        {"handle": [_drop(untrusted), limit]},
        {
            "match": [{"path": ["/websocket", "/websocket/*", "/longpolling/*"]}],
            "terminal": True,
            "handle": [_event_proxy(route, hold_seconds)],
        },
        {
            "handle": [
                {"handler": "encode", "encodings": {"zstd": {}, "gzip": {}}, "prefer": ["zstd", "gzip"]},
                _http_proxy(route, hold_seconds),
            ]
        },
    ]


def _drop(headers: Sequence[str]) -> Json:
    return {"handler": "headers", "request": {"delete": list(headers)}}


def _proxy(upstreams: list[Json], **more: Any) -> Json:
    """No connection is kept for the next request: the pool knows an upstream by its alias, and a kept connection would
    lead to the container that had the alias before. (A `Connection: close` header alone does not keep Caddy from
    using one again: one POST in five then failed.)"""
    transport = {"protocol": "http", "dial_timeout": "2s", "compression": False, "keep_alive": {"enabled": False}}
    return {"handler": "reverse_proxy", "upstreams": upstreams, "transport": transport, **more}


def _http_proxy(route: Route, hold_seconds: float) -> Json:
    """Only when a request's body has been read does Caddy notice that its client is gone, and sends it no more."""
    upstreams = [{"dial": counted_address(each), "max_requests": each.max_requests} for each in route.upstreams]
    return _proxy(
        upstreams,
        load_balancing=_hold("least_conn", hold_seconds),
        health_checks={"active": _door(route.key, DOOR_INTERVAL)},
        request_buffers=BUFFER_BYTES,
    )


def _event_proxy(route: Route, hold_seconds: float) -> Json:
    """Odoo's event port; where it refuses (an Odoo without workers serves websockets on its http port), that one for
    the next two seconds. With several instances the first one that answers takes all websockets. A reload would close
    every websocket at once without `stream_close_delay`."""
    addresses = _event_addresses(route.upstreams)
    return _proxy(
        [{"dial": address} for address in addresses],
        load_balancing=_hold("first", hold_seconds),
        health_checks={
            "active": _door(route.key, EVENT_DOOR_INTERVAL),
            "passive": {"max_fails": 1, "fail_duration": "2s"},
        },
        stream_close_delay="24h",
    )


def _event_addresses(upstreams: Sequence[Upstream]) -> list[str]:
    """Caddy counts by the address as it is written: with `tcp4/` a websocket on the http port, which lives for hours,
    neither keeps the drain waiting nor uses up `max_requests`."""
    events = [f"tcp4/{each.alias}:{each.event_port}" for each in upstreams if each.event_port]
    fallback = [f"tcp4/{each.alias}:{each.http_port}" for each in upstreams]
    return list(dict.fromkeys(events + fallback))


def _hold(policy: str, hold_seconds: float) -> Json:
    """Waits while no upstream is available or none accepts a connection. What was sent once is never sent again,
    whatever its method (Caddy would repeat a GET): hence the condition that no request meets."""
    return {
        "selection_policy": {"policy": policy},
        "try_duration": f"{round(hold_seconds * 1000)}ms",
        "try_interval": f"{round(TRY_INTERVAL * 1000)}ms",
        "retry_match": [{"method": ["NEVER"]}],
    }


def _door(key: str, interval: float) -> Json:
    """The upstream counts as healthy while the door's file is there."""
    return {
        "upstream": DOORS,
        "uri": f"/{key}",
        "interval": f"{round(interval * 1000)}ms",
        "timeout": "1s",
        "expect_status": 200,
    }


def _error_routes() -> list[Json]:
    """A 503 behind a closed door is an update; behind an open one it is an Odoo that is down or overrun."""
    closed = {
        "vars": {"{http.error.status_code}": ["503"]},
        "not": [{"file": {"root": DOORS_FOLDER, "try_files": ["/{http.vars.ocore_door}"]}}],
    }
    down = {"vars": {"{http.error.status_code}": ["502", "503", "504"]}}
    updating = edge_maintenance.updating
    return [
        {"handle": [_hide_the_server()]},
        {"match": [closed | FOR_PEOPLE], "terminal": True, "handle": updating(*UPDATING, state=STATE, people=True)},
        {"match": [closed], "terminal": True, "handle": updating(*UPDATING, state=STATE, people=False)},
        {"match": [down | FOR_PEOPLE], "terminal": True, "handle": [page(*UNREACHABLE)]},
        {"match": [down], "terminal": True, "handle": [answer(*UNREACHABLE)]},
        {"handle": [_plain(0, "{http.error.status_code} {http.error.status_text}\n") | ERROR_STATUS]},
    ]
