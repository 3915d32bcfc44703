"""The only doors in from outside: request, cancel, roll back."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from deployments import at_work, queues, schedule
from deployments.models import Delivery, Deployment, Snapshot, StaleTransition
from deployments.run import STALE
from deployments.states import Status, Trigger
from instances.models import Instance
from ocore.errors import ExpectedError
from projects import validators
from projects.models import Environment

logger = logging.getLogger(__name__)
TAGS = "refs/tags/"
"""Before a tag's name where it could be taken for a branch's."""
THEN_FAILED = " Then the rollback failed: "
"""Between why a deployment was taken back and why that failed."""


class NotPossible(ExpectedError):
    """What was asked for cannot be done now; the message says why."""


@dataclass(frozen=True)
class Who:
    """Who asks, for the record."""

    name: str
    user: AbstractBaseUser | None = None


def request_deployment(
    environment: Environment,
    trigger: Trigger,
    who: Who,
    *,
    ref: str = "",
    commit: str = "",
    subject: str = "",
    author: str = "",
    delivery: Delivery | None = None,
    forced: bool = False,
    rollback_to: Deployment | None = None,
    restores: Snapshot | None = None,
    takes_from: Environment | None = None,
    retries: Deployment | None = None,
    pushed_from: str = "",
) -> Deployment:
    """Queue a deployment; one that was still queued for the environment is superseded by it. Raises `NotPossible`."""
    if ref:
        try:
            validators.validate_ref(ref.removeprefix(TAGS))
        except ValidationError as error:
            raise NotPossible(" ".join(error.messages)) from None
    project = environment.project
    if not project.repository_url and ref:
        raise NotPossible(
            f"{project} has no git repository, so there is no “{ref}” to deploy.",
            advice="Leave the ref empty to deploy plain Odoo, or give the project a repository.",
        )
    if project.repository_url and not (ref or commit or environment.branch or rollback_to):
        raise NotPossible(
            f"{environment} has no git branch.", advice="Say which branch, tag or commit to deploy, or set its branch."
        )
    Instance.ensure_first(environment)
    with transaction.atomic():
        if Environment.objects.select_for_update().values_list("removing_since", flat=True).get(pk=environment.pk):
            raise NotPossible(f"{environment} is being removed.")
        if at_work.being_ended(environment):
            raise NotPossible(f"{environment} is a second version that is being ended.")
        if restores and not Snapshot.objects.filter(pk=restores.pk, state=Snapshot.State.READY).exists():
            raise NotPossible(
                f"The data of {restores.taken_at:%Y-%m-%d %H:%M} UTC was removed a moment ago, as too old.",
                advice="Roll back without data, or to a later deployment.",
            )
        failed = broken_by(environment)
        if failed and not forced:
            raise NotPossible(
                f"The rollback of {failed} failed, and a person must look at {environment} first.",
                advice="Try the rollback again, or deploy with force if you know that its data is right.",
            )
        waiting = Deployment.objects.filter(environment=environment, status=Status.QUEUED)
        queued = waiting.only("status", "token", "queued_since", "admitted_at", "environment").first()
        if queued:
            try:
                # Under its token: the worker that claims it raises that.
                queued.move(Status.SUPERSEDED, token=queued.token, finished_at=timezone.now())
            except StaleTransition:
                queued = None  # a worker has just taken it
        deployment = Deployment.objects.create(
            environment=environment,
            trigger=trigger,
            requested_by_id=who.user.pk if who.user else None,
            requester=who.name[:200],
            delivery=delivery,
            ref=(ref or commit or environment.branch)[:255],
            commit=commit,
            pushed_from=pushed_from,
            pushed_to=commit if trigger == Trigger.PUSH else "",
            subject=subject[:300],
            author=author[:200],
            forced=forced,
            rollback_to=rollback_to,
            restores=restores,
            takes_from=takes_from,
            retries=retries,
            repositories=_recorded(rollback_to or retries, takes_from),
            # Its place in the line, and its slot: pushes that follow each other must not starve themselves.
            **({"queued_since": queued.queued_since, "admitted_at": queued.admitted_at} if queued else {}),
        )
        if queued:
            Deployment.objects.filter(pk=queued.pk).update(superseded_by=deployment)
        if deployment.admitted_at:
            transaction.on_commit(lambda: queues.enqueue_deployment(deployment.pk, new=True), robust=True)
        else:
            transaction.on_commit(lambda: schedule.hand_out(environment.server_id), robust=True)
        if project.report_since and deployment.commit:
            transaction.on_commit(lambda: queues.enqueue_report(deployment.pk, new=True), robust=True)
    return deployment


def _recorded(earlier: Deployment | None, takes_from: Environment | None) -> Any:
    """The further repositories' commits, where they are those of a deployment that there was; None: the newest, found
    when it begins."""
    if takes_from:
        earlier = Deployment.objects.filter(environment=takes_from, live=True).first()
    return earlier.repositories if earlier else None


def superseded_words(deployment: Deployment) -> str:
    """What a request has put out of the queue, for whoever made it; empty where nothing waited."""
    replaced = deployment.supersedes.first()
    if replaced is None:
        return ""
    what = replaced.short_commit or replaced.ref or "plain Odoo"
    if replaced.rollback_to_id:
        what = f"a rollback to #{replaced.rollback_to_id}"
    elif replaced.trigger == Trigger.PUSH:
        what = f"a push of {what}"
    else:
        what = f"a deployment of {what}"
    by = f" by {replaced.requester}" if replaced.requester else ""
    return f"#{replaced.pk}, {what}{by} that was waiting, is superseded."


def broken_by(environment: Environment) -> Deployment | None:
    """The deployment whose rollback failed, with nothing gone live since."""
    failures = Deployment.objects.filter(environment=environment, status=Status.ROLLBACK_FAILED)
    failed = failures.only("pk", "status", "environment").first()
    if failed is None:
        return None
    later = Deployment.objects.filter(environment=environment, pk__gt=failed.pk, status=Status.SUCCEEDED)
    return None if later.exists() else failed


def retry_rollback(deployment: Deployment, who: Who) -> None:
    """Let a failed rollback be tried again: all that it needs is on record. Raises `NotPossible`."""
    with transaction.atomic():
        environment = Environment.objects.select_for_update().get(pk=deployment.environment_id)
        found = at_work.hindrance(environment, behind_doors=True)  # its own is closed
        if found:
            raise NotPossible(found.message, advice=found.advice)
        if broken_by(environment) != deployment:
            raise NotPossible(f"{deployment} has no failed rollback that could be tried again.")
        reason = deployment.error.split(THEN_FAILED)[0]
        deployment.move(
            Status.ROLLING_BACK,
            raise_token=True,
            error=reason,
            finished_at=None,
            heartbeat_at=timezone.now() - 2 * STALE,
            holder="",
        )
        transaction.on_commit(lambda: queues.enqueue_recovery(deployment.pk), robust=True)
    logger.warning("%s: the rollback is tried again, on behalf of %s", deployment, who.name)


def cancel(deployment: Deployment, who: Who) -> None:
    """A queued one at once, a running one at its next check, unless it is past the point of no return.

    Raises `NotPossible`, saying why.
    """
    if deployment.status == Status.QUEUED:
        try:
            deployment.move(Status.CANCELLED, finished_at=timezone.now(), cancelled_by=who.name[:200])
            environment = deployment.environment
            # It may have held a slot. Not before its row is written: who hands out takes the server's first.
            transaction.on_commit(lambda: schedule.hand_out(environment.server_id), robust=True)
            # What it had superseded is asked for by nobody any more: at least it is to be seen.
            transaction.on_commit(lambda: queues.enqueue_pending(environment.pk), robust=True)
            return
        except StaleTransition:
            pass  # a worker has just taken it: cancel it as a running one
    won = Deployment.objects.filter(pk=deployment.pk, status=Status.RUNNING, switched_at=None).update(
        status=Status.CANCELLING, cancelled_by=who.name[:200]
    )
    deployment.refresh_from_db()
    if won:
        return
    if deployment.status == Status.RUNNING:
        raise NotPossible(
            f"{deployment} is past the point of no return: clients already write to the new version.",
            advice="Wait until it is complete; then roll back if you want the old version.",
        )
    if deployment.status == Status.CANCELLING:
        raise NotPossible(f"{deployment} is being cancelled already, by {deployment.cancelled_by}.")
    if deployment.status == Status.ROLLING_BACK:
        raise NotPossible(
            f"{deployment} is being taken back already: {deployment.error}",
            advice="Wait for its end. A rollback is never stopped half-way.",
        )
    outcome = deployment.outcome
    raise NotPossible(f"{deployment} cannot be cancelled any more. It has ended: {outcome[:1].lower()}{outcome[1:]}.")


@dataclass(frozen=True)
class RollbackOffer:
    """What a rollback would bring back, said before it happens."""

    target: Deployment
    snapshot: Snapshot | None
    """The data as it was when the target was replaced; None when there is none to go back to."""
    newer_modules: tuple[str, ...]
    """Modules that live in another version than the target's addons have: Odoo cannot take these back by itself."""

    @property
    def data_from(self) -> datetime | None:
        return self.snapshot.taken_at if self.snapshot else None


