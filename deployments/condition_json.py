"""An environment's condition for programs: what `status --json` prints."""

from typing import Any

from deployments import locks, schedule
from deployments.condition import Condition
from deployments.locks import Lock
from deployments.models import Deployment
from deployments.workforce import Trouble
from instances import incidents
from instances.models import Incident, Maintenance

LAST = 8


def as_json(one: Condition, idle: Trouble | None) -> dict[str, Any]:
    environment = one.environment
    return {
        "environment": environment.path,
        "state": one.state.value,
        "live": _deployment(one.live),
        "since": one.since.isoformat() if one.since else None,
        "underway": _deployment(one.underway),
        "step": one.step,
        "queued": _deployment(one.queued),
        "last_failure": _deployment(one.failure),
        "needs_a_person": one.broken or one.given_up is not None,
        "maintenance": _maintenance(one.maintenance),
        "server": environment.server.slug,
        "simulated": environment.server.simulated,
        "url": environment.url,
        "checked_at": one.check.checked_at.isoformat() if one.check else None,
        "portal_problem": str(idle) if idle else "",
    }


def details(one: Condition) -> dict[str, Any]:
    deployments = Deployment.objects.filter(environment=one.environment)[:LAST]
    return {
        "branch": one.environment.branch,
        "lock": _lock(locks.current(one.environment)),
        "waits_for": schedule.why_waiting(one.queued) if one.queued else "",
        "instances": [{"name": i.name, "state": i.state, "problem": i.problem} for i in one.instances],
        "pending": one.environment.pending.get("commits", []),
        "incidents": [_incident(incident) for incident in incidents.about(one.environment)[:LAST]],
        "deployments": [_deployment(deployment) for deployment in deployments],
    }


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "of": incident.subject,
        "seen": incident.seen,
        "outcome": incident.outcome,
        "attempts": incident.attempts,
        "problem": incident.problem,
        "noticed_at": incident.noticed_at.isoformat(),
        "next_attempt_at": incident.next_attempt_at.isoformat() if incident.open else None,
        "ended_at": incident.ended_at.isoformat() if incident.ended_at else None,
    }


def _maintenance(row: Maintenance | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "text": row.text,
        "by": row.began_by,
        "since": row.began_at.isoformat(),
        "until": row.until.isoformat() if row.until else None,
    }


def _lock(row: Lock | None) -> dict[str, Any] | None:
    return {"reason": row.reason, "by": row.locked_by, "since": row.locked_at.isoformat()} if row else None


def _deployment(deployment: Deployment | None) -> dict[str, Any] | None:
    if deployment is None:
        return None
    return {
        "id": deployment.pk,
        "status": deployment.status,
        "ref": deployment.ref,
        "commit": deployment.commit,
        "subject": deployment.subject,
        "repositories": deployment.repositories or [],
        "requester": deployment.requester,
        "trigger": deployment.trigger,
        "created_at": deployment.created_at.isoformat(),
        "finished_at": deployment.finished_at.isoformat() if deployment.finished_at else None,
        "seconds": deployment.seconds,
        "error": deployment.error,
    }
