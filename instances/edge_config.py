"""The edge's whole configuration, as data for Caddy's admin API; what each choice defends is said where it is made.

A request passes two servers in the one Caddy. The outer one, which clients reach, hands it to an instance's door: a
symbolic link in the edge's volume to the socket of an inner server. A link that isn't there accepts no connection, so
the request waits and tries again. There is an inner server for each colour, and it knows the container of that colour:
who turns the link over sends what comes next to the other container, with no reload and at one instant.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from instances import edge_access, edge_limits, edge_maintenance, edge_split, edge_tls
from instances.edge_access import LOOK_HEADER, look_key
from instances.edge_answers import FOR_PEOPLE, Json, answer, literal, page, plain
from instances.runtimes.base import Colour, EdgeError, Entrance, Route, Upstream

HTTP_PORT = 8080
"""On which the edge listens inside its container."""
ADMIN = "127.0.0.1:2019"
STATE = edge_tls.FOLDER
DOORS_FOLDER = f"{STATE}/doors"
SIDES_FOLDER = f"{STATE}/run"
"""Where the inner servers listen."""
PASS_HEADER = "X-Ocore-Pass"  # noqa: S105 - the header's name, not its value
DOOR_HEADER = "X-Ocore-Door"
"""By which an inner server knows through which door a request has come; clients' own never get so far."""
RETURN_SECONDS = 0.25
"""After which an instance of several that accepted no connection is tried again."""
TRY_INTERVAL = 0.1
"""Seconds after which a held request tries again: at twice as often, 250 that wait took a fifth of a processor."""
MAX_BODY_BYTES = 4 * 1024**3
"""Whatever an environment's own limit says."""
BUFFER_BYTES = 256 * 1024
"""Of each request's body, kept in the edge's memory while it is held."""
PLAIN = Entrance()

EVENTS: list[Json] = [{"path": ["/websocket", "/websocket/*", "/longpolling/*"]}]
"""What Odoo's event port serves."""

HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
KEY = re.compile(r"[A-Za-z0-9-]+")

UPDATING = (
    "updating",
    "Back in a moment",
    "This service is being updated or restarted. Nothing that you have saved is lost; please try again shortly.",
)
UNREACHABLE = (
    "unreachable",
    "Not reachable at the moment",
    "This service does not answer just now. Please try again in a few minutes.",
)


def configuration(routes: Iterable[Route], *, pass_key: str, hold_seconds: float, entrance: Entrance = PLAIN) -> Json:
    """What the edge should be; the same routes in any order give the same data. `EdgeError` on names that are none.

    It carries its own `digest` as Caddy's `@id` of the last route, so that the admin API can be asked whether it is
    the one that is loaded."""
    ordered = sorted(routes, key=lambda route: route.key)
    _check(ordered)
    data = _everything(ordered, pass_key, hold_seconds, entrance)
    data["apps"]["http"]["servers"]["edge"]["routes"][-1]["@id"] = digest(data)
    return data


def digest(data: Json) -> str:
    """Names a configuration; that of one made by `configuration` is `loaded_id`."""
    return "ocore-" + hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:32]


def loaded_id(data: Json) -> str:
    return str(data["apps"]["http"]["servers"]["edge"]["routes"][-1]["@id"])


def _everything(ordered: Sequence[Route], pass_key: str, hold_seconds: float, entrance: Entrance) -> Json:
    return {
        "admin": {"listen": ADMIN},
        "logging": {"logs": {"default": _log(), **edge_split.logs(ordered)}},
        "apps": {
            **edge_tls.apps(ordered, entrance),
            "http": {
                **edge_tls.ports(entrance, HTTP_PORT),
                "grace_period": "3s",
                "servers": {
                    **edge_limits.servers(),
                    "edge": {
                        **edge_tls.listening(entrance, HTTP_PORT),
                        "automatic_https": {"disable": True},
                        **edge_limits.TIMEOUTS,
                        "logs": edge_split.logger_names(ordered),
                        "routes": [
                            {"handle": [_hide_the_server(), edge_limits.too_slow()]},
                            *(_environment(route, pass_key, hold_seconds, entrance) for route in ordered),
                            {"handle": [plain(404, "Not found\n")]},
                        ],
                        "errors": {"routes": [*_closed_routes(), *_error_routes()]},
                    },
                    **{str(colour): _side(colour, ordered, hold_seconds) for colour in Colour},
                },
            },
        },
    }


