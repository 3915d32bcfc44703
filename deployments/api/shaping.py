"""Rows as the API shows them."""

from dataclasses import asdict
from typing import Any

from django.conf import settings

from deployments import further, schedule
from deployments.api.shapes import (
    BODY_CHARACTERS,
    DeliveryDetail,
    DeliveryShape,
    DeploymentDetail,
    DeploymentShape,
    EnvironmentDetail,
    EnvironmentShape,
    InstanceShape,
    LockShape,
    LogPart,
    OutcomeShape,
    ProjectShape,
    RepositoryShape,
    ServerDetail,
    ServerShape,
    SettingShape,
    SnapshotShape,
    StepShape,
    TokenShape,
)
from deployments.condition import Condition
from deployments.locks import Lock
from deployments.models import ApiToken, Delivery, Deployment, Snapshot, Step
from deployments.states import StepKind
from deployments.tokens import Verb
from instances.models import Instance
from ocore.ansi import plain
from projects.inheritance import display, effective
from projects.models import Project, Server


def token(row: ApiToken) -> TokenShape:
    return TokenShape(
        name=row.name,
        prefix=row.prefix,
        user=row.owner,
        verbs=[Verb(one) for one in row.verbs],
        every_project=row.every_project,
        projects=[] if row.every_project else list(row.projects.order_by("slug").values_list("slug", flat=True)),
        expires_at=row.expires_at,
    )


def project(row: Project) -> ProjectShape:
    names = ("slug", "name", "description", "repository_url", "host", "created_at")
    return ProjectShape(**_fields(row, names))


def deployment(row: Deployment) -> DeploymentShape:
    return DeploymentShape(**_of_deployment(row))


def deployment_detail(row: Deployment) -> DeploymentDetail:
    return DeploymentDetail(
        **_of_deployment(row),
        detail=row.detail,
        supersedes=list(row.supersedes.order_by("pk").values_list("pk", flat=True)),
        repositories=[RepositoryShape(**asdict(one)) for one in further.taken(row)],
        waits_for=schedule.why_waiting(row),
        steps=[step(one) for one in row.steps.all()],
    )


def _of_deployment(row: Deployment) -> dict[str, Any]:
    names = (
        *("status", "final", "live", "trigger", "requester", "ref", "commit", "subject", "author", "error"),
        *("advice", "cancelled_by", "created_at", "started_at", "finished_at", "live_at", "seconds"),
    )
    environment = row.environment
    return {
        **_fields(row, names),
        "id": row.pk,
        "project": environment.project.slug,
        "environment": environment.slug,
        "force": row.forced,
        "way": row.way or None,
        "rollback_to": row.rollback_to_id,
        "retries": row.retries_id,
        "superseded_by": row.superseded_by_id,
        "url": f"{settings.OCORE_BASE_URL}{row.get_absolute_url()}",
    }


def step(row: Step) -> StepShape:
    return StepShape(**_fields(row, ("kind", "status", "outcome", "started_at", "finished_at", "seconds")))


def log_part(step: str, text: str) -> LogPart:
    return LogPart(step=StepKind(step), text=plain(text))


def lock(row: Lock) -> LockShape:
    return LockShape(**_fields(row, ("reason", "locked_by", "locked_at")))


def environment(one: Condition, locked: Lock | None, *, deployments: bool) -> EnvironmentShape:
    """`deployments`: whoever asks may view these."""
    return EnvironmentShape(**_of_environment(one, locked, deployments))


def environment_detail(one: Condition, locked: Lock | None, *, deployments: bool) -> EnvironmentDetail:
    found = effective(one.environment).items()
    shown = {name: SettingShape(value=display(name, each.value), origin=str(each.origin)) for name, each in found}
    return EnvironmentDetail(**_of_environment(one, locked, deployments), settings=shown)


def _of_environment(one: Condition, locked: Lock | None, deployments: bool) -> dict[str, Any]:
    row = one.environment
    shown = {"live": one.live, "underway": one.underway, "queued": one.queued}
    return {
        **_fields(row, ("slug", "name", "kind", "description", "branch", "url", "public")),
        "project": row.project.slug,
        "server": row.server.slug,
        "state": one.state,
        "needs_a_person": one.broken or one.given_up is not None,
        "lock": lock(locked) if locked else None,
        **{name: deployment(found) if found and deployments else None for name, found in shown.items()},
    }


def instance(row: Instance) -> InstanceShape:
    names = ("slug", "name", "state", "state_since", "problem")
    environment = row.environment
    return InstanceShape(project=environment.project.slug, environment=environment.slug, **_fields(row, names))


def snapshot(row: Snapshot) -> SnapshotShape:
    names = ("state", "taken_at", "size_bytes", "dump_bytes", "dump_sha256", "dump_problem")
    return SnapshotShape(
        id=row.pk,
        project=row.environment.project.slug,
        environment=row.environment.slug,
        deployment=row.deployment_id,
        of=row.of_id,
        **_fields(row, names),
    )


def delivery(row: Delivery) -> DeliveryShape:
    return DeliveryShape(**_of_delivery(row))


def delivery_detail(row: Delivery) -> DeliveryDetail:
    return DeliveryDetail(
        **_of_delivery(row),
        headers={name: str(value) for name, value in row.headers.items()},
        body=row.body[:BODY_CHARACTERS],
        body_is_cut=len(row.body) > BODY_CHARACTERS,
    )


def _of_delivery(row: Delivery) -> dict[str, Any]:
    names = (
        *("host", "origin", "delivery_id", "event", "refs", "verdict", "reason"),
        *("status_code", "seconds", "received_at"),
    )
    outcome = [OutcomeShape(**{name: one.get(name) for name in OutcomeShape.model_fields}) for one in row.outcome]
    return {"id": row.pk, "project": row.project.slug, "outcome": outcome, **_fields(row, names)}


def server(row: Server) -> ServerShape:
    return ServerShape(**_of_server(row))


def server_detail(row: Server) -> ServerDetail:
    now = schedule.load(row)
    return ServerDetail(**_of_server(row), deployments=now.deployments, builds=now.builds)


def _of_server(row: Server) -> dict[str, Any]:
    names = ("slug", "name", "kind", "base_domain", "concurrent_deployments", "concurrent_builds", "seen_at", "problem")
    return _fields(row, names)


def _fields(row: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
