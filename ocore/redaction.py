"""Nothing secret leaves through text: one redactor for logs, errors and stored headers."""

import logging
import re
from collections.abc import Iterable, Mapping

HIDDEN = "•••"
SHORTEST = 3
"""Characters of a value in quotes that can be a secret."""
# Linear in what strangers send: nothing before the key word, one run before the “@”.
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_ASSIGNMENT = re.compile(
    r"""((?:passw(?:or)?d|secret|token|api[_-]?key)["']?\s*[=:]\s*)"""
    r"""(?:(["'])((?:(?!\2)[^\\\n]|\\.)*+)(\2?)|[^\s"',;&]{3,})""",
    re.IGNORECASE,
)
"""In quotes up to the closing one or the end of the line, else up to the next space or separator."""
_TOKEN = re.compile(r"\b(ocore_[0-9a-f]{8})_[\w-]{43}")
"""Of the API (`deployments.tokens`): how it begins tells which one it is."""
_SECRET_HEADERS = re.compile(r"(?i)(authorization|cookie|token|secret|signature|api-?key)")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the given secrets, URL userinfo, API tokens and what looks like an assignment of one."""
    for secret in sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _USERINFO.sub(HIDDEN, text)
    if "ocore_" in text:
        text = _TOKEN.sub(rf"\1_{HIDDEN}", text)
    return _ASSIGNMENT.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    before, quote, value, closing = match.groups(default="")
    if quote and len(value) < SHORTEST:
        return match[0]
    return f"{before}{quote}{HIDDEN}{closing}"


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: HIDDEN if _SECRET_HEADERS.search(name) else redact(value) for name, value in headers.items()}


class RedactingFilter(logging.Filter):
    """On the handler, so that it sees every record, whoever logged it: its message, its traceback, its stack."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        record.exc_info = None
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True
