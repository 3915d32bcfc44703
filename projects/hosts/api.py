"""The HTTP side of a git host's API: short, bounded, to the configured address and nowhere else.

What a host answers is sorted here into what another attempt may change (it is down, busy, too slow) and what only a
person can (a wrong token, address or permission).
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from django.conf import settings

from ocore.errors import ExpectedError
from ocore.redaction import redact
from projects.git.submodules import is_this_machine

CONNECT_SECONDS, READ_SECONDS, TOTAL_SECONDS = 5.0, 10.0, 20.0
"""Of one request; the last one bounds a host that sends its answer drop by drop."""
MOST_BYTES = 256 * 1024
MOST_REDIRECTS = 3
MOST_WAITING = 6 * 3600.0
"""Seconds for which a host's wish to be left alone is heeded."""
_LATER = {408, 409, 423, 425, 429}
_KEEPS_METHOD = {307, 308}
_LONGEST = 300
"""Characters of a host's own words."""


class StatusNotTaken(ExpectedError):
    """The git host did not take a status. `again`: another attempt may do; `wait`: not before so many seconds."""

    def __init__(self, message: str, *, again: bool, wait: float = 0.0, detail: str = "", advice: str = "") -> None:
        super().__init__(message, detail=detail, advice=advice)
        self.again = again
        self.wait = min(max(wait, 0.0), MOST_WAITING)
        self.code = 0
        self.answer: Any = None
        """Its body where that was JSON, for the host's own module: neither redacted nor cleaned."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: who gets the token."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port


def may_be_plain(url: str) -> bool:
    """Whether the operator has said that this host is reached without TLS, or is this very machine."""
    _, host, port = origin(url)
    return host in settings.OCORE_PLAIN_GIT_HOSTS or f"{host}:{port}" in settings.OCORE_PLAIN_GIT_HOSTS


class Api:
    """`base` is from the project's configuration. The token stands in the headers, and is in no error."""

    def __init__(self, base: str, headers: Mapping[str, str], secrets: Iterable[str] = ()) -> None:
        self.base = base.rstrip("/")
        self._headers = {"User-Agent": "oCore", "Accept": "application/json"} | dict(headers)
        self._secrets = tuple(secrets)

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any], *, answers: bool = True) -> Any:
        """What it answered. Without `answers` it need not be JSON. Raises `StatusNotTaken`."""
        return self._ask("POST", path, body, answers)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, answers: bool = True) -> Any:
        url = self.base + path
        self._check(url)
        deadline = time.monotonic() + TOTAL_SECONDS
        try:
            with _Session() as session:
                response = self._through(session, method, url, body)
                text = _read(response, deadline)
        except ValueError as error:
            # Requests' InvalidURL, InvalidHeader and their like, urllib3's LocationParseError: nothing was sent.
            raise self._lost(
                "It could not be asked: address or token cannot be sent like this.",
                error,
                again=False,
                advice="Correct the API's address or the token.",
            ) from None
        except requests.exceptions.SSLError as error:
            raise self._lost("Its certificate is not one that this machine trusts.", error, again=False) from None
        except requests.exceptions.Timeout as error:
            raise self._lost("It did not answer in time.", error) from None
        except requests.exceptions.RequestException as error:
            raise self._lost("It could not be reached.", error) from None
        if not 200 <= response.status_code < 300:
            raise self._refusal(response, text)
        try:
            return json.loads(text) if answers else None
        except (ValueError, RecursionError):
            raise self._error(
                "What it answered is no JSON.", again=False, detail=text, advice="Is this the API's address?"
            ) from None

    def _check(self, url: str) -> None:
        scheme, host, _ = origin(url)
        if may_be_plain(url):
            return
        if scheme != "https":
            raise self._error("It would be told without TLS.", again=False, advice="Write https:// as its address.")
        if is_this_machine(host):
            raise self._error(
                "Its name leads to this machine or its link.",
                again=False,
                advice="If that is meant, name it in OCORE_PLAIN_GIT_HOSTS.",
            )

    def _through(
        self, session: requests.Session, method: str, url: str, body: Mapping[str, Any] | None
    ) -> requests.Response:
        """Its answer. A redirect is followed on the same origin only, and where it keeps method and body."""
        for _ in range(MOST_REDIRECTS):
            response = session.request(
                method,
                url,
                json=body,
                headers=self._headers,
                auth=_as_it_is,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
            )
            target = _target(url, response) if response.status_code in _KEEPS_METHOD else ""
            if not target or origin(target) != origin(url):
                return response
            response.close()
            url = target
        return response

    def _refusal(self, response: requests.Response, text: str) -> StatusNotTaken:
        code = response.status_code
        wait = _wait(response.headers)
        if 300 <= code < 400:
            target = urlsplit(_target("", response)).hostname or "elsewhere"
            return self._error(
                f"It sends on to {target}, which is not followed.", again=False, advice="Correct the API's address."
            )
        limited = code == 403 and (wait or response.headers.get("X-RateLimit-Remaining") == "0")
        again = code >= 500 or code in _LATER or bool(limited)
        document = _json_of(text)
        said = _said(text, document)
        error = self._error(f"It answered {code}.", again=again, wait=wait, detail=said, advice=_ADVICE.get(code, ""))
        error.code, error.answer = code, document
        return error

    def _lost(self, message: str, error: Exception, *, again: bool = True, advice: str = "") -> StatusNotTaken:
        return self._error(message, again=again, detail=type(error).__name__, advice=advice)

    def _error(
        self, message: str, *, again: bool, wait: float = 0.0, detail: str = "", advice: str = ""
    ) -> StatusNotTaken:
        message, said = (_clean(redact(text, self._secrets)) for text in (message, detail))
        return StatusNotTaken(message, again=again, wait=wait, detail=said, advice=advice)


