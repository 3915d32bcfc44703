"""What goes wrong, as RFC 9457 has it: `application/problem+json`, whatever it is and whoever noticed it."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from pydantic import BaseModel, Field

from ocore.errors import ExpectedError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
DATABASE_SECONDS = 30
"""After so long a client may ask again when our own database was away."""
KINDS: Mapping[int, tuple[str, str]] = {
    400: ("unreadable", "The request could not be read: a body has to be JSON."),
    401: ("unauthorized", "A valid API token is needed: Authorization: Bearer ocore_..."),
    403: ("forbidden", "This is not allowed."),
    404: ("not-found", "There is nothing here, or nothing that this token reaches."),
    405: ("method-not-allowed", "The method is none of those that this address has."),
    409: ("not-possible", "This is not possible now."),
    413: ("too-large", "The request is too large."),
    422: ("invalid", "Something in the request is not as the schema says."),
    429: ("too-many-calls", "Too many calls. Come again later."),
    500: ("defect", "This is a defect of oCore. The portal's log has the traceback."),
    503: ("unavailable", "The portal's database does not answer. Ask again."),
}
"""By status: the last part of the problem's type, and what is said where nothing better is known."""


class Invalid(BaseModel):
    """One thing in the request that is not as it should be."""

    where: str = Field(description="Such as `body.ref` or `query.limit`.")
    message: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(description="Its kind, as `urn:ocore:problem:...`. That stays the same; texts may change.")
    title: str
    status: int
    detail: str = Field(description="What happened, for people.")
    advice: str | None = Field(None, description="What to do about it, where there is something.")
    errors: list[Invalid] | None = Field(None, description="With 422: what of the request is not right.")


class Refused(Exception):
    """Ends a call with this problem."""

    def __init__(self, status: int, detail: str = "", *, kind: str = "", advice: str = "", wait: int = 0) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.advice = advice
        self.wait = wait
        """Seconds until another try makes sense; 0: nobody knows."""


def problem(
    status: int,
    detail: str = "",
    *,
    kind: str = "",
    advice: str = "",
    errors: list[Invalid] | None = None,
    wait: int = 0,
) -> HttpResponse:
    usual, words = KINDS.get(status, KINDS[400 if status < 500 else 500])
    content: dict[str, Any] = {
        "type": f"urn:ocore:problem:{kind or usual}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail or words,
    }
    if advice:
        content["advice"] = advice
    if errors:
        content["errors"] = [one.model_dump() for one in errors]
    response = JsonResponse(content, status=status, content_type=MEDIA_TYPE)
    if wait:
        response.headers["Retry-After"] = str(wait)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="oCore"'
    return response


def install(api: NinjaAPI) -> None:
    """What operations raise becomes an answer. Anything else is a defect: Django logs it, `gate` answers."""
    api.add_exception_handler(Refused, _refused)
    api.add_exception_handler(ExpectedError, _expected)
    api.add_exception_handler(AuthenticationError, lambda *_: problem(401))
    api.add_exception_handler(HttpError, _http)
    api.add_exception_handler(Http404, lambda *_: problem(404))
    api.add_exception_handler(ValidationError, _invalid)
    api.add_exception_handler(UnreadablePostError, lambda *_: problem(400, "The request broke off."))
    for away in (OperationalError, InterfaceError):
        api.add_exception_handler(away, _database)


def _http(_: HttpRequest, error: Any) -> HttpResponse:
    return problem(error.status_code)


def _refused(_: HttpRequest, error: Any) -> HttpResponse:
    return problem(error.status, error.detail, kind=error.kind, advice=error.advice, wait=error.wait)


def _expected(_: HttpRequest, error: Any) -> HttpResponse:
    return problem(409, error.message, advice=error.advice)


def _invalid(_: HttpRequest, error: Any) -> HttpResponse:
    return problem(422, errors=[Invalid(where=_where(one["loc"]), message=_words(one)) for one in error.errors])


def _words(error: dict[str, Any]) -> str:
    """Without the name that the body's shape has in our code."""
    return (
        "It should be an object." if error.get("type") in ("model_type", "model_attributes_type") else str(error["msg"])
    )


def _where(location: tuple[Any, ...]) -> str:
    """Without the name that a body has in our code."""
    source, *rest = location
    return ".".join(map(str, [source, *(rest[1:] if source == "body" else rest)]))


def _database(request: HttpRequest, error: Any) -> HttpResponse:
    logger.exception("The API could not answer %s, the portal's database does not", request.path, exc_info=error)
    return problem(503, wait=DATABASE_SECONDS)