def door_address(upstream: Upstream) -> str:
    """An instance's door, and the name under which Caddy counts the requests that have gone through it."""
    return f"unix/{DOORS_FOLDER}/{upstream.alias}"


def _event_door_address(upstream: Upstream) -> str:
    """The same for websockets and long polls, which are counted apart: they last for hours."""
    return f"unix/{DOORS_FOLDER}/./{upstream.alias}"


def counted_address(upstream: Upstream, colour: Colour) -> str:
    """The name under which Caddy counts the requests at a container; those of websockets go by `_event_addresses`."""
    return f"{upstream.name(colour)}:{upstream.http_port}"


def _side(colour: Colour, ordered: Sequence[Route], hold_seconds: float) -> Json:
    """What the doors lead to: the containers of a colour. Only the outer server connects to its socket, so what that
    says of the client is believed."""
    return {
        "listen": [f"unix/{SIDES_FOLDER}/{colour}.sock"],
        "automatic_https": {"disable": True},
        "trusted_proxies_unix": True,
        "logs": {},
        "routes": [
            *(
                _behind_the_door(route, position, colour, hold_seconds)
                for route in ordered
                for position in range(len(route.upstreams))
            ),
            {"handle": [{"handler": "error", "status_code": 502}]},
        ],
        "errors": {"routes": _error_routes()},
    }


def _behind_the_door(route: Route, position: int, colour: Colour, hold_seconds: float) -> Json:
    """Its own container first; the other instances' where that accepts no connection."""
    upstream = route.upstreams[position]
    pool = [upstream, *route.upstreams[:position], *route.upstreams[position + 1 :]]
    return {
        "match": [{"header": {DOOR_HEADER: [door_address(upstream), _event_door_address(upstream)]}}],
        "terminal": True,
        "handle": [
            {
                "handler": "subroute",
                "routes": [
                    {"handle": [_facts(route), _drop([DOOR_HEADER])]},
                    {"match": EVENTS, "terminal": True, "handle": [_event_proxy(pool, colour, hold_seconds)]},
                    {"handle": [_http_side(pool, colour, hold_seconds)]},
                ],
            }
        ],
    }


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
        for upstream in (*route.upstreams, *(route.second.upstreams if route.second else ())):
            check_alias(upstream.alias)


def check_alias(alias: str) -> None:
    """Raises `EdgeError` for what cannot name a door, and a container on the edge's network."""
    if not NAME.fullmatch(alias):
        raise EdgeError(f"“{alias}” cannot be a name on the edge's network.")


def _log() -> Json:
    """Errors only: a closed door alone would log ten lines a second. No header with a secret in it, and no query:
    Odoo's links carry tokens there."""
    secret: Json = {
        f"request>headers>{name}": {"filter": "delete"}
        for name in (PASS_HEADER, LOOK_HEADER, "Cookie", "Authorization")
    }
    secret["request>uri"] = {"filter": "regexp", "regexp": "\\?.*", "value": "?..."}
    return {
        "level": "ERROR",
        "writer": {"output": "stdout"},
        "encoder": {"format": "filter", "wrap": {"format": "json"}, "fields": secret},
    }


def _hide_the_server() -> Json:
    return {"handler": "headers", "response": {"deferred": True, "delete": ["Server", "Via"]}}


def _environment(route: Route, pass_key: str, hold_seconds: float, entrance: Entrance) -> Json:
    """In this order: what costs least to refuse comes first."""
    look = {LOOK_HEADER: [look_key(pass_key)]}
    passes = {PASS_HEADER: [pass_value(pass_key, colour) for colour in Colour]}
    routes = [
        *edge_limits.in_front(route, except_for=look),
        *edge_access.front(route, pass_key, entrance),
        *edge_maintenance.in_front(route, state=STATE, except_for=passes),
        *edge_access.told_the_client(_inside(route, pass_key, hold_seconds), entrance),
    ]
    return {
        "match": [{"host": sorted(route.hosts)}],
        "terminal": True,
        "handle": [{"handler": "subroute", "routes": routes}],
    }


