"""Deploy again what has ended: the same commit with today's settings, of which what still holds is not done anew."""

from dataclasses import dataclass

from deployments import further, services
from deployments.drift import REPOSITORIES, Difference, drift
from deployments.models import Deployment, Snapshot
from deployments.services import NotPossible, Who
from deployments.states import ACTIVE, Trigger
from projects.inheritance import resolve


@dataclass(frozen=True)
class RetryOffer:
    """What a retry would use again and what it would do anew, said before it happens."""

    of: Deployment
    reuses: tuple[str, ...]
    anew: tuple[str, ...]
    settings: tuple[Difference, ...]
    """Where today's settings differ from those that it used."""


def retry_offer(deployment: Deployment) -> RetryOffer:
    """Raises `NotPossible` while it is underway, or while something else would be in its way."""
    environment = deployment.environment
    if not deployment.final:
        raise NotPossible(f"{deployment} has not ended yet.", advice="Wait for its end, or cancel it.")
    if environment.removing_since:
        raise NotPossible(f"{environment} is being removed.")
    if deployment.takes_from_id:
        raise NotPossible(
            f"{deployment} was to put a second version in the place of {environment}.",
            advice="Keep the second one again, on its page.",
        )
    failed = services.broken_by(environment)
    if failed:
        raise NotPossible(
            f"The rollback of {failed} failed, and a person must look at {environment} first.",
            advice="Try the rollback again; what it puts back is on record.",
        )
    active = Deployment.objects.filter(environment=environment, status__in=ACTIVE).first()
    if active:
        raise NotPossible(
            f"{active} is {active.get_status_display().lower()} in {environment}.",
            advice="Wait for its end, or cancel it.",
        )
    snapshot = deployment.restores
    if snapshot and snapshot.state != Snapshot.State.READY:
        raise NotPossible(
            f"{deployment} was to put back the data of {snapshot.taken_at:%Y-%m-%d %H:%M} UTC, which is gone.",
            advice="Roll back from the environment's page instead.",
        )
    reuses, anew = _build(deployment)
    if found := further.taken(deployment):
        reuses.append(f"The further repositories as they were: {', '.join(map(str, found))}.")
    anew.append("Snapshot, deploy and health check: what runs now is kept first, and comes back if anything fails.")
    # The further repositories stay those of then.
    moved = (
        [] if deployment.rollback_to else [one for one in drift(environment, deployment) if one.label != REPOSITORIES]
    )
    return RetryOffer(deployment, tuple(reuses), tuple(anew), tuple(moved))


def retry(deployment: Deployment, who: Who, trigger: Trigger) -> Deployment:
    """Queue it. Raises `NotPossible` as `retry_offer`."""
    retry_offer(deployment)
    return services.request_deployment(
        deployment.environment,
        Trigger.ROLLBACK if deployment.rollback_to else trigger,
        who,
        ref=_commit_or_ref(deployment),
        commit=deployment.commit,
        subject=deployment.subject,
        author=deployment.author,
        forced=deployment.forced,
        rollback_to=deployment.rollback_to,
        restores=deployment.restores,
        retries=deployment,
    )


def _commit_or_ref(deployment: Deployment) -> str:
    project = deployment.environment.project
    return (deployment.commit or deployment.ref) if project.repository_url else ""


def _build(deployment: Deployment) -> tuple[list[str], list[str]]:
    """What of the build step holds, and what does not; from the rows, since a page must not wait for a server."""
    environment, commit = deployment.environment, deployment.short_commit
    if not environment.project.repository_url:
        return [], [f"Plain Odoo: {environment.base_image} as the server has it then."]
    if not commit:
        return [], [f"Fetch and build: the tip of “{deployment.ref}”, since {deployment} never got a commit."]
    built = deployment.rollback_to or _built(deployment)
    if built is None:
        return [], [f"Fetch and build: {commit} was not built before with today's packages and Odoo image."]
    return [
        f"The image that was built for {built}, without asking the git host: if it is still on {environment.server} "
        f"and stands on the Odoo image of today. Else {commit} is fetched and built anew."
    ], []


def _built(deployment: Deployment) -> Deployment | None:
    """The newest of the same commits with an image of today's Odoo image and packages."""
    environment = deployment.environment
    same = Deployment.objects.filter(environment__project=environment.project, commit=deployment.commit)
    wanted = (environment.base_image, resolve(environment, "pip_packages").value)
    for one in same.exclude(image="").exclude(content=""):
        then = one.configuration
        if further.identity(one) != further.identity(deployment):
            continue
        if then and (then["base_image"], then["environment"]["pip_packages"]["value"]) == wanted:
            return one
    return None