def rollback_targets(environment: Environment) -> list[Deployment]:
    """What can be gone back to, newest first: everything that was live here and isn't now."""
    return list(
        Deployment.objects.filter(environment=environment, status=Status.SUCCEEDED, live=False).order_by("-live_at")
    )


def rollback_offer(
    environment: Environment, target: Deployment | None = None, *, with_data: bool = False
) -> RollbackOffer:
    """To the newest that is not what runs anyway, unless a target is given. Raises `NotPossible` when there is nothing
    to go back to."""
    live = Deployment.objects.filter(environment=environment, live=True).first()
    if target is None:
        candidates = rollback_targets(environment)
        if not candidates:
            raise NotPossible(f"{environment} has no earlier deployment to go back to.")
        others = [one for one in candidates if live is None or not _the_same(one, live)]
        if not others and not with_data:
            raise NotPossible(
                f"All that was live in {environment} before is what runs now: a rollback would change nothing.",
                advice=f"Go back with data, to that of #{candidates[0].pk}, or say which deployment you mean.",
            )
        target = (others or candidates)[0]
    if target.environment_id != environment.pk:
        raise NotPossible(f"{target} is not a deployment of {environment}.")
    if target.status != Status.SUCCEEDED:
        raise NotPossible(f"{target} never went live, so there is nothing to go back to.")
    if live and live.pk == target.pk:
        raise NotPossible(f"{target} is what runs now.")
    newer = sorted(
        name
        for name, addon in target.addons.items()
        if live and name in live.addons and live.addons[name]["version"] != addon["version"]
    )
    snapshot = Snapshot.objects.filter(environment=environment, of=target, state=Snapshot.State.READY).first()
    return RollbackOffer(target=target, snapshot=snapshot, newer_modules=tuple(newer))


def _the_same(one: Deployment, other: Deployment) -> bool:
    """Image and settings; what the image was made of isn't known of old ones."""
    return bool(one.content) and (one.content, one.configuration) == (other.content, other.configuration)


def roll_back(
    environment: Environment, who: Who, *, target: Deployment | None = None, with_data: bool = False
) -> Deployment:
    """Queue a new deployment of an earlier one's image and settings, with its data if asked. Raises `NotPossible`."""
    offer = rollback_offer(environment, target, with_data=with_data)
    if with_data and offer.snapshot is None:
        raise NotPossible(
            f"No data of {offer.target} is kept any more.", advice="Roll back without data: image and settings only."
        )
    return request_deployment(
        environment,
        Trigger.ROLLBACK,
        who,
        ref=offer.target.commit or offer.target.ref,
        commit=offer.target.commit,
        subject=offer.target.subject,
        author=offer.target.author,
        forced=True,
        rollback_to=offer.target,
        restores=offer.snapshot if with_data else None,
    )
