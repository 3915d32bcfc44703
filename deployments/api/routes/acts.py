"""What is done in an environment: deploy, roll back, lock, unlock."""

from typing import Annotated

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from deployments import locking, services
from deployments.api import shaping
from deployments.api.caller import caller
from deployments.api.once import Key, once
from deployments.api.paging import LARGEST_KEY
from deployments.api.routes.environments import ONE
from deployments.api.shapes import DeploymentDetail, LockShape
from deployments.api.strict import Routes
from deployments.models import Deployment
from deployments.states import Trigger
from deployments.tokens import Verb
from projects.models import Environment

router = Routes(tags=["acts"])
WITHOUT_CONTROLS = r"^[^\x00-\x1f\x7f]*$"


class Strict(BaseModel):
    """A misspelt field is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(value: object) -> object:
    """120.0 is an integer in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class DeployBody(Strict):
    ref: Annotated[str, Field(max_length=255, pattern=WITHOUT_CONTROLS)] = Field(
        "", description="Branch, tag or commit; empty: the tip of the environment's branch."
    )
    force: bool = Field(False, description="Also where nothing differs from what is live.")


class RollBackBody(Strict):
    to: Annotated[int, Field(ge=1, le=LARGEST_KEY), BeforeValidator(_whole)] | None = Field(
        None, description="A deployment that was live before; null: the one before."
    )
    with_data: bool = Field(
        False, description="Also the data as it was when that was replaced: what was written since then is set aside."
    )


class LockBody(Strict):
    reason: str = Field(min_length=1, max_length=locking.MOST_CHARACTERS, pattern=WITHOUT_CONTROLS)


@router.post(
    f"{ONE}/deployments",
    response={201: DeploymentDetail},
    operation_id="deploy",
    summary="Deploy",
)
def deploy(
    request: HttpRequest, project: str, environment: str, body: DeployBody, idempotency_key: Key = None
) -> HttpResponse:
    """Queues a deployment; one that was still queued for the environment is superseded by it. Ask for it until it is
    `final`."""
    who = caller(request)
    who.may(Verb.DEPLOY, Environment, Deployment)
    row = who.environment(project, environment)

    def act() -> tuple[BaseModel, str]:
        made = services.request_deployment(row, Trigger.API, who.who, ref=body.ref.strip(), forced=body.force)
        who.note(row, f"Deployed as #{made.pk}.")
        return _queued(made)

    return once(request, idempotency_key, act)


@router.post(
    f"{ONE}/rollback",
    response={201: DeploymentDetail},
    operation_id="roll_back",
    summary="Roll back",
)
def roll_back(
    request: HttpRequest, project: str, environment: str, body: RollBackBody, idempotency_key: Key = None
) -> HttpResponse:
    """Queues a new deployment of an earlier one's image and settings, with its data if asked."""
    who = caller(request)
    who.may(Verb.ROLL_BACK, Environment, Deployment)
    row = who.environment(project, environment)
    target = who.deployment(body.to, environment=row) if body.to else None

    def act() -> tuple[BaseModel, str]:
        made = services.roll_back(row, who.who, target=target, with_data=body.with_data)
        who.note(row, f"Rolled back to #{made.rollback_to_id} as #{made.pk}.")
        return _queued(made)

    return once(request, idempotency_key, act)


def _queued(made: Deployment) -> tuple[BaseModel, str]:
    return shaping.deployment_detail(made), reverse("api:get_deployment", args=[made.pk])


@router.post(f"{ONE}/lock", response={201: LockShape}, operation_id="lock", summary="Lock")
def lock(
    request: HttpRequest, project: str, environment: str, body: LockBody, idempotency_key: Key = None
) -> HttpResponse:
    """No deployment begins there until it is unlocked; what is asked for meanwhile waits in line."""
    who = caller(request)
    who.may(Verb.LOCK, Environment)
    row = who.environment(project, environment)

    def act() -> tuple[BaseModel, str]:
        locked = locking.lock(row, who.who, body.reason)
        who.note(row, f"Locked: {locked.reason}.")
        return shaping.lock(locked), ""

    return once(request, idempotency_key, act)


@router.delete(f"{ONE}/lock", response={204: None}, operation_id="unlock", summary="Unlock")
def unlock(request: HttpRequest, project: str, environment: str) -> HttpResponse:
    """What waited there gets its turn."""
    who = caller(request)
    who.may(Verb.LOCK, Environment)
    row = who.environment(project, environment)
    locking.unlock(row, who.who)
    who.note(row, "Unlocked.")
    return HttpResponse(status=204)
