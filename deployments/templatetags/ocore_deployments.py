"""Statuses in templates, and what every page of the admin says when it is so."""

from typing import Any

from django import template
from django.contrib import admin
from django.http import HttpRequest

from deployments import attention, further, schedule
from deployments.admin import badges
from deployments.admin.deliveries import verdict_tag
from deployments.admin.domains import certificate_tag
from instances.admin import outcome_tag, state_tag
from projects.admin.projects import kind_tag
from projects.models import Environment

OVERVIEW = 30

register = template.Library()
for _function in (badges.status_tag, badges.step_tag, badges.commit_words, badges.cause_words, badges.deployment_link):
    register.filter(_function.__name__, _function)
register.filter("further", further.taken)
register.filter("why_waiting", schedule.why_waiting)
register.filter("verdict_tag", verdict_tag)
register.filter("state_tag", state_tag)
register.filter("outcome_tag", outcome_tag)
register.filter("certificate_tag", certificate_tag)
register.filter("kind_tag", kind_tag)


DAILY = ("Environment", "Deployment", "Instance", "Project", "Server")


@register.filter
def daily_pages(available_apps: list[dict[str, Any]], request: HttpRequest) -> list[tuple[str, str, bool]]:
    """Address and name of the lists in the header, those that the user may see, and whether this page is below one."""
    models = {model["object_name"]: model for app in available_apps or () for model in app["models"]}
    found = [models[name] for name in DAILY if name in models and models[name]["admin_url"]]
    return [(one["admin_url"], one["name"], request.path.startswith(one["admin_url"])) for one in found]


@register.inclusion_tag("admin/ocore/overview.html", takes_context=True)
def overview(context: template.Context) -> dict[str, Any]:
    """For the first page: what runs where, an environment a line."""
    request: HttpRequest = context["request"]
    model_admin = admin.site.get_model_admin(Environment)
    if not model_admin.has_view_permission(request):
        return {}
    environments: list[Any] = list(model_admin.get_queryset(request).order_by("project__name", "name")[: OVERVIEW + 1])
    rows = [(one, next(iter(one.live_rows), None), next(iter(one.last_rows), None)) for one in environments]
    return {"rows": rows[:OVERVIEW], "more": len(rows) > OVERVIEW, "may_add": model_admin.has_add_permission(request)}


@register.inclusion_tag("admin/ocore/banners.html", takes_context=True)
def banners(context: template.Context) -> dict[str, Any]:
    """For staff only: what nobody may overlook."""
    request: HttpRequest | None = context.get("request")
    if request is None or not request.user.is_active or not request.user.is_staff:
        return {}
    return {
        "simulated": attention.simulated_servers(),
        "broken": attention.broken_environments(),
        "given_up": attention.given_up(),
        "certificates": attention.troubled_certificates(),
        "uninformed": attention.uninformed_servers(),
    }
