"""The clients' status page: is my Odoo up, since when, and what was done last.

Whoever has the address sees it, so it says nothing of how things are made: no commit, branch, server, error or
person's name, and sets no cookie. Everything comes from rows, in a constant number of queries.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from csp.decorators import csp
from django.db.models import Exists, F, Max, Min, OuterRef, Q, Window
from django.db.models.functions import RowNumber
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.cache import get_conditional_response
from django.views.decorators.http import require_safe

from deployments.condition import Condition, State, conditions
from deployments.models import Deployment, Step
from deployments.states import Status, StepKind, StepStatus, Trigger
from deployments.uptime import Day, days_of, percent
from instances.models import Maintenance
from projects.domains import of_environments
from projects.models import Environment, Project

MAX_AGE = 15
REFRESH_SECONDS = 60
UPDATES = 5
OUTCOMES: dict[Status, str] = {
    Status.SUCCEEDED: "Updated",
    Status.FAILED: "Update was not carried out, nothing changed for you",
    Status.ROLLED_BACK: "Update was taken back, nothing changed for you",
    Status.ROLLBACK_FAILED: "Update went wrong, we are looking after it",
}
"""In a client's words; what was cancelled or superseded never concerned them, nor what left all that runs as it was."""
LEFT_ALL_AS_IT_WAS = Exists(
    Step.objects.filter(deployment=OuterRef("pk"), kind=StepKind.DEPLOY, status=StepStatus.SKIPPED)
)
HEADERS = {
    "Cache-Control": f"public, max-age={MAX_AGE}",
    "X-Robots-Tag": "noindex, nofollow",
    "Referrer-Policy": "no-referrer",
}
POLICY = {
    "default-src": ["'none'"],
    "style-src": ["'self'"],
    "img-src": ["'self'"],
    "base-uri": ["'none'"],
    "form-action": ["'none'"],
    "frame-ancestors": ["'none'"],
}


