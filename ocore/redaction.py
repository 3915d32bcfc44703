"""Nothing secret leaves through text: one redactor for logs, errors and stored headers."""

import logging
import re
from collections.abc import Iterable, Mapping

HIDDEN = "•••"
# Linear in what strangers send: nothing before the key word, one run before the “@”.
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_ASSIGNMENT = re.compile(r"(?i)((?:passw(?:or)?d|secret|token|api[_-]?key)[\"']?\s*[=:]\s*)([\"']?)[^\s\"',;&]{3,}\2")
_SECRET_HEADERS = re.compile(r"(?i)(authorization|cookie|token|secret|signature|api-?key)")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, URL userinfo and what looks like an assignment of one."""
    for secret in sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _USERINFO.sub(HIDDEN, text)
    return _ASSIGNMENT.sub(rf"\1{HIDDEN}", text)


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: HIDDEN if _SECRET_HEADERS.search(name) else redact(value) for name, value in headers.items()}


class RedactingFilter(logging.Filter):
    """On the handler, so that it sees every record, whoever logged it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True
