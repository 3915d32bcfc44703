"""What the edge does about maintenance, as pieces of Caddy's configuration: pure functions, nothing is asked.

Nothing here needs a reload when a person sets or lifts maintenance, makes a link or revokes one: a reload fails the
requests that are being held on that server. What changes lies in files of the edge's volume, at which it looks with
each request (`instances/edge_files.py` writes them):

- `notices/maintenance/<key>.json`: while it is there, the environment answers 503 at once, with its text and end.
- `notices/passes/<key>/<64 hex digits>`: a tester's pass that is valid.
- `estimates/<key>`: when the door is expected to open, in Unix seconds.

A pass is an HMAC of its row under the portal's secret key (`instances/testers.py`): nobody makes one up, the edge
checks it by the file's name, without the portal, and a lost volume is written anew from rows that hold no secret. What
a client sends becomes part of a path only after it has been seen to be 64 hex digits, so no path leads elsewhere. The
cookie passes maintenance and nothing else: a door is closed because data changes behind it.

The texts were escaped by us. `readFile` and `placeholder` put them into the page as they are: Caddy evaluates neither.
"""

import html
import json

from instances.edge_answers import FOR_PEOPLE, POLICY, RETRY_AFTER, Json, literal, page_body
from instances.runtimes.base import Route

NOTICES = "notices"
ESTIMATES = "estimates"
"""Folders below the edge's `STATE`."""
COOKIE = "ocore_pass"
LINK_PATH = "/ocore-pass"
LINK_PARAMETER = "t"
"""In the query, which the edge never writes into its log."""
WITHOUT_END = 300
"""Seconds after which clients may come again where maintenance has no end."""
REFRESH = 30
LONG_PATIENCE = 3600
"""Nobody is sent away for longer: it may be over before its time."""
_PASS = "^[0-9a-f]{64}$"  # noqa: S105 - the form of one

_HEAD = (
    '{{$n := fromJson (default "{}" (placeholder "http.vars.ocore_notice"))}}'
    f"{{{{$s := {WITHOUT_END}}}}}"
    f"{{{{with $n.until}}}}{{{{$s = max 1 (min {LONG_PATIENCE} (sub (int64 .) now.Unix))}}}}{{{{end}}}}"
    '{{.RespHeader.Set "Retry-After" (toString $s)}}'
)
_ESTIMATE = (
    '{{$f := printf "' + ESTIMATES + '/%s" (placeholder "http.vars.ocore_key")}}'
    "{{$e := 0}}{{if fileExists $f}}{{$e = sub (atoi (trim (readFile $f))) now.Unix}}{{end}}"
    f"{{{{$s := {RETRY_AFTER}}}}}{{{{if gt $e {RETRY_AFTER}}}}}{{{{$s = min $e {LONG_PATIENCE}}}}}{{{{end}}}}"
    '{{.RespHeader.Set "Retry-After" (toString $s)}}'
)
_ABOUT = "{{if gt $e 90}}about {{div (add $e 59) 60}} minutes{{else}}about {{mul (div (add $e 4) 5) 5}} seconds{{end}}"


def in_front(route: Route, *, state: str, except_for: Json) -> list[Json]:
    """Routes that come before an environment's own. `state`: the edge's folder; `except_for`: headers of who passes."""
    return [
        _link(route, state),
        {
            "match": [
                {
                    "file": {"root": f"{state}/{NOTICES}/maintenance", "try_files": [f"/{route.key}.json"]},
                    "not": [{"header": except_for}],
                }
            ],
            "handle": [{"handler": "subroute", "routes": _closed(route, state)}],
        },
        _without_the_cookie(),
    ]


def _link(route: Route, state: str) -> Json:
    """Opening it sets the cookie and leads to the front page. One that isn't valid says so."""
    passed = [_templates(state), _goes_in(route.key)]
    return {
        "match": [{"path": [LINK_PATH]}],
        "terminal": True,
        "handle": [
            {
                "handler": "subroute",
                "routes": [
                    *_with_a_pass(
                        f"{{http.request.uri.query.{LINK_PARAMETER}}}",
                        route.key,
                        state,
                        [{"handle": passed, "terminal": True}],
                    ),
                    {"handle": [_invalid(route)]},
                ],
            }
        ],
    }


def _with_a_pass(where: str, key: str, state: str, routes: list[Json]) -> list[Json]:
    """`routes` for who shows a valid pass. Two levels: of the matchers in one set Caddy promises no order, and the name
    of the file must have been checked before it is looked for."""
    of_file = {"root": f"{state}/{NOTICES}/passes/{key}", "try_files": ["/{http.regexp.ocore_pass.0}"]}
    inner = [{**one, "match": [{"file": of_file}]} for one in routes]
    return [
        {
            "match": [{"vars_regexp": {where: {"name": "ocore_pass", "pattern": _PASS}}}],
            "handle": [{"handler": "subroute", "routes": inner}],
        }
    ]


