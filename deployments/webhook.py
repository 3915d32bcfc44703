"""The endpoint that git hosts call. The one view without CSRF protection: it reads neither cookie nor session."""

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from deployments import intake
from projects.hosts import HOSTS
from projects.models import Project


@csrf_exempt
@require_POST
def receive(request: HttpRequest, host: str, slug: str) -> HttpResponse:
    """Verify, store, queue; 202 with what was queued, 200 with the reason why nothing was, 401 to strangers."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 18 or int(length) > settings.OCORE_WEBHOOK_MAX_BYTES:
        return _answer(413, f"A delivery may have {settings.OCORE_WEBHOOK_MAX_BYTES} bytes at most.")
    try:
        body = request.body
    except RequestDataTooBig:
        return _answer(413, f"A delivery may have {settings.OCORE_WEBHOOK_MAX_BYTES} bytes at most.")
    except UnreadablePostError:
        return _answer(400, "The delivery broke off.")
    if host not in HOSTS:
        return _answer(401, intake.NO_ENTRY)
    project = Project.objects.filter(slug=slug).first()
    status, content = intake.receive(project, host, body, request.headers, request.META.get("REMOTE_ADDR") or None)
    return JsonResponse(content, status=status)


def _answer(status: int, reason: str) -> JsonResponse:
    return JsonResponse({"status": "refused", "reason": reason}, status=status)
