"""What a push causes in each environment that it reaches, and why. `decide` is called in the transaction that stores
the delivery; a rehearsal runs it and takes everything back."""

from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from deployments import queues, routing, services
from deployments.models import Delivery, Deployment
from deployments.services import NotPossible, Who
from deployments.standing import Standing, pushed_before
from deployments.states import Status, Trigger
from projects.hosts import Push, RefChange
from projects.models import Environment, Project, Repository

Verdict = Delivery.Verdict
_SAME: dict[str, str] = {
    Status.QUEUED: "is queued",
    Status.RUNNING: "is running",
    Status.ROLLING_BACK: "is being rolled back",
}
"""What a pushed commit that needs no other deployment does there already; else it is live."""


@dataclass
class Decision:
    verdict: Delivery.Verdict = Verdict.IGNORED
    reason: str = ""
    outcome: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)


def decide(project: Project, push: Push, delivery: Delivery) -> Decision:
    """Queue what is wanted, and say of everything else why not."""
    decision = Decision()
    nowhere = []
    for change in push.changes:
        by = routing.reached(project, change, lock=True)
        if not by.environments:
            nowhere.append(by.how)
        for environment in by.environments:
            _take(environment, push, change, delivery, decision)
    _sum_up(decision, nowhere)
    return decision


def nowhere(project: Project, push: Push) -> Decision | None:
    """What is said where it reaches no environment, as most that comes: read only, nothing is locked. None: it does."""
    reason = _why_nothing(project, push)
    if reason:
        return Decision(reason=reason)
    reached = [routing.reached(project, change) for change in push.changes]
    if any(by.environments for by in reached):
        return None
    return Decision(reason=" ".join(dict.fromkeys(by.how for by in reached)))


def _why_nothing(project: Project, push: Push) -> str:
    """Whatever the refs; "" where it depends on these."""
    if push.kind == "ping":
        return "The ping arrived, and its signature is right."
    if not push.changes:
        return f"Nothing to deploy in the event “{push.event}”."
    if push.tests_only:
        return "The test arrived, and its signature is right: nothing moved, before and after are the same commit."
    stranger = _other_repository(project, push)
    if stranger and (further := _further(project, push)):
        return (
            f"The push is of the further repository “{further.name}”, and deploys nothing by itself. The next "
            f"deployment, of a push to {project.repository_url} or by hand, takes {further.pin or 'its newest commit'}."
        )
    if stranger:
        return (
            f"The push is of the repository {stranger}; {project.name} is deployed from {project.repository_url}. "
            "Correct the project's repository if it has moved, or remove the webhook from that other one."
        )
    return ""


def _sum_up(decision: Decision, nowhere: list[str]) -> None:
    queued = [entry for entry in decision.outcome if entry["verdict"] == Verdict.ACCEPTED]
    if queued:
        decision.verdict = Verdict.ACCEPTED
        decision.reason = "Queued: " + ", ".join(entry["environment"] for entry in queued) + "."
    elif decision.outcome and all(entry["verdict"] == Verdict.DUPLICATE for entry in decision.outcome):
        decision.verdict = Verdict.DUPLICATE
        decision.reason = decision.outcome[0]["reason"]
    else:
        reasons = [*(entry["reason"] for entry in decision.outcome), *nowhere]
        decision.reason = " ".join(dict.fromkeys(reasons))


def _take(environment: Environment, push: Push, change: RefChange, delivery: Delivery, decision: Decision) -> None:
    verdict, reason, deployment = _in_environment(environment, push, change, delivery)
    entry: dict[str, Any] = {"environment": environment.path, "verdict": verdict, "reason": reason}
    if deployment:
        entry |= {"deployment": deployment.pk, "commit": change.head}
        replaced = deployment.supersedes.only("pk", "superseded_by").first()
        if replaced:
            entry |= {"reason": f"Queued; it supersedes #{replaced.pk}, which waited.", "supersedes": replaced.pk}
        decision.deployments.append(deployment)
    decision.outcome.append(entry)


def _in_environment(
    environment: Environment, push: Push, change: RefChange, delivery: Delivery
) -> tuple[Verdict, str, Deployment | None]:
    head = next((commit for commit in push.commits if commit.sha == change.head), None)
    unwanted = routing.unwanted(environment, head.message if head else "")
    if unwanted:
        transaction.on_commit(lambda: queues.enqueue_pending(environment.pk), robust=True)
        return Verdict.IGNORED, unwanted, None
    standing = Standing(environment)
    by_hand = standing.waiting_by_hand()
    if by_hand:
        what = "a rollback by hand" if by_hand.rollback_to_id else f"asked for by {by_hand.requester or 'a person'}"
        transaction.on_commit(lambda: queues.enqueue_pending(environment.pk), robust=True)
        return (
            Verdict.IGNORED,
            f"#{by_hand.pk}, {what}, is queued there, and a push does not replace that; "
            "the commits are shown as pending.",
            None,
        )
    same = standing.same(change.head)
    if same:
        return Verdict.DUPLICATE, f"{change.head[:10]} {_SAME.get(same.status, 'is live')} there as #{same.pk}.", None
    ref = change.name if change.type == "branch" else change.ref
    earlier = pushed_before(environment, ref, change.before, change.head)
    if earlier:
        return (
            Verdict.DUPLICATE,
            f"This push, of {change.head[:10]}, arrived before and caused #{earlier.pk} ({earlier.outcome.lower()}). "
            "To deploy it again, do so by hand.",
            None,
        )
    try:
        deployment = services.request_deployment(
            environment,
            Trigger.PUSH,
            Who(push.pusher or "unknown pusher"),
            ref=ref,
            commit=change.head,
            subject=head.subject if head else "",
            author=head.author if head else "",
            delivery=delivery,
            pushed_from=change.before,
        )
    except NotPossible as error:
        return Verdict.IGNORED, error.message, None
    return Verdict.ACCEPTED, "Queued.", deployment


def _other_repository(project: Project, push: Push) -> str:
    """The name of the repository that was pushed to, when it isn't the project's. Hosts are not compared: a repository
    is reached under several names."""
    if not project.repository_url or project.repository_url.startswith("file://"):
        return ""
    told = [name for name in (push.full_name, *push.urls) if _last_parts(name)]
    wanted = _last_parts(project.repository_url)
    if not told or any(_same(wanted, _last_parts(name)) for name in told):
        return ""
    return told[0]


def _further(project: Project, push: Push) -> Repository | None:
    """The further repository that was pushed to."""
    told = [parts for name in (push.full_name, *push.urls) if (parts := _last_parts(name))]
    for one in project.repositories.all():
        if any(_same(_last_parts(one.repository_url), parts) for parts in told):
            return one
    return None


def _same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[len(one) - length :] == other[len(other) - length :]


def _last_parts(address: str) -> tuple[str, ...]:
    """Owner and name of a repository from its URL or full name; fewer where there are fewer."""
    _, scheme, rest = address.partition("://")
    path = rest.partition("/")[2] if scheme else address.rpartition(":")[2]
    parts = [part for part in path.lower().split("/") if part and part != "_git"]
    return tuple(part.removesuffix(".git") for part in parts[-2:])
