"""Around the API: too large a request is not read, and what Django answers by itself is a problem like any other."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from deployments.api.problems import MEDIA_TYPE, problem

PREFIX = "/api/"
WRONG_HOST = "The request could not be read, or the portal does not answer under this host name."
MOST_BYTES = 64 * 1024
"""Of a request's body: the largest that makes sense has a reason of 500 characters."""


class ApiGate:
    """Outermost, so that it sees every answer; Django's own pages are for browsers."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(PREFIX):
            return self.get_response(request)
        response = problem(413) if _too_large(request) else self.get_response(request)
        if response.status_code >= 400 and response.headers.get("Content-Type", "") != MEDIA_TYPE:
            plain = response
            response = problem(plain.status_code, WRONG_HOST if plain.status_code == 400 else "")
            if "Allow" in plain.headers:
                response.headers["Allow"] = plain.headers["Allow"]
        response.headers["Cache-Control"] = "no-store"
        return response


def _too_large(request: HttpRequest) -> bool:
    length = request.META.get("CONTENT_LENGTH") or "0"
    return not length.isdecimal() or len(length) > 18 or int(length) > MOST_BYTES
