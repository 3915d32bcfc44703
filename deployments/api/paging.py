"""Lists, a page at a time. By the key of the last one, so that what comes in meanwhile shifts nothing."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from django.db.models import Model, QuerySet
from ninja import Query
from pydantic import BaseModel, Field

MOST = 100
LARGEST_KEY = 2**63 - 1
Row = TypeVar("Row", bound=Model)
Shape = TypeVar("Shape")


class Paging(BaseModel):
    limit: int = Field(50, ge=1, le=MOST, description="How many at most.")
    cursor: int = Field(0, ge=0, le=LARGEST_KEY, description="`next_cursor` of the page before; 0: the first page.")


PageOf = Annotated[Paging, Query()]


def asked(wanted: BaseModel, names: Mapping[str, str]) -> dict[str, Any]:
    """What a list is narrowed down to; `names`: how our rows call it."""
    return {names.get(name, name): value for name, value in wanted.model_dump(exclude_none=True).items()}


class Page(BaseModel):
    next_cursor: int | None = Field(description="Where the next page begins; null: this was the last one.")


def page(
    rows: QuerySet[Row], paging: Paging, shapes: Callable[[list[Row]], Iterable[Shape]], *, newest_first: bool = False
) -> tuple[list[Shape], int | None]:
    """The items and the next cursor."""
    if paging.cursor:
        rows = rows.filter(pk__lt=paging.cursor) if newest_first else rows.filter(pk__gt=paging.cursor)
    found = list(rows.order_by("-pk" if newest_first else "pk")[: paging.limit + 1])
    shown = found[: paging.limit]
    return list(shapes(shown)), shown[-1].pk if len(found) > len(shown) else None