def _inside(route: Route, pass_key: str, hold_seconds: float) -> list[Json]:
    """The client's own word about where it comes from is dropped; Caddy then says it to Odoo (X-Forwarded-*)."""
    if not route.upstreams:
        return [{"handle": [_facts(route), {"handler": "error", "status_code": 503}]}]
    limit = {"handler": "request_body", "max_size": MAX_BODY_BYTES}
    untrusted = [PASS_HEADER, "Forwarded", "X-Real-Ip", "X-Forwarded-Port", "X-Forwarded-Prefix"]
    return [
        {"handle": [_facts(route)]},
        {
            # One folder further down is the same page under a language's prefix.
            "match": [{"path": ["/web/database*", "/*/web/database", "/*/web/database/*"]}],
            "terminal": True,
            "handle": [plain(404, "Not found\n")],
        },
        *(
            {
                "match": [{"header": {PASS_HEADER: [pass_value(pass_key, colour)]}}],
                "terminal": True,
                "handle": [
                    _drop(untrusted),
                    limit,
                    _proxy([{"dial": counted_address(each, colour)} for each in route.upstreams]),
                ],
            }
            for colour in Colour
        ),
        {"handle": [_drop(untrusted), limit]},
        *edge_split.routes(route, _to_the_doors(route, hold_seconds), _to_the_second(route, hold_seconds)),
    ]


def _to_the_doors(route: Route, hold_seconds: float) -> list[Json]:
    return [
        {"match": EVENTS, "terminal": True, "handle": [_event_doors(route, hold_seconds)]},
        {
            "handle": [
                {"handler": "encode", "encodings": {"zstd": {}, "gzip": {}}, "prefer": ["zstd", "gzip"]},
                _http_doors(route, hold_seconds),
            ]
        },
    ]


def _to_the_second(route: Route, hold_seconds: float) -> list[Json]:
    if route.second is None:
        return []
    there = edge_split.lead_to(route, route.second)
    return [{"handle": [_facts(there)]}, *_to_the_doors(there, hold_seconds)]


def pass_value(pass_key: str, colour: Colour) -> str:
    """What opens the way past the doors to the containers of a colour."""
    return f"{pass_key}-{colour}"


def _facts(route: Route) -> Json:
    """What the pages for errors show, and by which door they tell an update."""
    door = route.upstreams[0].alias if route.upstreams else route.key
    title = literal(html.escape(route.title))
    return {"handler": "vars", "ocore_title": title, "ocore_door": door, "ocore_key": route.key}


def _drop(headers: Sequence[str]) -> Json:
    return {"handler": "headers", "request": {"delete": list(headers)}}


def _proxy(upstreams: list[Json], **more: Any) -> Json:
    """No connection is kept for the next request: the pool knows an upstream by its alias, and a kept connection would
    lead to the container that had the alias before. (A `Connection: close` header alone does not keep Caddy from
    using one again: one POST in five then failed.)"""
    transport = {"protocol": "http", "dial_timeout": "2s", "compression": False, "keep_alive": {"enabled": False}}
    return {"handler": "reverse_proxy", "upstreams": upstreams, "transport": transport, **more}


def _http_doors(route: Route, hold_seconds: float) -> Json:
    """Only when a request's body has been read does Caddy notice that its client is gone, and sends it no more."""
    upstreams = [{"dial": door_address(each), "max_requests": each.max_requests} for each in route.upstreams]
    return _doors(upstreams, hold_seconds, request_buffers=BUFFER_BYTES)


def _event_doors(route: Route, hold_seconds: float) -> Json:
    """A reload would close every websocket at once without `stream_close_delay`."""
    upstreams: list[Json] = [{"dial": _event_door_address(each)} for each in route.upstreams]
    return _doors(upstreams, hold_seconds, stream_close_delay="24h")


def _doors(upstreams: list[Json], hold_seconds: float, **more: Any) -> Json:
    if len(upstreams) > 1:
        # Else the one whose door is closed would have the least connections, and be chosen again and again.
        more["health_checks"] = {"passive": {"max_fails": 1, "fail_duration": _milliseconds(RETURN_SECONDS)}}
    return _proxy(
        upstreams,
        load_balancing=_hold("least_conn", hold_seconds),
        headers={"request": {"set": {DOOR_HEADER: ["{http.reverse_proxy.upstream.address}"]}}},
        **more,
    )


