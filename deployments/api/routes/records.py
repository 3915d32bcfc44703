"""What is kept: snapshots, and the deliveries that came."""

from typing import Annotated

from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel, Field

from deployments.api import shaping
from deployments.api.caller import caller, one_of
from deployments.api.choices import DeliveryVerdict, SnapshotState
from deployments.api.paging import PageOf, asked, page
from deployments.api.routes.deployments import Slug
from deployments.api.shapes import DeliveryDetail, DeliveryPage, SnapshotPage, SnapshotShape
from deployments.api.strict import Routes
from deployments.models import Delivery, Snapshot

router = Routes(tags=["records"])


class WantedSnapshots(BaseModel):
    project: Slug | None = None
    environment: Slug | None = Field(None, description="Of any project, unless that is named too.")
    state: SnapshotState | None = None


class WantedDeliveries(BaseModel):
    project: Slug | None = None
    verdict: DeliveryVerdict | None = None


@router.get("/snapshots", response=SnapshotPage, operation_id="list_snapshots", summary="Snapshots, the newest first")
def snapshots(request: HttpRequest, wanted: Annotated[WantedSnapshots, Query()], paging: PageOf) -> SnapshotPage:
    who = caller(request)
    who.may_read(Snapshot)
    names = {"project": "environment__project__slug", "environment": "environment__slug"}
    rows = who.snapshots.filter(**asked(wanted, names))
    items, cursor = page(rows, paging, lambda rows: map(shaping.snapshot, rows), newest_first=True)
    return SnapshotPage(items=items, next_cursor=cursor)


@router.get("/snapshots/{int:id}", response=SnapshotShape, operation_id="get_snapshot", summary="A snapshot")
def snapshot(request: HttpRequest, id: int) -> SnapshotShape:
    who = caller(request)
    who.may_read(Snapshot)
    return shaping.snapshot(one_of(who.snapshots.filter(pk=id)))


@router.get(
    "/deliveries", response=DeliveryPage, operation_id="list_deliveries", summary="Deliveries, the latest first"
)
def deliveries(request: HttpRequest, wanted: Annotated[WantedDeliveries, Query()], paging: PageOf) -> DeliveryPage:
    who = caller(request)
    who.may_read(Delivery)
    rows = who.deliveries.filter(**asked(wanted, {"project": "project__slug"})).defer("headers", "body")
    items, cursor = page(rows, paging, lambda rows: map(shaping.delivery, rows), newest_first=True)
    return DeliveryPage(items=items, next_cursor=cursor)


@router.get(
    "/deliveries/{int:id}",
    response=DeliveryDetail,
    operation_id="get_delivery",
    summary="A delivery: what came, what was decided, and what it caused",
)
def delivery(request: HttpRequest, id: int) -> DeliveryDetail:
    who = caller(request)
    who.may_read(Delivery)
    return shaping.delivery_detail(one_of(who.deliveries.filter(pk=id)))
