"""An instance that should run: brought back when it is down, restarted once when it doesn't answer, given up loudly."""

from collections.abc import Callable
from datetime import timedelta

from django.db.models import QuerySet
from django.utils import timezone

from deployments import sight
from deployments.claims import claimed
from deployments.fence import fenced
from deployments.keeper import repairs
from deployments.models import Deployment
from instances import incidents
from instances.models import HealthCheck, Incident, Instance
from instances.runtimes.base import Container, Runtime
from ocore.errors import ExpectedError
from projects.inheritance import resolve
from projects.models import Server

PROBE_SECONDS = 5.0
SILENT_PROBES, SILENT_SECONDS = 3, 90.0
"""So many looks from outside failed, over so long, before an Odoo that runs counts as one that doesn't answer."""
PATIENCE_SECONDS = 180.0
"""A start, or a recovery under load, may take so long, or its health deadline if that is longer."""
RESTART_AGAIN = timedelta(hours=1)
"""One that ran and didn't answer is restarted once; again no sooner than this: a slow Odoo isn't helped by it."""

DYING = "It ended each time that it was brought back, or could not be started."
READ_LOG = "Read its log. When the cause is gone, “Start” on the instance's page, or a deployment, ends this."
SLOW = "It is not restarted again: it may be slow, not dead. Read its log; “Restart” on the instance's page is yours."


def should_run(server: Server) -> QuerySet[Instance]:
    """Those of what is live that no person has stopped, and on which nobody is at work."""
    live = Deployment.objects.filter(live=True, environment__server=server).values("environment")
    return (
        Instance.objects.filter(environment__in=live, state__in=sight.SHOULD_RUN)
        .exclude(container="")
        .exclude(sight.left_alone())
        .select_related("environment__server", "environment__project")
    )


def keep_instance(instance: Instance, runtime: Runtime, found: Container | None, incident: Incident | None) -> None:
    if found is None or not found.running:
        _bring_back(instance, runtime, incident)
        return
    incident = _ended_by_itself(instance, found, incident)
    incident = incident or _of_silence(instance, runtime, found)
    if incident is None:
        return
    inside, outside = sight.unwell(instance, runtime, PROBE_SECONDS)
    if not inside and not outside:
        incidents.end(incident)
        sight.record(instance, "")
    elif incident.outcome == Incident.Outcome.OPEN:
        _be_patient(instance, runtime, incident, inside, outside)
        _tell(instance, incident)


def _bring_back(instance: Instance, runtime: Runtime, incident: Incident | None) -> None:
    if incident and not incidents.due(incident):
        return
    with claimed(instance.environment_id, f"keeping {instance}", repairs.CLAIM) as claim:
        instance = _again(instance)
        found = runtime.containers.find(instance.container)
        down = sight.down(instance.container, found)
        if not down or instance.state not in sight.SHOULD_RUN:
            return
        if incident is None:
            incident = incidents.notice(
                Incident.Part.INSTANCE,
                instance.environment.server,
                down,
                instance=instance,
                detail=repairs.last_lines(runtime, found),
            )
        if incidents.exhausted(incident):
            incidents.give_up(incident, incident.problem or f"{DYING} {down}", READ_LOG)
        elif found and found.state == "restarting":
            # Its engine is at it, with pauses of its own: that counts too.
            _ended_by_itself(instance, found, incident)
        elif incidents.attempt(incident):
            _attempt(incident, lambda: repairs.bring_up(instance, fenced(runtime, claim.check), found))
    _tell(instance, incident)


def _again(instance: Instance) -> Instance:
    """What was seen was seen before anybody was kept out."""
    return Instance.objects.select_related("environment__server", "environment__project").get(pk=instance.pk)


def _attempt(incident: Incident, act: Callable[[], None]) -> None:
    try:
        act()
    except repairs.HOPELESS as error:
        incidents.give_up(incident, error.message, error.advice)
    except ExpectedError as error:
        incidents.failed(incident, error)


def _tell(instance: Instance, incident: Incident) -> None:
    """On its row, until it is seen healthy."""
    words = incident.seen if not incident.problem else f"{incident.seen} {incident.problem}"
    if incident.given_up:
        words = f"{words} It was given up after {incident.attempts} attempts. {incident.advice}"
    sight.record(instance, words)


def _be_patient(instance: Instance, runtime: Runtime, incident: Incident, inside: str, outside: str) -> None:
    """It runs, and isn't well yet."""
    if not incidents.due(incident):
        return
    if inside and incident.attempted_at:
        patience = max(PATIENCE_SECONDS, float(resolve(instance.environment, "health_deadline").value))
        if timezone.now() - incident.attempted_at < timedelta(seconds=patience):
            return
    if incidents.exhausted(incident):
        incidents.give_up(incident, inside or outside, READ_LOG)
        return
    if inside and _restarted_lately(instance):
        incidents.give_up(incident, f"It was restarted because it did not answer, and does not answer: {inside}", SLOW)
        return
    with claimed(instance.environment_id, f"keeping {instance}", repairs.CLAIM) as claim:
        seen, instance = instance, _again(instance)
        if instance.container != seen.container or instance.state not in sight.SHOULD_RUN:
            return
        if not inside:
            if incidents.attempt(incident):
                _attempt(incident, lambda: repairs.put_behind_edge(instance, fenced(runtime, claim.check)))
            return
        try:
            repairs.require_data(instance, runtime)
        except ExpectedError as error:
            incidents.give_up(incident, error.message, error.advice)
            return
        if incidents.attempt(incident, restarted=True):
            _attempt(incident, lambda: repairs.restart(instance, fenced(runtime, claim.check)))


def _restarted_lately(instance: Instance) -> bool:
    lately = timezone.now() - RESTART_AGAIN
    return Incident.objects.filter(instance=instance, restarted=True, attempted_at__gt=lately).exists()


def _ended_by_itself(instance: Instance, found: Container, incident: Incident | None) -> Incident | None:
    """While a deployment waits for its health a container may be started several times: these don't count."""
    if not found.restart_count:
        return incident
    live = Deployment.objects.filter(environment=instance.environment_id, live=True).first()
    since = live.live_at if live else None
    server = instance.environment.server
    return incidents.ended_by_itself(Incident.Part.INSTANCE, server, found, incident, instance=instance, since=since)


def _of_silence(instance: Instance, runtime: Runtime, found: Container) -> Incident | None:
    """It runs, but from outside nothing has been answered for long."""
    if instance.state != Instance.State.FAILED:  # the probes would have called it so
        return None
    looks = list(HealthCheck.objects.filter(environment=instance.environment_id)[:SILENT_PROBES])
    if len(looks) < SILENT_PROBES or any(one.ok or one.held for one in looks):
        return None
    since = looks[-1].checked_at
    if timezone.now() - since < timedelta(seconds=SILENT_SECONDS) or (found.started_at and found.started_at > since):
        return None
    if not any(sight.unwell(instance, runtime, PROBE_SECONDS)):
        return None
    return incidents.notice(
        Incident.Part.INSTANCE,
        instance.environment.server,
        f"It runs, but has not answered since {since:%H:%M:%S} UTC: {looks[0].detail or looks[0].status or 'nothing'}",
        instance=instance,
        detail=repairs.last_lines(runtime, found),
    )
