"""The API as a whole, and its description: what ninja makes of the operations, and the problems that each may answer.

There is no page to try it out in the browser: ninja's loads scripts from elsewhere and has inline ones, which the
portal's content security policy refuses. The description is an operation like any other, behind a token.
"""

from http import HTTPStatus
from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from deployments.api import problems
from deployments.api.caller import Bearer
from deployments.api.once import REPLAYED

EVERYWHERE = (401, 403, 404, 413, 422, 429, 503)
WHERE_SOMETHING_IS_DONE = (400, 409)
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "Seconds."},
    503: {"Retry-After": "Seconds."},
}


class Api(NinjaAPI):
    def __init__(self) -> None:
        super().__init__(
            title="oCore",
            version="1",
            urls_namespace="api",
            description="Problems are `application/problem+json` (RFC 9457). Times are ISO 8601 in UTC.",
            openapi_url=None,
            docs_url=None,
            auth=Bearer(),
        )
        problems.install(self)

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        schema["components"]["schemas"] |= _schemas_of_problems()
        for methods in schema["paths"].values():
            for method, operation in methods.items():
                for parameter in operation["parameters"]:
                    _not_null(parameter["schema"])
                acts = method != "get"
                for status in (*EVERYWHERE, *(WHERE_SOMETHING_IS_DONE if acts else ())):
                    operation["responses"][status] = _response(status)
                if method == "post":
                    _tell_of_replays(operation["responses"])
        return schema


def _schemas_of_problems() -> dict[str, Any]:
    made = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**made.pop("$defs"), "Problem": made}


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in HEADERS:
        response["headers"] = {name: _header(words) for name, words in HEADERS[status].items()}
    return response


def _tell_of_replays(responses: dict[int, Any]) -> None:
    for status, response in responses.items():
        if status < HTTPStatus.BAD_REQUEST:
            response.setdefault("headers", {})[REPLAYED] = _header("`true` where nothing was done again.")


def _not_null(schema: dict[str, Any]) -> None:
    """What is left out is left out: nobody can send null in a query or a header."""
    if "anyOf" in schema:
        schema |= next(one for one in schema.pop("anyOf") if one.get("type") != "null")


def _header(words: str) -> dict[str, Any]:
    return {"description": words, "schema": {"type": "string"}}
