"""Two versions of an environment behind one name: who is led to which, and what became of their requests; as data for
Caddy.

Only a browser that opens a page, and brings no mark yet, is led by chance, and gets a cookie that keeps it where it
is; whatever brings none (a program that calls Odoo's API) stays with the first version, so that its writes never come
into two databases. To switch all of them, and back, takes a file (`edge_files`) and no reload.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from instances import edge_tls
from instances.edge_answers import FOR_PEOPLE, Json
from instances.edge_maintenance import NOTICES
from instances.runtimes.base import Figures, Route, Second

STATE = edge_tls.FOLDER
FOLDER = f"{STATE}/log"
SWITCHED = "switched"
"""Folder beside the notices, with a file for each environment whose clients are all led to its second version."""
COOKIE = "ocore_version"
COOKIE_SECONDS = 90 * 24 * 3600
SIDES = ("first", "second")
ROLL_MB = 20
"""Of the requests that are kept for the figures, about 150,000."""
STEPS = 256
"""How fine chance is: two hexadecimal digits."""

# $1 the log's file. Caddy writes a line per request; of both versions: number, 4xx, 5xx, median, p95, the first one's
# time.
FIGURES = """
for side in first second; do
    [ -f "$1" ] || exit 0
    busybox grep -F "\\"version\\":\\"$side\\"" "$1" | busybox awk '
        function value(name,  from) {
            if (!match($0, "\\"" name "\\":[0-9.e+-]+")) return ""
            return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
        }
        value("status") != 101 { printf "%.6f %d %.3f\\n", value("duration"), value("status"), value("ts") }
    ' | busybox sort -n | busybox awk -v side="$side" '
        { took[NR] = $1; if ($2 >= 500) failed++; else if ($2 >= 400) refused++
          if (!since || $3 < since) since = $3 }
        END { if (NR) printf "%s %d %d %d %.6f %.6f %.3f\\n", side, NR, refused, failed,
              took[int((NR + 1) / 2)], took[int(NR * 0.95) < 1 ? 1 : int(NR * 0.95)], since }'
done
"""


def log_file(mark: str) -> str:
    """Each test has its own, which goes when the next begins."""
    return f"{FOLDER}/{mark}/requests.log"


def marks(ordered: Iterable[Route]) -> str:
    """Of all whose logs are kept."""
    return " ".join(route.second.mark for route in ordered if route.second)


def routes(route: Route, first: list[Json], second: list[Json]) -> list[Json]:
    """`first` for those who stay, `second` for those who are led to the other version."""
    there = route.second
    if there is None:
        return first
    switched = {"file": {"root": f"{STATE}/{NOTICES}/{SWITCHED}", "try_files": [f"/{route.key}"]}}
    found = _side("second", [switched], second)
    if there.share:
        found += _side("second", _led(there), second, _mark(there, "second"))
    return found + _side("first", [], first, _mark(there, "first") if there.share else None)


def _side(name: str, match: list[Json], inside: list[Json], mark: Json | None = None) -> list[Json]:
    counted = {"handler": "log_append", "key": "version", "value": name}
    routes: list[Json] = [{"handle": [counted]}]
    if mark:
        routes.append(mark)
    whole: Json = {"handle": [{"handler": "subroute", "routes": [*routes, *inside]}], "terminal": True}
    return [whole | ({"match": match} if match else {})]


def _led(there: Second) -> list[Json]:
    """Who was led there before, or is now: either of two."""
    new: Json = {**_opens_a_page(), "not": [_carries(there, "first")]}
    if there.own_data:
        new["not"].append({"header_regexp": {"Cookie": {"pattern": r"(^|;\s*)session_id="}}})
    return [
        _carries(there, "second"),
        new | {"vars_regexp": {"{http.request.uuid}": {"pattern": _chance(there.share)}}},
    ]


def _opens_a_page() -> Json:
    return {"method": ["GET", "HEAD"], **FOR_PEOPLE}


def _carries(there: Second, side: str) -> Json:
    return {"header_regexp": {"Cookie": {"pattern": rf"(^|;\s*){COOKIE}={there.mark}-{side}(;|$)"}}}


def _chance(share: int) -> str:
    """Matches the random identifier of that percentage of the requests."""
    return f"^({'|'.join(f'{number:02x}' for number in range(max(1, round(share * STEPS / 100))))})"


def _mark(there: Second, side: str) -> Json:
    """A browser that has come by chance stays there."""
    value = f"{COOKIE}={there.mark}-{side}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax"
    said = {"handler": "headers", "response": {"deferred": True, "add": {"Set-Cookie": [value]}}}
    return {"match": [{**_opens_a_page(), "not": [_carries(there, side)]}], "handle": [said]}


def logs(ordered: Iterable[Route]) -> Json:
    """The logs to which the requests to two versions go, and nothing of who asked for what."""
    gone = ("request", "resp_headers", "user_id", "bytes_read", "size", "logger", "msg", "level")
    return {
        f"split-{route.key}": {
            "include": [f"http.log.access.split-{route.key}"],
            "writer": {
                "output": "file",
                "filename": log_file(route.second.mark if route.second else ""),
                "mode": "0600",
                "roll_size_mb": ROLL_MB,
                "roll_keep": 1,
            },
            "encoder": {
                "format": "filter",
                "wrap": {"format": "json"},
                "fields": {name: {"filter": "delete"} for name in gone},
            },
        }
        for route in _split(ordered)
    }


def logger_names(ordered: Iterable[Route]) -> Json:
    """Of the server that clients reach: by host."""
    found = {host: [f"split-{route.key}"] for route in _split(ordered) for host in route.hosts}
    return {"logger_names": found} if found else {}


def _split(ordered: Iterable[Route]) -> Iterator[Route]:
    return (route for route in ordered if route.second)


def lead_to(route: Route, there: Second) -> Route:
    """The same, as its second version serves it."""
    return replace(route, upstreams=there.upstreams, second=None)


def read(output: str) -> Mapping[str, Figures]:
    found = {}
    for line in output.splitlines():
        side, number, refused, failed, median, p95, since = line.split()
        if side in SIDES:
            at = datetime.fromtimestamp(float(since), UTC)
            found[side] = Figures(int(number), int(refused), int(failed), float(median), float(p95), at)
    return found
