"""What the API shows of each kind of thing. Fields are added, never renamed or taken away, within a version."""

from datetime import datetime

from pydantic import BaseModel, Field

from deployments.api.choices import (
    DeliveryOrigin,
    DeliveryVerdict,
    EnvironmentKind,
    EnvironmentState,
    InstanceState,
    ServerKind,
    SnapshotState,
    Status,
    StepKind,
    StepStatus,
    Trigger,
    Verb,
    Way,
)
from deployments.api.paging import Page

BODY_CHARACTERS = 200_000
"""Of a delivery's body that are shown."""


class TokenShape(BaseModel):
    name: str
    prefix: str
    user: str = Field(description="For whom it acts.")
    verbs: list[Verb]
    every_project: bool
    projects: list[str] = Field(description="Slugs; empty with `every_project`.")
    expires_at: datetime


class ProjectShape(BaseModel):
    slug: str
    name: str
    description: str
    repository_url: str
    host: str = Field(description="The git host.")
    created_at: datetime


class StepShape(BaseModel):
    kind: StepKind
    status: StepStatus
    outcome: str
    started_at: datetime
    finished_at: datetime | None
    seconds: float


class DeploymentShape(BaseModel):
    id: int
    project: str
    environment: str
    status: Status
    final: bool = Field(description="It has ended: `status` doesn't change any more.")
    live: bool = Field(description="It is what runs.")
    trigger: Trigger
    requester: str
    ref: str = Field(description="What was asked for: a branch, a tag or a commit; empty: plain Odoo.")
    commit: str = Field(description="Empty while it isn't known yet.")
    subject: str
    author: str
    force: bool
    way: Way | None = Field(description="How the new version takes the old one's place; null while it isn't known.")
    error: str
    advice: str
    rollback_to: int | None
    retries: int | None = Field(description="The ended deployment that this one deploys again.")
    superseded_by: int | None
    cancelled_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    live_at: datetime | None
    seconds: float | None
    url: str = Field(description="Its page, for people.")


class RepositoryShape(BaseModel):
    """A further repository, as a deployment has it."""

    name: str
    url: str
    asked: str = Field(description="The branch or pin that led to the commit.")
    commit: str
    subject: str
    folder: str = Field(description="Only the addons below it; empty: all.")


class DeploymentDetail(DeploymentShape):
    supersedes: list[int] = Field(description="What waited there and gave way to this one.")
    repositories: list[RepositoryShape] = Field(description="The further ones, in their order; empty until known.")
    waits_for: str = Field(description="While it is queued: what for.")
    detail: str = Field(description="What the machine said of the error.")
    steps: list[StepShape]


class LogPart(BaseModel):
    step: StepKind
    text: str


class LogShape(BaseModel):
    parts: list[LogPart]
    next_offset: int = Field(description="Where to go on.")
    more: bool = Field(description="There is more already: ask at once.")
    final: bool = Field(description="The deployment has ended: once `more` is false too, this was the last of it.")


class LockShape(BaseModel):
    reason: str
    locked_by: str
    locked_at: datetime


class EnvironmentShape(BaseModel):
    project: str
    slug: str
    name: str
    kind: EnvironmentKind
    description: str
    server: str
    branch: str
    url: str = Field(description="Where its Odoo is.")
    public: bool = Field(description="It is on the project's status page.")
    state: EnvironmentState
    needs_a_person: bool
    lock: LockShape | None
    live: DeploymentShape | None = Field(description="With the next two null to who may not view deployments.")
    underway: DeploymentShape | None
    queued: DeploymentShape | None


class SettingShape(BaseModel):
    value: str = Field(description="In words, without secrets.")
    origin: str = Field(description="Who set it.")


class EnvironmentDetail(EnvironmentShape):
    settings: dict[str, SettingShape]


class InstanceShape(BaseModel):
    project: str
    environment: str
    slug: str
    name: str
    state: InstanceState
    state_since: datetime | None
    problem: str


class SnapshotShape(BaseModel):
    id: int
    project: str
    environment: str
    state: SnapshotState
    taken_at: datetime
    deployment: int = Field(description="Before which it was taken.")
    of: int | None = Field(description="The deployment that ran when it was taken.")
    size_bytes: int
    dump_bytes: int | None
    dump_sha256: str
    dump_problem: str


class OutcomeShape(BaseModel):
    environment: str
    verdict: DeliveryVerdict
    reason: str
    deployment: int | None = None


class DeliveryShape(BaseModel):
    id: int
    project: str
    host: str
    origin: DeliveryOrigin
    delivery_id: str
    event: str
    refs: str
    verdict: DeliveryVerdict
    reason: str
    status_code: int
    seconds: float
    received_at: datetime
    outcome: list[OutcomeShape]


class DeliveryDetail(DeliveryShape):
    headers: dict[str, str] = Field(description="Redacted.")
    body: str = Field(description=f"Redacted, and its first {BODY_CHARACTERS} characters; of verified ones only.")
    body_is_cut: bool


class ServerShape(BaseModel):
    slug: str
    name: str
    kind: ServerKind
    base_domain: str
    concurrent_deployments: int
    concurrent_builds: int
    seen_at: datetime | None
    problem: str


class ServerDetail(ServerShape):
    deployments: int = Field(description="How many hold one of its slots now.")
    builds: int = Field(description="How many of these build.")


class ProjectPage(Page):
    items: list[ProjectShape]


class EnvironmentPage(Page):
    items: list[EnvironmentShape]


class InstancePage(Page):
    items: list[InstanceShape]


class DeploymentPage(Page):
    items: list[DeploymentShape]


class SnapshotPage(Page):
    items: list[SnapshotShape]


class DeliveryPage(Page):
    items: list[DeliveryShape]


class ServerPage(Page):
    items: list[ServerShape]