@dataclass(frozen=True)
class Update:
    at: datetime
    seconds: float
    outcome: str
    good: bool

    @property
    def took(self) -> str:
        minutes, seconds = divmod(max(1, round(self.seconds)), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


@dataclass(frozen=True)
class Life:
    """Of an environment: when it first went live, and when what runs was last replaced."""

    began_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class Shown:
    """What a client sees of one environment."""

    name: str
    kind: str
    simulated: bool
    state: State
    sentence: str
    version: str
    since: datetime | None
    """When what runs was last replaced."""
    url: str
    """Empty while there is nothing to open."""
    days: list[Day]
    updates: list[Update]

    @property
    def measured(self) -> bool:
        return any(day.kind != "none" for day in self.days)

    @property
    def uptime(self) -> float | None:
        return percent(sum(day.up for day in self.days), sum(day.down for day in self.days))


@csp(POLICY)  # type: ignore[arg-type]  # its types know only views without arguments
@require_safe
def page(request: HttpRequest, token: str) -> HttpResponse:
    """For people."""
    return _answer(request, token, _as_html)


@csp(POLICY)  # type: ignore[arg-type]  # its types know only views without arguments
@require_safe
def data(request: HttpRequest, token: str) -> HttpResponse:
    """The same for programs."""
    return _answer(request, token, _as_json)


def _answer(
    request: HttpRequest, token: str, render: Callable[[Project, list[Shown], datetime], HttpResponse]
) -> HttpResponse:
    project = Project.objects.filter(status_token=token).first()
    if project is None:
        raise Http404
    now = timezone.now().replace(second=0, microsecond=0)
    response = render(project, shown(project), now)
    etag = f'"{hashlib.sha256(response.content).hexdigest()[:32]}"'
    answer = get_conditional_response(request, etag=etag, response=response) or response
    answer["ETag"] = etag
    for name, value in HEADERS.items():
        answer[name] = value
    return answer


def shown(project: Project) -> list[Shown]:
    """Production first. Ten queries, however many there are."""
    rows = Environment.objects.filter(project=project, public=True, removing_since=None)
    kinds = list(Environment.Kind.values)
    environments = sorted(
        rows.select_related("server", "project").prefetch_related(of_environments()),
        key=lambda one: (kinds.index(one.kind), one.name),
    )
    keys = [environment.pk for environment in environments]
    days, updates, lives = days_of(keys), _updates(keys), _lives(keys)
    found = {one.environment.pk: one for one in conditions(environments)}
    return [_shown(one, days[pk], updates[pk], lives.get(pk)) for pk, one in found.items()]


def _shown(one: Condition, days: list[Day], updates: list[Update], life: Life | None) -> Shown:
    environment = one.environment
    return Shown(
        name=environment.name,
        kind=environment.kind,
        simulated=environment.server.simulated,
        state=one.state,
        sentence=_sentence(one),
        version=f"Odoo {one.odoo_version}" if one.odoo_version else "Odoo" if one.live else "",
        since=one.since and life.changed_at if life else None,
        url=environment.url if _reachable(one) else "",
        days=[day for day in days if life and day.date >= life.began_at.date()],
        updates=updates,
    )


def _sentence(one: Condition) -> str:
    """What the state means for somebody who wants to work now."""
    if one.broken:
        return "Something went wrong. We have been told and are looking after it."
    if one.maintenance and one.state == State.MAINTENANCE:
        return _maintenance(one.maintenance)
    if one.state == State.UPDATING and not one.live:
        return "It is being set up for the first time."
    if one.state == State.UPDATING and not one.closed_since and one.underway:
        return "An update is being prepared. You can go on working."
    if one.state == State.UPDATING and not one.closed_since:
        return "It is just being started or stopped."
    return {
        State.UP: "It works as it should.",
        State.DOWN: "It does not answer at the moment.",
        State.UPDATING: "Please wait a moment: what you send now is answered as soon as it is back.",
        State.STOPPED: "It has been stopped on purpose.",
        State.NOT_LIVE: "Nothing has been deployed here yet.",
        State.UNKNOWN: "It ran when we last looked, which is a while ago.",
    }[one.state]


def _maintenance(row: Maintenance) -> str:
    """What clients read on the page that they get instead."""
    text = " ".join(row.text.split()) or "It is being looked after."
    return f"{text} Expected to be back by {row.until:%-d %B %Y, %H:%M} UTC." if row.until else text


def _reachable(one: Condition) -> bool:
    """Whether it makes sense to offer the way to it."""
    return (
        bool(one.live)
        and one.state not in (State.DOWN, State.STOPPED, State.MAINTENANCE)
        and not one.environment.server.simulated
    )


def _summary(environments: list[Shown]) -> tuple[str, str]:
    """The page in one line, and the worst state in it."""
    states = {one.state for one in environments}
    if State.DOWN in states:
        return "Not everything works at the moment", State.DOWN
    if State.UPDATING in states:
        return "An update is underway", State.UPDATING
    if State.MAINTENANCE in states:
        return "Maintenance is underway", State.MAINTENANCE
    if states == {State.UP}:
        return "Everything works", State.UP
    if State.UP in states:
        return "All that is live works", State.UP
    return "Nothing is running", State.NOT_LIVE


def _lives(environments: list[int]) -> dict[int, Life]:
    rows = Deployment.objects.filter(environment__in=environments, status=Status.SUCCEEDED).exclude(live_at=None)
    changed = Max("live_at", filter=~Q(LEFT_ALL_AS_IT_WAS))
    found = rows.order_by().values("environment").annotate(began=Min("live_at"), changed=changed)
    return {row["environment"]: Life(row["began"], row["changed"] or row["began"]) for row in found}


def _updates(environments: list[int]) -> dict[int, list[Update]]:
    numbered = (
        Deployment.objects.filter(~LEFT_ALL_AS_IT_WAS, environment__in=environments, status__in=list(OUTCOMES))
        .annotate(place=Window(RowNumber(), partition_by=F("environment"), order_by=F("pk").desc()))
        .filter(place__lte=UPDATES)
        .order_by("-pk")
        .values_list("environment", "status", "trigger", "created_at", "started_at", "finished_at")
    )
    found: dict[int, list[Update]] = {environment: [] for environment in environments}
    for environment, status, trigger, created, started, finished in numbered:
        outcome = OUTCOMES[Status(status)]
        if status == Status.SUCCEEDED and trigger == Trigger.ROLLBACK:
            outcome = "Went back to an earlier version"
        began = started or created
        ended = finished or began
        seconds = (ended - began).total_seconds()
        found[environment].append(Update(ended, seconds, outcome, status == Status.SUCCEEDED))
    return found


def _as_html(project: Project, environments: list[Shown], now: datetime) -> HttpResponse:
    """Without the request: nothing of a session or an account can get into it."""
    context = {
        "summary": _summary(environments),
        "project": project,
        "environments": environments,
        "now": now,
        "refresh": REFRESH_SECONDS,
    }
    return HttpResponse(render_to_string("status/page.html", context))


def _as_json(project: Project, environments: list[Shown], now: datetime) -> HttpResponse:
    content: dict[str, Any] = {
        "project": project.name,
        "as_of": now.isoformat(),
        "environments": [_environment(one) for one in environments],
    }
    return JsonResponse(content)


def _environment(one: Shown) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "simulated": one.simulated,
        "state": one.state.value,
        "message": one.sentence,
        "version": one.version,
        "since": one.since.isoformat() if one.since else None,
        "url": one.url or None,
        "uptime": {
            "percent": one.uptime,
            "days": [{"date": day.date.isoformat(), "percent": day.percent, "kind": day.kind} for day in one.days],
        },
        "updates": [
            {"at": update.at.isoformat(), "seconds": round(update.seconds), "outcome": update.outcome}
            for update in one.updates
        ],
    }
