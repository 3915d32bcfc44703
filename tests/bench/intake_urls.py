"""The portal's addresses, and the bare view that the webhook is compared with: it reads the body and says yes."""

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from ocore.urls import urlpatterns as portal


@csrf_exempt
def bare(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "accepted", "bytes": len(request.body)}, status=202)


urlpatterns = [path("bare/", bare), *portal]
