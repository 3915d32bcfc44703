"""What an environment already has of what is pushed to it."""

from django.db.models import Q

from deployments.models import Deployment
from deployments.states import ACTIVE, Status, Trigger
from projects.models import Environment

_STANDING = ("status", "live", "commit", "trigger", "forced", "rollback_to", "requester", "environment")
_LATEST = ("status", "pushed_from", "pushed_to", "cancelled_by", "superseded_by", "environment")
"""Of a deployment, what is asked for here: each column costs a webhook's answer some of its time."""


class Standing:
    """What waits, is at work or is live in an environment, newest first: asked for once, for all that a push needs."""

    def __init__(self, environment: Environment) -> None:
        rows = Deployment.objects.filter(environment=environment).filter(Q(status__in=ACTIVE) | Q(live=True))
        found = list(rows.only(*_STANDING))
        self._active = [one for one in found if one.status in ACTIVE]
        self._live = next((one for one in found if one.live), None)

    def same(self, commit: str) -> Deployment | None:
        """The deployment that makes one of this commit pointless: waiting, at work, or what is live already."""
        for one in self._active:
            if one.commit == commit and one.status != Status.CANCELLING:
                return one
        return self._live if self._live and self._live.commit == commit and not self._active else None

    def waiting_by_hand(self) -> Deployment | None:
        """What a person asked for, or force, and waits for its turn: a push does not take its place."""
        by_hand = (one for one in self._active if one.trigger != Trigger.PUSH or one.forced)
        return next((one for one in by_hand if one.status == Status.QUEUED), None)


def pushed_before(environment: Environment, ref: str, before: str, commit: str) -> Deployment | None:
    """What the same push caused, if it is the latest of its ref here: ids of deliveries are unsigned, so one that was
    listened to can be sent again under another."""
    pushes = Deployment.objects.filter(environment=environment, trigger=Trigger.PUSH, ref=ref[:255])
    latest = pushes.exclude(pushed_to="").only(*_LATEST).first()
    same = latest and (latest.pushed_from, latest.pushed_to) == (before, commit)
    return latest if same else None
