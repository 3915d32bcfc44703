"""Projects, with their webhook: its address, its secret on demand, what came through it."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from deployments import edges, hook, jobs
from deployments.admin import told, why
from deployments.admin.due import REPOSITORIES, tell_due
from deployments.admin.who import who
from deployments.models import Delivery
from instances.admin import KnowsOdoo
from instances.models import Instance
from ocore.admin_acts import Act
from ocore.show import exact
from projects.admin.environments import tell_peculiarities
from projects.admin.projects import ProjectAdmin, ProjectForm
from projects.admin.repository import REPOSITORY_ACTS, GetsIntoRepository, access_context
from projects.hosts import HOSTS
from projects.models import Environment, Project, Repository, Server

LAST_DELIVERIES = 5


class WebhookProjectForm(KnowsOdoo, ProjectForm):
    pass


@admin.register(Project)
class WebhookProjectAdmin(GetsIntoRepository, ProjectAdmin):
    form = WebhookProjectForm
    change_form_template = "admin/projects/project/change_form.html"
    acts = [
        Act("webhook-secret", "projects.view_webhook_secret"),
        Act("rotate-webhook-secret", "projects.rotate_webhook_secret"),
        Act("send-test", "deployments.send_test_delivery"),
        Act("why", "", methods=("GET",)),
        *REPOSITORY_ACTS,
    ]

    def webhook_secret(self, request: HttpRequest, project: Project) -> HttpResponse:
        self.log_change(request, project, "Webhook secret shown.")
        context = self.page(
            request,
            project,
            "Webhook secret",
            secret_name="Secret",  # noqa: S106 - a label
            secret=project.webhook_secret,
            explanation="Paste it as the webhook's secret at the git host. Whoever has it can deploy this project.",
        )
        response = TemplateResponse(request, "admin/ocore/secret.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def rotate_webhook_secret(self, request: HttpRequest, project: Project) -> None:
        project.rotate_webhook_secret()
        self.log_change(request, project, "New webhook secret made.")
        until = project.previous_webhook_secret_until
        messages.success(
            request,
            "There is a new webhook secret. Paste it at the git host; the old one is accepted "
            f"until {exact(until) if until else 'then'}.",
        )

    def send_test(self, request: HttpRequest, project: Project) -> HttpResponse | None:
        delivery = hook.send_test(project, who(request).name)
        self.log_change(request, project, "Test delivery sent.")
        messages.info(request, f"{delivery.get_verdict_display()}, with {delivery.status_code}: {delivery.reason}")
        return None

    def why(self, request: HttpRequest, project: Project) -> HttpResponse:
        context = self.page(request, project, "Where would it go?", **why.answered(request, project))
        return TemplateResponse(request, "admin/projects/project/why.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        project: Any = self.get_object(request, object_id)
        context = self._card(request, project) if project else {}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))

    def _card(self, request: HttpRequest, project: Project) -> dict[str, Any]:
        deliveries = Delivery.objects.filter(project=project).select_related("project").defer("body", "headers")
        return {
            "project": project,
            "webhook_url": f"{settings.OCORE_BASE_URL}{project.webhook_path}",
            "status_url": f"{settings.OCORE_BASE_URL}{reverse('status', args=[project.status_token])}",
            "setup": HOSTS[project.host].setup,
            "health": hook.health(project),
            "told": told.card(project),
            "deliveries": list(deliveries[:LAST_DELIVERIES]),
            "grace_hours": settings.OCORE_SECRET_GRACE_SECONDS / 3600,
            "previous_accepted": len(project.webhook_secrets) > 1,
            "allowed": self.allowed(request, project),
            **access_context(project),
        }

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        edges.ask(Server.objects.filter(environments__project=form.instance))
        repositories = any(one.model is Repository and one.has_changed() for one in formsets)
        changed = [*form.changed_data, *([REPOSITORIES] if repositories else [])]
        tell_due(request, changed, form.instance.environments.all())

    def delete_model(self, request: HttpRequest, obj: Project) -> None:
        super().delete_model(request, obj)
        transaction.on_commit(jobs.sweep_all, robust=True)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        super().save_formset(request, form, formset, change)
        if formset.model is Repository and formset.deleted_objects:
            transaction.on_commit(jobs.sweep_portal, robust=True)
        if formset.model is Environment:
            touched = [*formset.new_objects, *(row for row, _ in formset.changed_objects)]
            for environment in touched:
                Instance.ensure_first(environment)
                tell_peculiarities(request, environment)
