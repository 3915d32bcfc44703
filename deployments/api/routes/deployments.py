"""Deployments: which there were, how far one is, its log, and its end before its time."""

from typing import Annotated

from django.http import HttpRequest, HttpResponse
from ninja import Query
from pydantic import BaseModel, Field

from deployments import log_reading, services
from deployments.api import shaping
from deployments.api.caller import caller
from deployments.api.choices import Status
from deployments.api.once import Key, once
from deployments.api.paging import LARGEST_KEY, PageOf, asked, page
from deployments.api.shapes import DeploymentDetail, DeploymentPage, LogShape
from deployments.api.strict import Routes
from deployments.models import Deployment
from deployments.tokens import Verb

router = Routes(tags=["deployments"])
Slug = Annotated[str, Field(max_length=50, pattern="^[-a-zA-Z0-9_]+$")]

NAMES = {"project": "environment__project__slug", "environment": "environment__slug", "commit": "commit__startswith"}


class Wanted(BaseModel):
    project: Slug | None = None
    environment: Slug | None = Field(None, description="Of any project, unless that is named too.")
    status: Status | None = None
    live: bool | None = Field(None, description="What runs; false: what doesn't.")
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,64}$")] | None = Field(
        None, description="A commit, or how it begins."
    )


@router.get(
    "/deployments", response=DeploymentPage, operation_id="list_deployments", summary="Deployments, the newest first"
)
def deployments(request: HttpRequest, wanted: Annotated[Wanted, Query()], paging: PageOf) -> DeploymentPage:
    who = caller(request)
    who.may_read(Deployment)
    rows = who.deployments.filter(**asked(wanted, NAMES)).defer(*Deployment.LARGE)
    items, cursor = page(rows, paging, lambda rows: map(shaping.deployment, rows), newest_first=True)
    return DeploymentPage(items=items, next_cursor=cursor)


@router.get(
    "/deployments/{int:id}",
    response=DeploymentDetail,
    operation_id="get_deployment",
    url_name="get_deployment",
    summary="A deployment with its steps",
)
def deployment(request: HttpRequest, id: int) -> DeploymentDetail:
    who = caller(request)
    who.may_read(Deployment)
    return shaping.deployment_detail(who.deployment(id))


@router.get(
    "/deployments/{int:id}/log", response=LogShape, operation_id="get_log", summary="Its log, from an offset on"
)
def log(request: HttpRequest, id: int, offset: Annotated[int, Query(ge=0, le=LARGEST_KEY)] = 0) -> LogShape:
    """Begin with 0, go on with `next_offset`."""
    who = caller(request)
    who.may_read(Deployment)
    row = who.deployment(id)  # before its log: what is final writes no more
    found = log_reading.since(row, offset)
    parts = [shaping.log_part(part.step, part.text) for part in found.parts]
    return LogShape(parts=parts, next_offset=found.offset, more=found.more, final=row.final)


@router.post(
    "/deployments/{int:id}/cancel", response=DeploymentDetail, operation_id="cancel", summary="Cancel a deployment"
)
def cancel(request: HttpRequest, id: int, idempotency_key: Key = None) -> HttpResponse:
    """A queued one at once; a running one is `cancelling` until what it changed is put back."""
    who = caller(request)
    who.may(Verb.CANCEL, Deployment)
    row = who.deployment(id)

    def act() -> tuple[BaseModel, str]:
        services.cancel(row, who.who)
        who.note(row, "Cancelled.")
        return shaping.deployment_detail(row), ""

    return once(request, idempotency_key, act, status=200)
