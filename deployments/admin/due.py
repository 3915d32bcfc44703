"""After a change of settings: when they take effect, and how to have that now."""

from collections.abc import Iterable

from django.contrib import messages
from django.http import HttpRequest

from deployments.drift import drift
from deployments.models import Deployment
from projects.inheritance import SETTINGS
from projects.models import Environment

REPOSITORIES = "repositories"
"""Stands for what was changed beside a project's form."""


def tell_due(request: HttpRequest, changed: Iterable[str], environments: Iterable[Environment]) -> None:
    """`changed`: names of the fields that a form has changed. Says nothing where nothing runs otherwise than is set."""
    if not set(changed) & {*SETTINGS, REPOSITORIES}:
        return
    rows = Deployment.objects.filter(live=True, environment__in=environments)
    live = list(rows.select_related("environment__project", "environment__server").order_by("environment__name"))
    due = [one for one in live if drift(one.environment, one)]
    if not due:
        return
    names = ", ".join(str(one.environment) for one in due)
    messages.info(request, f"It takes effect with the next deployment of {names}. {_now(due)}")


def _now(due: list[Deployment]) -> str:
    first = due[0]
    if len(due) > 1:
        return "To have it now, “Deploy now” on the page of each, with the commit that is live."
    ref = f" --ref {first.short_commit}" if first.commit else ""
    same = " with the commit that is live" if ref else ""
    return f"To have it now: “Deploy now”{same}, or ./manage.py deploy {first.environment.path}{ref}"
