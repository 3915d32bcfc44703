"""`Idempotency-Key`: what was done is done once, and who asks again with the same key gets the same answer.

The key, what is done and its answer are one transaction: a second call with the key waits for the first one's end,
and a process that dies leaves neither. What was refused is not kept, since nothing was done: it may be asked again.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from ninja import Header
from ninja.responses import NinjaJSONEncoder
from pydantic import BaseModel

from deployments import tokens
from deployments.api.caller import caller
from deployments.api.problems import Refused
from deployments.models import KeptAnswer

REPLAYED = "Idempotency-Replayed"
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="Any text of yours. Sent again within OCORE_API_ANSWER_HOURS with the same request, nothing is "
        "done and the answer is the same; with another request it is 422.",
    ),
]


def once(
    request: HttpRequest, key: str | None, act: Callable[[], tuple[BaseModel, str]], *, status: int = 201
) -> HttpResponse:
    """`act` does what is asked for; its answer, and where that is found (empty: nowhere of its own)."""
    if key is None:
        return _answer(status, *_done(act))
    token = caller(request).token
    fingerprint = hashlib.sha256(f"{request.method} {request.path}\0".encode() + request.body).hexdigest()
    with transaction.atomic():
        tokens.forget_old_answers(token=token)
        try:
            with transaction.atomic():
                kept = KeptAnswer.objects.create(token=token, key=key, fingerprint=fingerprint)
        except IntegrityError:
            return _again(KeptAnswer.objects.get(token=token, key=key), fingerprint)
        content, location = _done(act)
        kept.status, kept.content, kept.location = status, content, location
        kept.save(update_fields=["status", "content", "location"])
    return _answer(status, content, location)


def _done(act: Callable[[], tuple[BaseModel, str]]) -> tuple[str, str]:
    shape, location = act()
    return json.dumps(shape.model_dump(), cls=NinjaJSONEncoder), location  # as of what is only read


def _again(kept: KeptAnswer, fingerprint: str) -> HttpResponse:
    if kept.fingerprint != fingerprint:
        raise Refused(
            422,
            "This Idempotency-Key was used for another request.",
            kind="key-reused",
            advice="Use a new key for each thing that is to be done, and the same one only to ask for it again.",
        )
    response = _answer(kept.status, kept.content, kept.location)
    response.headers[REPLAYED] = "true"
    return response


def _answer(status: int, content: str, location: str) -> HttpResponse:
    response = HttpResponse(content, status=status, content_type="application/json")
    if location:
        response.headers["Location"] = location
    return response
