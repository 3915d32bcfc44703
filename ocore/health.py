"""The portal's own health: can it read its database and hand jobs over?"""

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when database and Redis answer, else 503. Says which, never why: anybody may ask."""
    parts = {"database": _database(), "redis": _redis()}
    well = all(parts.values())
    answer = {"status": "pass" if well else "fail"} | {name: "pass" if ok else "fail" for name, ok in parts.items()}
    return JsonResponse(answer, status=200 if well else 503, headers={"Cache-Control": "no-store"})


def _database() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


def _redis() -> bool:
    import django_rq

    try:
        return bool(django_rq.get_connection("deployments").ping())
    except (RedisError, OSError):
        return False
