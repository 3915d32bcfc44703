"""Who comes in to an environment, under which name: the edge's handlers before all others, as data for Caddy.

oCore's own looks (`LOOK_HEADER`) pass all of it: they judge Odoo, and come to the generated name over http.
"""

from collections.abc import Iterable
from typing import Any

from django.utils.crypto import salted_hmac

from instances.runtimes.base import Entrance, Entry, Name, Route

Json = dict[str, Any]

LOOK_HEADER = "X-Ocore-Look"
REFUSED = "Access from {http.vars.client_ip} is not allowed here.\n"
FORWARDED = {
    # Odoo takes the last address for the client's: it must be the only one, and not a proxy's before the edge.
    "X-Forwarded-For": ["{http.vars.client_ip}"],
    "X-Forwarded-Host": ["{http.request.hostport}"],
}


def look_key(pass_key: str) -> str:
    """Opens no door: the key that does cannot be found from it."""
    return salted_hmac("ocore.edge.look", pass_key, algorithm="sha256").hexdigest()


def front(route: Route, pass_key: str, entrance: Entrance) -> list[Json]:
    """Routes to be put before the environment's own."""
    entry = route.entry
    guards = [*_redirects(entry.names), *_to_https(entry, entrance), *_allowed(entry), *_prompt(entry)]
    routes: list[Json] = []
    if guards:
        others = {"not": [{"header": {LOOK_HEADER: [look_key(pass_key)]}}]}
        routes.append({"match": [others], "handle": [{"handler": "subroute", "routes": guards}]})
    routes.append({"handle": [{"handler": "headers", "request": {"delete": [LOOK_HEADER]}}, *_limits(entry)]})
    if entry.hsts_seconds:
        said = {"Strict-Transport-Security": [f"max-age={entry.hsts_seconds}"]}
        routes.append({"match": [{"protocol": "https"}, *_forwarded_https(entrance)], "handle": [_answer_with(said)]})
    return routes


def told_the_client(routes: list[Json], entrance: Entrance) -> list[Json]:
    """The same routes; behind trusted proxies every `reverse_proxy` in them tells Odoo the client that the edge has
    found out. Without any, Caddy says the same by itself."""
    return _with_forwarded(routes) if entrance.trusted_proxies else routes


def _with_forwarded(data: Any) -> Any:
    if isinstance(data, list):
        return [_with_forwarded(one) for one in data]
    if not isinstance(data, dict):
        return data
    found = {name: _with_forwarded(value) for name, value in data.items()}
    if found.get("handler") == "reverse_proxy":
        said = found.get("headers", {}).get("request", {}).get("set", {})
        found["headers"] = {"request": {"set": {**said, **FORWARDED}}}
    return found


def _redirects(names: Iterable[Name]) -> list[Json]:
    """308: the method stays, path and query too."""
    by_target: dict[str, list[str]] = {}
    for name in names:
        if name.leads_to:
            by_target.setdefault(name.leads_to, []).append(name.host)
    return [
        {"match": [{"host": sorted(hosts)}], "terminal": True, "handle": [_redirect(target)]}
        for target, hosts in sorted(by_target.items())
    ]


def _to_https(entry: Entry, entrance: Entrance) -> list[Json]:
    """The challenges of an ACME server are answered before any route."""
    if not entry.https_only:
        return []
    plain: Json = {"protocol": "http"}
    if entrance.trusted_proxies:
        plain["not"] = _forwarded_https(entrance)
    there = f"https://{{http.request.host}}{entry.https_at}"
    return [{"match": [plain], "terminal": True, "handle": [_redirect(there)]}]


def _forwarded_https(entrance: Entrance) -> list[Json]:
    """A proxy that is trusted has got it over https."""
    if not entrance.trusted_proxies:
        return []
    said = {"X-Forwarded-Proto": ["https"]}
    return [{"remote_ip": {"ranges": sorted(entrance.trusted_proxies)}, "header": said}]


def _allowed(entry: Entry) -> list[Json]:
    if not entry.allowed:
        return []
    refuse = {
        "handler": "static_response",
        "status_code": 403,
        "headers": {"Content-Type": ["text/plain; charset=utf-8"], "Cache-Control": ["no-store"]},
        "body": REFUSED,
    }
    others = {"not": [{"client_ip": {"ranges": sorted(entry.allowed)}}]}
    return [{"match": [others], "terminal": True, "handle": [refuse]}]


def _prompt(entry: Entry) -> list[Json]:
    """What was typed there is not Odoo's to see."""
    if not entry.accounts:
        return []
    accounts = [{"username": user, "password": password} for user, password in entry.accounts]
    basic = {"accounts": accounts, "hash": {"algorithm": "bcrypt"}, "hash_cache": {}, "realm": "Restricted"}
    return [
        {
            "handle": [
                {"handler": "authentication", "providers": {"http_basic": basic}},
                {"handler": "headers", "request": {"delete": ["Authorization"]}},
            ]
        }
    ]


def _limits(entry: Entry) -> list[Json]:
    limits: list[Json] = [{"handler": "request_body", "max_size": entry.max_body}]
    return [*limits, _answer_with({"X-Robots-Tag": ["noindex, nofollow"]})] if entry.hidden else limits


def _answer_with(headers: Json) -> Json:
    return {"handler": "headers", "response": {"deferred": True, "set": headers}}


def _redirect(there: str) -> Json:
    return {
        "handler": "static_response",
        "status_code": 308,
        "headers": {"Location": [f"{there}{{http.request.uri}}"], "Cache-Control": ["no-cache"]},
    }