def _closed(route: Route, state: str) -> list[Json]:
    notice = f"{{file.{state}/{NOTICES}/maintenance/{route.key}.json}}"
    tester = {"handler": "vars", "ocore_tester": "yes"}
    stale = {"handler": "vars", "ocore_tester": "stale"}
    cookie = f"{{http.request.cookie.{COOKIE}}}"
    answers = [
        {"match": [FOR_PEOPLE], "terminal": True, "handle": [_maintenance_page(route)]},
        {"terminal": True, "handle": [_maintenance_answer()]},
    ]
    return [
        {"match": [{"vars_regexp": {cookie: {"pattern": _PASS}}}], "handle": [stale]},
        *_with_a_pass(cookie, route.key, state, [{"handle": [tester]}]),
        {
            "match": [{"not": [{"vars": {"ocore_tester": ["yes"]}}]}],
            "terminal": True,
            # Read once: whoever asks in the instant in which it is lifted gets a page without a text, not an error.
            "handle": [
                {"handler": "vars", "ocore_notice": notice, "log_skip": True},
                _templates(state),
                {"handler": "subroute", "routes": answers},
            ],
        },
    ]


def _without_the_cookie() -> Json:
    """It is the edge's, and none of Odoo's business."""
    away = {"search_regexp": f"(^|; ?){COOKIE}=[^;]*", "replace": ""}
    return {
        "match": [{"header_regexp": {"Cookie": {"pattern": f"(^|; ?){COOKIE}="}}}],
        "handle": [{"handler": "headers", "request": {"replace": {"Cookie": [away]}}}],
    }


def _templates(state: str) -> Json:
    return {"handler": "templates", "file_root": state, "mime_types": ["text/html", "application/json"]}


def _response(status: int | str, content_type: str, body: str, **headers: str) -> Json:
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    always = {"Content-Type": [content_type], "Cache-Control": ["no-store"], "X-Robots-Tag": ["noindex"]}
    return {"handler": "static_response", "status_code": status, "headers": always | named, "body": body}


def _goes_in(key: str) -> Json:
    """As long as the pass: what is in its file is the cookie's end."""
    body = (
        '{{$end := readFile (printf "' + f"{NOTICES}/passes/{key}/" + '%s" (placeholder "http.regexp.ocore_pass.0"))}}'
        '{{$secure := ""}}{{if eq (placeholder "http.request.scheme") "https"}}{{$secure = "; Secure"}}{{end}}'
        '{{.RespHeader.Set "Set-Cookie" (printf "' + COOKIE + "=%s; Path=/; Expires=%s; HttpOnly; SameSite=Lax%s"
        '" (placeholder "http.regexp.ocore_pass.0") (trim $end) $secure)}}'
    )
    return _response(302, "text/html; charset=utf-8", _escaped(body), Location="/", Referrer_Policy="no-referrer")


def _invalid(route: Route) -> Json:
    body = page_body(
        title=literal(html.escape(route.title)),
        headline="This link is not valid any more",
        text="It has expired, or it was revoked. Ask whoever gave it to you for a new one.",
        closing="",
        refresh=3600,
    )
    policy = {"Content_Security_Policy": POLICY, "Referrer_Policy": "no-referrer"}
    return _response(410, "text/html; charset=utf-8", body, **policy)


def _maintenance_page(route: Route) -> Json:
    body = page_body(
        title=literal(html.escape(route.title)),
        headline=_HEAD + "Under maintenance",
        text='{{or $n.html "This service is being looked after. Please try again later."}}',
        more="{{with $n.until_html}}<p>Expected to be back by <strong>{{.}}</strong>.</p>{{end}}"
        '{{if eq (placeholder "http.vars.ocore_tester") "stale"}}'
        "<p>Your tester’s pass is not valid any more: ask for a new link.</p>{{end}}",
        closing="This page looks again by itself every half minute.",
        refresh=REFRESH,
    )
    return _response(503, "text/html; charset=utf-8", body, Content_Security_Policy=POLICY)


def _maintenance_answer() -> Json:
    body = (
        _HEAD + '{{dict "error" "maintenance" "message" (or $n.text "Under maintenance.") "until" $n.until_iso '
        '"retry_after" $s | toJson}}'
    )
    return _response(503, "application/json", _escaped(body))


def updating(code: str, headline: str, text: str, *, state: str, people: bool) -> list[Json]:
    """Handlers for who has waited at a closed door until the hold was over: how long it still takes, as far as earlier
    runs tell."""
    if people:
        body = page_body(
            title="{http.vars.ocore_title}",
            headline=_ESTIMATE + html.escape(headline),
            text=html.escape(text),
            more=f"{{{{if gt $e {RETRY_AFTER}}}}}<p>It usually takes " + _ABOUT + " more.</p>{{end}}",
        )
        answer = _response("", "text/html; charset=utf-8", body, Content_Security_Policy=POLICY)
    else:
        message = json.dumps(f"{headline}. {text}")
        said = _ESTIMATE + '{{dict "error" "' + code + '" "message" ' + message + ' "retry_after" $s | toJson}}'
        answer = _response("", "application/json", _escaped(said))
    return [_templates(state), answer | {"status_code": 503}]


def _escaped(body: str) -> str:
    """So that Caddy's placeholders don't see the actions of its templates."""
    return body.replace("{", "\\{")
