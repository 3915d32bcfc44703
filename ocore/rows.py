"""Rows that are looked for all the time, and mostly are not there."""

from typing import TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def some(rows: QuerySet[Row]) -> list[Row]:
    """All of them. Whether there are any is asked first: to ask for all the columns of what they belong to costs more
    than to hear that there is nothing."""
    return list(rows) if rows.exists() else []
