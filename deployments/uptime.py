"""How much of each of the last days an environment was up, from the clock's looks."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db.models import Case, Count, IntegerField, Q, Value, When
from django.utils import timezone

from instances.models import HealthCheck

DAYS = 14


@dataclass(frozen=True)
class Day:
    """Looks during one day (UTC); those during a deployment are maintenance, neither up nor down."""

    date: date
    up: int = 0
    down: int = 0
    maintenance: int = 0

    @property
    def percent(self) -> float | None:
        return percent(self.up, self.down)

    @property
    def kind(self) -> str:
        """`up`, `partly`, `down`, `maintenance` or `none`: no data."""
        if not self.up + self.down:
            return "maintenance" if self.maintenance else "none"
        if not self.down:
            return "up"
        return "partly" if self.up else "down"


def percent(up: int, down: int) -> float | None:
    """Cut after two decimals, not rounded: 100 only when nothing was ever down. None without data."""
    return 10000 * up // (up + down) / 100 if up + down else None


def days_of(environments: Iterable[int], now: datetime | None = None) -> dict[int, list[Day]]:
    """For each environment the last days, oldest first, without gaps. One query, counted by the database."""
    now = (now or timezone.now()).astimezone(timezone.get_default_timezone())
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight - timedelta(days=back) for back in reversed(range(DAYS))]
    # A cascade of comparisons: SQLite has no dates, and Django's stand-in for them calls Python for every row.
    newest_first = list(reversed(list(enumerate(starts))))
    number = Case(
        *(When(checked_at__gte=start, then=Value(index)) for index, start in newest_first), output_field=IntegerField()
    )
    rows = (
        HealthCheck.objects.filter(environment__in=environments, checked_at__gte=starts[0], checked_at__lte=now)
        .order_by()
        .annotate(day=number)
        .values("environment", "day")
        .annotate(
            up=Count("pk", filter=Q(ok=True, held=False)),
            down=Count("pk", filter=Q(ok=False, held=False)),
            maintenance=Count("pk", filter=Q(held=True)),
        )
        .values_list("environment", "day", "up", "down", "maintenance")
    )
    found = {environment: [Day(start.date()) for start in starts] for environment in environments}
    for environment, day, up, down, maintenance in rows:
        found[environment][day] = Day(starts[day].date(), up, down, maintenance)
    return found