def _http_side(pool: Sequence[Upstream], colour: Colour, hold_seconds: float) -> Json:
    """An instance of several that ends with a request in its hands: what only reads is asked of another, once. More
    often would let a request that kills an Odoo kill them all, again and again. What may have written is never sent
    again: its client hears that nobody knows."""
    own, *others = pool
    if not others:
        return _http_proxy(pool, colour, hold_seconds)
    broken_off = {"method": ["GET", "HEAD"], "vars": {"{http.error.status_code}": ["502"]}}
    again = _http_proxy([*others, own], colour, hold_seconds)
    as_it_was = {"handler": "error", "status_code": "{http.error.status_code}"}
    return {
        "handler": "subroute",
        "routes": [{"handle": [_http_proxy(pool, colour, hold_seconds)]}],
        "errors": {
            "routes": [{"match": [broken_off], "terminal": True, "handle": [again]}, {"handle": [as_it_was]}],
        },
    }


def _http_proxy(pool: Sequence[Upstream], colour: Colour, hold_seconds: float) -> Json:
    return _proxy(
        [{"dial": counted_address(each, colour), "max_requests": each.max_requests} for each in pool],
        load_balancing=_hold("first", hold_seconds),
        **(_ONE_THAT_IS_DOWN if len(pool) > 1 else {}),
    )


def _event_proxy(pool: Sequence[Upstream], colour: Colour, hold_seconds: float) -> Json:
    """Odoo's event port; where it refuses (an Odoo without workers serves websockets on its http port), that one for
    the next two seconds."""
    return _proxy(
        [{"dial": address} for address in _event_addresses(pool, colour)],
        load_balancing=_hold("first", hold_seconds),
        stream_close_delay="24h",
        **_ONE_THAT_IS_DOWN,
    )


_ONE_THAT_IS_DOWN: Json = {"health_checks": {"passive": {"max_fails": 1, "fail_duration": "2s"}}}
"""Is not tried again so soon, where there is another."""


def _event_addresses(pool: Sequence[Upstream], colour: Colour) -> list[str]:
    """Caddy counts by the address as it is written: with `tcp4/` a websocket on the http port, which lives for hours,
    does not keep the drain waiting."""
    found = []
    for each in pool:
        ports = [each.event_port] if each.event_port else []
        found += [f"tcp4/{each.name(colour)}:{port}" for port in (*ports, each.http_port)]
    return list(dict.fromkeys(found))


def _hold(policy: str, hold_seconds: float) -> Json:
    """Waits while no upstream is available or none accepts a connection. Caddy would send a GET that was broken off
    again and again until then: hence the condition that no request meets; `_http_side` does it once."""
    return {
        "selection_policy": {"policy": policy},
        "try_duration": _milliseconds(hold_seconds),
        "try_interval": _milliseconds(TRY_INTERVAL),
        "retry_match": [{"method": ["NEVER"]}],
    }


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _closed_routes() -> list[Json]:
    """What doesn't get through its door is answered by whether there is one."""
    updating = edge_maintenance.updating
    closed = {"not": [{"file": {"root": DOORS_FOLDER, "try_files": ["/{http.vars.ocore_door}"]}}]} | {
        "vars": {"{http.error.status_code}": ["502", "503"]}
    }
    people = [_hide_the_server(), *updating(*UPDATING, state=STATE, people=True)]
    programs = [_hide_the_server(), *updating(*UPDATING, state=STATE, people=False)]
    return [
        {"match": [closed | FOR_PEOPLE], "terminal": True, "handle": people},
        {"match": [closed], "terminal": True, "handle": programs},
    ]


def _error_routes() -> list[Json]:
    """An Odoo that is down or overrun."""
    down = {"vars": {"{http.error.status_code}": ["502", "503", "504"]}}
    return [
        {"handle": [_hide_the_server()]},
        {"match": [down | FOR_PEOPLE], "terminal": True, "handle": [page(*UNREACHABLE)]},
        {"match": [down], "terminal": True, "handle": [answer(*UNREACHABLE)]},
        {"handle": [plain("{http.error.status_code}", "{http.error.status_code} {http.error.status_text}\n")]},
    ]
