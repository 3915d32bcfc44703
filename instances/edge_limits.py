"""What the edge asks of a client before it is let near an environment, as pieces of Caddy's configuration.

Caddy has no rate limiter of its own, and plugins would be another program than the one that is maintained. So it asks a
small HAProxy beside it (`instances/limiter.py`), which counts by environment and client address: 204 lets the request
on, 429 doesn't. Whatever else happens lets it on: a limiter that is down, hangs or is being made anew costs
protection, no request. It is asked over a unix socket in a volume that only these two share, so no neighbour can count
for another. That takes 0.15 ms.

The address is Caddy's idea of the client's (`client_ip`): behind a proxy that the server trusts, the one that it tells.
"""

import json

from instances.edge_answers import FOR_PEOPLE, POLICY, Json, page_body
from instances.runtimes.base import Route

SOCKET_FOLDER = "/limiter"
SOCKET = f"{SOCKET_FOLDER}/ask.sock"
PASSING = "127.0.0.1:2021"
"""Where the edge answers itself in the limiter's place."""
TIMEOUTS: Json = {"read_header_timeout": "30s", "read_timeout": "30m", "idle_timeout": "2m"}
"""For a request's header; for all of it (256 MiB at 1.2 Mbit/s); between two requests. None of them counts while Odoo
thinks or a websocket is open: tried with answers that take longer."""
RETRY_AFTER = 5
WINDOW = 10
"""Seconds over which the rate is an average."""
HEADERS = ("X-Ocore-Key", "X-Ocore-Address", "X-Ocore-Rate", "X-Ocore-Burst")
ASK_SECONDS = 0.25
"""After so long without an answer the request goes on, and nobody is asked for `AWAY_SECONDS`."""
AWAY_SECONDS = 2
TOO_MANY = (
    "too_many_requests",
    "Too many requests",
    "More requests came from your network than this service takes at once. Please wait a few seconds.",
)


def servers() -> Json:
    """Caddy's own, that lets on whom the limiter cannot judge."""
    on = {"handler": "static_response", "status_code": 204}
    return {
        "passing": {"listen": [PASSING], "automatic_https": {"disable": True}, "routes": [{"handle": [on]}]},
    }


def too_slow() -> Json:
    """Who has not sent its request in time (Caddy answers 499). If the connection were not closed then, it would be
    read on for another 256 KB, without a deadline."""
    response = {"require": {"status_code": [499]}, "set": {"Connection": ["close"]}}
    return {"handler": "headers", "response": response}


def in_front(route: Route, *, except_for: Json) -> list[Json]:
    """Routes that come before an environment's own; none where nothing is limited. `except_for`: headers of those who
    pass."""
    limits = route.limits
    if not limits.requests_per_second:
        return []
    values = (route.key, "{http.vars.client_ip}", str(limits.requests_per_second), str(limits.request_burst))
    ask = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{SOCKET}"}, {"dial": PASSING}],
        "rewrite": {"method": "GET", "uri": "/"},
        "headers": {
            "request": {
                "set": {name: [value] for name, value in zip(HEADERS, values, strict=True)},
                "delete": ["Cookie", "Authorization", "Referer", "User-Agent", "Accept*", "Sec-*", "X-Forwarded-*"],
            }
        },
        "transport": {"protocol": "http", "dial_timeout": "100ms", "response_header_timeout": f"{ASK_SECONDS}s"},
        "load_balancing": {"selection_policy": {"policy": "first"}, "retries": 1, "try_interval": "1ms"},
        "health_checks": {"passive": {"max_fails": 1, "fail_duration": f"{AWAY_SECONDS}s"}},
        "handle_response": [
            {"match": {"status_code": [429]}, "routes": _refused()},
            {"routes": [{"handle": [{"handler": "vars"}]}]},
        ],
    }
    return [{"match": [{"not": [{"header": except_for}]}], "handle": [ask]}]


def _refused() -> list[Json]:
    code, headline, text = TOO_MANY
    page = page_body(title="", headline=headline, text=text)
    answer = json.dumps({"error": code, "message": f"{headline}. {text}", "retry_after": RETRY_AFTER})
    return [
        {"handle": [{"handler": "vars", "log_skip": True}]},
        {"match": [FOR_PEOPLE], "terminal": True, "handle": [_response("text/html; charset=utf-8", page)]},
        {"terminal": True, "handle": [_response("application/json", answer.replace("{", "\\{"))]},
    ]


def _response(content_type: str, body: str) -> Json:
    headers = {
        "Content-Type": [content_type],
        "Retry-After": [str(RETRY_AFTER)],
        "Cache-Control": ["no-store"],
        "Content-Security-Policy": [POLICY],
    }
    return {"handler": "static_response", "status_code": 429, "headers": headers, "body": body}
