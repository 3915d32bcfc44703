"""The portal's own health: can it read its database and hand jobs over, and are there workers and a clock for them?"""

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError

from ocore.machine import signs


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when all of them are well, else 503. Says which isn't, never why: anybody may ask."""
    parts = {"database": _database()} | _redis_and_who_it_heard()
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


def _redis_and_who_it_heard() -> dict[str, bool]:
    """What Redis doesn't say isn't well."""
    try:
        missing = signs.missing()
    except (RedisError, OSError):
        return {"redis": False, "workers": False, "clock": False}
    return {"redis": True, "workers": not missing - {signs.CLOCK}, "clock": signs.CLOCK not in missing}
