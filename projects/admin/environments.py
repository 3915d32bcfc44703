"""Environments: the form. Their list and their actions need deployments, and are added there."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import escape, format_html

from ocore.admin_acts import NoBulkDelete
from projects.admin.overrides import OverridesForm, ShowsOverrides
from projects.models import Environment


def same_branch(environment: Environment) -> list[Environment]:
    """Others of the project that a push to its branch deploys too."""
    if not environment.branch:
        return []
    others = Environment.objects.filter(project=environment.project_id, branch=environment.branch)
    return list(others.exclude(pk=environment.pk).select_related("project"))


class EnvironmentForm(OverridesForm):
    parent_field = "project"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        branch = self.fields.get("branch")
        if branch is None or not self.instance.project_id:
            return
        if not self.instance.project.repository_url:
            branch.help_text += '<br><span class="oc-hint oc-over">The project has no git repository: plain Odoo is deployed, by hand, and a branch has no effect.</span>'  # noqa: E501
        others = same_branch(self.instance) if self.instance.pk else []
        if others:
            names = escape(", ".join(one.name for one in others))
            branch.help_text += f'<br><span class="oc-hint oc-over">A push to it also deploys {names}.</span>'


class EnvironmentAdmin(ShowsOverrides, NoBulkDelete):
    form = EnvironmentForm
    autocomplete_fields = ["project", "server"]
    search_fields = ["name", "slug", "project__name", "project__slug", "branch", "server__name", "subdomain"]
    fixed = ("project", "server", "slug")
    head = [
        (None, {"fields": ["project", "server", "name", "slug", "kind", "branch", "public", "description"]}),
    ]

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        return {} if obj else {"slug": ["name"]}

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        tell_peculiarities(request, form.instance)


def tell_peculiarities(request: HttpRequest, environment: Environment) -> None:
    """What is allowed, and perhaps not meant."""
    others = same_branch(environment)
    if others:
        names = ", ".join(str(one) for one in others)
        messages.warning(
            request, f"A push to {environment.branch} deploys {environment} and also {names}: they share the branch."
        )
    production = Environment.Kind.PRODUCTION
    if environment.slug.startswith("prod") and environment.kind != production:
        url = reverse("admin:projects_environment_change", args=[environment.pk])
        messages.warning(
            request,
            format_html(
                '<a href="{}">{}</a> is of the kind “{}”, so the safety rules of production don\'t hold for it.',
                url,
                environment,
                environment.get_kind_display(),
            ),
        )
