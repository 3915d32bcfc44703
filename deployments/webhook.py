"""The endpoint that git hosts call. Without CSRF protection: it reads neither cookie nor session."""

import logging

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from deployments import intake, rates
from projects.hosts import HOSTS
from projects.models import Project

logger = logging.getLogger(__name__)
ASKED = (
    "name",
    "slug",
    "repository_url",
    "host",
    "signing_token",
    "webhook_secret",
    "previous_webhook_secret",
    "previous_webhook_secret_until",
    "report_since",
    "auto_deploy",
    "skip_words",
)
"""Of a project, what a delivery is proven and decided by; each column costs some of the answer's time."""
DATABASE_SECONDS = 30
"""After so long a git host may call again when our own database was away: nothing is promised that isn't stored."""


@csrf_exempt
@require_POST
def receive(request: HttpRequest, host: str, slug: str) -> HttpResponse:
    """Verify, store, queue; 202 with what was queued, 200 with the reason why nothing was, 401 to strangers, 429 to
    who calls too often. Nothing that a call contains gives a 5xx; 503 says that our own database is away."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 18 or int(length) > settings.OCORE_WEBHOOK_MAX_BYTES:
        return _answer(413, f"A delivery may have {settings.OCORE_WEBHOOK_MAX_BYTES} bytes at most.")
    address = rates.address_of(request)
    wait = rates.wait_for("address", address, settings.OCORE_WEBHOOKS_PER_ADDRESS)
    if wait:
        return _later(_answer(429, intake.TOO_MANY), wait)
    try:
        body = request.body
    except RequestDataTooBig:
        return _answer(413, f"A delivery may have {settings.OCORE_WEBHOOK_MAX_BYTES} bytes at most.")
    except UnreadablePostError:
        return _answer(400, "The delivery broke off.")
    if host not in HOSTS:
        return _answer(401, intake.NO_ENTRY)
    try:
        project = Project.objects.filter(slug=slug).only(*ASKED).order_by("pk").first()
        answer = intake.receive(project, host, body, request.headers, address)
    except DatabaseError:
        logger.exception("A delivery for %s was not stored, the portal's database does not answer", slug)
        return _later(_answer(503, "It could not be stored. Deliver it again."), DATABASE_SECONDS)
    return _later(JsonResponse(answer.content, status=answer.status), answer.retry_after)


def _answer(status: int, reason: str) -> JsonResponse:
    return JsonResponse({"status": "refused", "reason": reason}, status=status)


def _later(response: JsonResponse, seconds: int) -> JsonResponse:
    if seconds:
        response.headers["Retry-After"] = str(seconds)
    return response
