"""The buttons of an environment: deploy, roll back, lock, show Odoo's password, remove."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from deployments import at_work, queues, removal, scaling, services
from deployments.admin.keep_out import KeepOutActs
from deployments.admin.lock import LockActs
from deployments.admin.versions import VersionsActs
from deployments.admin.who import who
from deployments.models import Deployment
from deployments.services import NotPossible
from deployments.states import Trigger
from ocore.admin_acts import Act
from ocore.viewer import may_see
from projects.models import Environment


def _queued(deployment: Deployment, told: str) -> str:
    locked = at_work.why_locked(deployment.environment)
    waits = f"It waits: {locked}" if locked else ""
    return " ".join(filter(None, (f"{deployment} {told}", services.superseded_words(deployment), waits)))


ROLL_BACK = Act("roll-back", "deployments.roll_back_environment", methods=("GET",))


def _to(deployment: Deployment) -> HttpResponse | None:
    """Its page, for those who may see it."""
    return HttpResponseRedirect(deployment.get_absolute_url()) if may_see(Deployment) else None


class EnvironmentActs(KeepOutActs, VersionsActs, LockActs):
    acts = [
        *KeepOutActs.acts,
        *VersionsActs.acts,
        *LockActs.acts,
        Act("deploy", "deployments.deploy_environment"),
        ROLL_BACK,
        Act("scale", "instances.scale_environment"),
        Act("odoo-password", "projects.view_odoo_password"),
        Act("refresh-pending", "deployments.deploy_environment"),
    ]

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "<int:pk>/roll-back/<int:target>/",
                self.admin_site.admin_view(self.roll_back_to),
                name="projects_environment_roll_back_to",
            ),
            *super().get_urls(),
        ]

    def deploy(self, request: HttpRequest, environment: Environment) -> HttpResponse | None:
        """The branch's tip, or the tag or commit that was typed."""
        try:
            deployment = services.request_deployment(
                environment,
                Trigger.MANUAL,
                who(request),
                ref=request.POST.get("ref", "").strip(),
                forced=bool(request.POST.get("forced")),
            )
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return None
        self.log_change(request, environment, f"Deployed as #{deployment.pk}.")
        messages.success(request, _queued(deployment, "is queued."))
        return _to(deployment)

    def scale(self, request: HttpRequest, environment: Environment) -> None:
        typed = request.POST.get("instances", "").strip()
        if not typed.isdecimal() or len(typed) > 4:
            raise NotPossible("Say how many instances, as a number.")
        scaling.request(environment, int(typed), who(request))
        self.log_change(request, environment, f"Scaling to {int(typed)} instances asked for.")
        messages.success(request, f"{environment} is being scaled to {int(typed)}.")

    def refresh_pending(self, request: HttpRequest, environment: Environment) -> None:
        queues.enqueue_pending(environment.pk)
        messages.info(request, "The repository is being asked. Load the page again in a moment.")

    def odoo_password(self, request: HttpRequest, environment: Environment) -> HttpResponse:
        self.log_change(request, environment, "Password of Odoo's administrator shown.")
        context = self.page(
            request,
            environment,
            "Odoo's administrator",
            secret_name="Password",  # noqa: S106 - a label
            secret=environment.odoo_admin_password,
            explanation="The user is “admin”. The password was set when the database was made; "
            "if somebody has changed it in Odoo since, that one is valid.",
        )
        response = TemplateResponse(request, "admin/ocore/secret.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def roll_back(self, request: HttpRequest, environment: Environment) -> HttpResponse:
        """What can be gone back to. Changes nothing."""
        offers = []
        for target in services.rollback_targets(environment)[:50]:
            offers.append(services.rollback_offer(environment, target))
        context = self.page(request, environment, "Roll back", environment=environment, offers=offers)
        return TemplateResponse(request, "admin/projects/environment/roll_back.html", context)

    def roll_back_to(self, request: HttpRequest, pk: int, target: int) -> HttpResponse:
        """GET says what would happen, POST does it."""
        environment: Any = self.get_object(request, str(pk))
        if not self.may(request, ROLL_BACK, environment):
            raise PermissionDenied
        if environment is None:
            raise Http404
        earlier = get_object_or_404(Deployment, pk=target, environment=environment)
        try:
            if request.method == "POST":
                return self._do_roll_back(request, environment, earlier)
            offer = services.rollback_offer(environment, earlier)
        except NotPossible as error:
            messages.error(request, " ".join(filter(None, (error.message, error.advice))))
            return self.back_to(environment)
        live = environment.deployments.filter(live=True).first()
        context = self.page(
            request, environment, f"Roll back to #{earlier.pk}", environment=environment, offer=offer, live=live
        )
        return TemplateResponse(request, "admin/projects/environment/roll_back_to.html", context)

    def _do_roll_back(self, request: HttpRequest, environment: Environment, earlier: Deployment) -> HttpResponse:
        with_data = request.POST.get("data") == "with"
        deployment = services.roll_back(environment, who(request), target=earlier, with_data=with_data)
        self.log_change(request, environment, f"Rolled back to #{earlier.pk} as #{deployment.pk}.")
        messages.success(request, _queued(deployment, f"goes back to #{earlier.pk} and is queued."))
        return _to(deployment) or self.back_to(environment)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Two steps: what goes with it, and its path typed by whoever means it."""
        environment: Any = self.get_object(request, object_id)
        if not self.has_delete_permission(request, environment):
            raise PermissionDenied
        if environment is None:
            raise Http404
        wrong = ""
        refusal = removal.refusal(environment)
        if request.method == "POST" and not refusal:
            if request.POST.get("path", "").strip() == environment.path:
                return self._remove(request, environment)
            wrong = f"That is not its name. Type {environment.path} to remove it."
        context = self.page(
            request,
            environment,
            f"Remove {environment}",
            environment=environment,
            inventory=removal.inventory(environment),
            refusal=refusal,
            wrong=wrong,
        )
        status = 400 if wrong else 200
        return TemplateResponse(request, "admin/projects/environment/remove.html", context, status=status)

    def _remove(self, request: HttpRequest, environment: Environment) -> HttpResponse:
        try:
            removal.request(environment, who(request))
        except NotPossible as error:
            messages.error(request, error.message)
            return self.back_to(environment)
        self.log_change(request, environment, "Removal asked for.")
        messages.success(request, f"{environment} is being removed.")
        return self.back_to(environment)