_ADVICE = {
    400: "It did not like what it was told; its words say why.",
    401: "Give the project a token that is right and has not expired.",
    403: "Give the project a token that may write commit statuses.",
    404: "Check repository and API address; a token without the right to see the repository gets this too.",
    422: "It did not like what it was told; its words say why.",
}


class _Session(requests.Session):
    """Leaves redirects to `Api`. Told not to follow one, requests still reads its whole body and its target, which may
    be endless and no address."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Nothing of a .netrc is put in."""
    return request


def _read(response: requests.Response, deadline: float) -> str:
    """The answer's beginning. Raises requests' own `Timeout` when it takes too long."""
    content = b""
    with response:
        for chunk in response.iter_content(8192):
            content += chunk
            if len(content) >= MOST_BYTES:
                break
            if time.monotonic() > deadline:
                raise requests.exceptions.Timeout
    return content.decode("utf-8", "replace")


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds for which the host wants to be left alone; 0 where it doesn't say."""
    asked = headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit():
        return float(asked[:9])
    reset = headers.get("X-RateLimit-Reset", "")
    if headers.get("X-RateLimit-Remaining") == "0" and reset.isascii() and reset.isdigit():
        return max(float(reset[:12]) - time.time(), 1.0)
    return 0.0


def _target(url: str, response: requests.Response) -> str:
    """Where it sends on to; "" for what is no address, of which `origin` would raise too."""
    try:
        target = urljoin(url, response.headers.get("Location", ""))
        origin(target)
    except ValueError:
        return ""
    return target


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _said(text: str, document: Any) -> str:
    """The host's own words, out of its JSON where it has some; of a page of HTML nothing."""
    if isinstance(document, dict):
        found = next(
            (document[key] for key in ("message", "error_description", "error", "errors") if document.get(key)), ""
        )
        return found if isinstance(found, str) else json.dumps(found)
    return "" if document is not None or "<" in text[:200] else text


def _clean(text: str) -> str:
    """Fit for a row and a page. Only of what is redacted: a secret that is cut in two is found no more."""
    return "".join(character if character.isprintable() else " " for character in text[:_LONGEST]).strip()
