"""What the edge answers by itself: pages for people, JSON for programs, each with the moment to come again."""

import html
import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

RETRY_AFTER = 5
"""Seconds, as the pages tell clients, where nothing better is known."""
ERROR_STATUS: Json = {"status_code": "{http.error.status_code}"}
FOR_PEOPLE: Json = {"header": {"Accept": ["*text/html*"]}}
"""Matches a browser that wants to show something."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
LOOKS_AGAIN = "This page looks again by itself every few seconds."


def plain(status: int | str, body: str) -> Json:
    return {
        "handler": "static_response",
        "status_code": status,
        "headers": {"Content-Type": ["text/plain; charset=utf-8"]},
        "body": body,
    }


def page(_code: str, headline: str, text: str) -> Json:
    body = page_body(title="{http.vars.ocore_title}", headline=html.escape(headline), text=html.escape(text))
    return _later("text/html; charset=utf-8", body, {"Content-Security-Policy": [POLICY]})


def page_body(
    *, title: str, headline: str, text: str, more: str = "", closing: str = LOOKS_AGAIN, refresh: int = RETRY_AFTER
) -> str:
    """HTML for a `static_response`. What is given is HTML as it is; Caddy's placeholders count in `title` only, and
    `{{...}}` where the `templates` handler stands before."""
    body = (Path(__file__).parent / "edge_pages" / "page.html").read_text()
    for name, value in (("HEADLINE", headline), ("TEXT", text), ("MORE", more), ("CLOSING", closing)):
        body = body.replace(f"@{name}@", value)
    return body.replace("@REFRESH@", str(refresh)).replace("{", "\\{").replace("@TITLE@", title)


def answer(code: str, headline: str, text: str) -> Json:
    said = {"error": code, "message": f"{headline}. {text}", "retry_after": RETRY_AFTER}
    return _later("application/json", json.dumps(said).replace("{", "\\{"), {})


def _later(content_type: str, body: str, headers: dict[str, list[str]]) -> Json:
    always = {"Content-Type": [content_type], "Retry-After": [str(RETRY_AFTER)], "Cache-Control": ["no-store"]}
    return {"handler": "static_response", "headers": always | headers, "body": body} | ERROR_STATUS


def literal(text: str) -> str:
    """HTML that Caddy will take neither for a placeholder (`{env.…}` would show what the edge knows) nor for an action
    of its templates."""
    return text.replace("{", "&#123;").replace("}", "&#125;")
