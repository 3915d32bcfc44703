"""Does a push bring anything new? Asked in the worker, once its branch has been fetched: webhooks are delivered twice,
late and out of order, and what they name may long be live, or have been gone back from."""

from deployments import paths
from deployments.models import Deployment
from deployments.routing import asks_to_be_skipped
from deployments.states import Status, Trigger
from projects.git import Commit, Mirror
from projects.inheritance import resolve

NOT_HANDLED = (Status.QUEUED, Status.RUNNING, Status.SUPERSEDED)


def nothing_new(deployment: Deployment, pushed: str, tip: Commit, mirror: Mirror) -> tuple[str, Deployment] | None:
    """Why `tip`, what its branch is at now, need not be deployed, and what stands in its place; None: deploy it.

    What was asked for by a person, or with force, is never held back. A branch that has moved since it was last
    deployed here is new, whichever way it moved: a force-push may go back. What did not make it may be `pushed` again,
    but an older push doesn't try it again.
    """
    if deployment.trigger != Trigger.PUSH or deployment.forced or deployment.rollback_to_id:
        return None
    earlier = Deployment.objects.filter(environment=deployment.environment_id, pk__lt=deployment.pk)
    live = earlier.filter(live=True).first()
    if live and live.commit and (left_out := unwanted(deployment, pushed, tip, live, mirror)):
        return left_out, live
    if live and live.commit == tip.sha:
        return f"{tip.sha[:10]} is live as #{live.pk} already.", live
    handled = earlier.filter(rollback_to=None).exclude(commit="").exclude(status__in=NOT_HANDLED)
    elsewhere = handled.filter(ref=deployment.ref).exclude(commit=tip.sha).first()
    # By commit: what a person deploys again, or by its tag, has another ref than its branch.
    since = handled.filter(commit=tip.sha, pk__gt=elsewhere.pk if elsewhere else 0)
    last = since.exclude(live_at=None).first() or since.first()
    if last and (last.live_at or pushed != tip.sha):
        ended = "something else is live since" if last.live_at else last.get_status_display().lower()
        return f"{tip.sha[:10]} was deployed here before, as #{last.pk}: {ended}.", live or last
    if live is None or not live.commit or not mirror.has(live.commit):
        return None
    of_branch = earlier.filter(ref=deployment.ref, rollback_to=None)
    if of_branch.filter(commit=live.commit).exists() or not mirror.is_ancestor(tip.sha, live.commit):
        return None
    return f"#{live.pk}, which is live, has {tip.sha[:10]} already, and more.", live


def unwanted(deployment: Deployment, pushed: str, tip: Commit, live: Deployment, mirror: Mirror) -> str:
    """Why the environment's settings leave it out, "" if they don't. Compared is with what is live, not with the push
    before: one that was left out, or superseded, may be what the next one needs."""
    environment = deployment.environment
    word = asks_to_be_skipped(tip.subject) if pushed == tip.sha else ""
    if word and resolve(environment, "skip_words").value:
        return f"Skipped: its head commit says “{word}”."
    wanted = resolve(environment, "deploy_paths")
    if not wanted.value or live.commit == tip.sha or not mirror.has(live.commit):
        return ""
    if any(paths.changed(wanted.value, mirror.files(live.commit), mirror.files(tip.sha))):
        return ""
    return f"Nothing changed since #{live.pk} in {', '.join(wanted.value)} (deploy only for paths, {wanted.origin})."
