"""Deployments: rows that only the pipeline writes, shown as they happen."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments import reports, retries, services
from deployments.admin import live, told
from deployments.admin.badges import LARGE, cause_words, commit_words, status_tag
from deployments.admin.frozen import frozen_tables
from deployments.admin.who import who
from deployments.models import Deployment
from deployments.states import ACTIVE, Status, Trigger
from ocore.admin_acts import Act, ActsOnObjects, ReadOnly
from ocore.show import ago, duration, link_to, tag
from ocore.viewer import may_see
from projects.admin.projects import kind_tag
from projects.models import Environment

CANCEL = Act("cancel", "deployments.cancel_deployment")
RETRY = Act("retry-rollback", "deployments.roll_back_environment")
REPORT = Act("report", "deployments.report_deployment")
AGAIN = Act("deploy-again", "deployments.deploy_environment", methods=("GET", "POST"))


@admin.register(Deployment)
class DeploymentAdmin(ActsOnObjects, ReadOnly):
    acts = [CANCEL, RETRY, AGAIN, REPORT, Act("live", "", methods=("GET",)), Act("log", "", methods=("GET",))]
    change_list_template = "admin/ocore/live_change_list.html"
    list_display = ["number", "in_environment", "status_now", "what", "why", "when", "took"]
    list_display_links = ["number"]
    list_filter = [
        "status",
        "trigger",
        "live",
        ("environment__project", admin.RelatedOnlyFieldListFilter),
        "environment__kind",
        ("environment__server", admin.RelatedOnlyFieldListFilter),
    ]
    search_fields = [
        "commit",
        "subject",
        "ref",
        "requester",
        "author",
        "environment__name",
        "environment__project__name",
    ]
    date_hierarchy = "created_at"
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        return (
            super()
            .get_queryset(request)
            .select_related("environment__project", "environment__server", "requested_by", "delivery")
            .defer(*LARGE)
        )

    @admin.display(description="#", ordering="pk")
    def number(self, deployment: Deployment) -> str:
        return f"#{deployment.pk}"

    @admin.display(description="environment", ordering="environment__project__name")
    def in_environment(self, deployment: Deployment) -> SafeString:
        environment = deployment.environment
        return format_html("{} {}", link_to(environment), kind_tag(environment))

    @admin.display(description="status", ordering="status")
    def status_now(self, deployment: Deployment) -> SafeString:
        mark = SafeString(' data-active=""') if deployment.status in ACTIVE else ""
        now = tag("Live", "live", "▲") if deployment.live else ""
        return format_html("<div{}>{} {}</div>", mark, status_tag(deployment), now)

    @admin.display(description="commit", ordering="commit")
    def what(self, deployment: Deployment) -> SafeString:
        ref = f"from {deployment.ref}" if deployment.ref and deployment.ref != deployment.commit else ""
        return format_html('{}<div class="oc-quiet">{}</div>', commit_words(deployment), ref)

    @admin.display(description="why", ordering="requester")
    def why(self, deployment: Deployment) -> str:
        return cause_words(deployment)

    @admin.display(description="when", ordering="created_at")
    def when(self, deployment: Deployment) -> str:
        return ago(deployment.created_at)

    @admin.display(description="took")
    def took(self, deployment: Deployment) -> str:
        return duration(deployment.seconds)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        deployment: Any = self.get_object(request, object_id)
        if not self.has_view_permission(request, deployment):
            raise PermissionDenied
        if deployment is None or request.method != "GET":
            return super().change_view(request, object_id, form_url, extra_context)
        context = self._context(request, deployment)
        context |= live.first_look(deployment) | {
            "frozen": frozen_tables(deployment),
            "addons": sorted(deployment.addons.items()),
            "supersedes": deployment.supersedes.filter(pk__lt=deployment.pk).first(),
            "rollbacks": deployment.rollbacks.all(),
            "retried_by": deployment.retried_by.all(),
            "snapshots": deployment.snapshots.all(),
        }
        return TemplateResponse(request, "admin/deployments/deployment/detail.html", context)

    def _context(self, request: HttpRequest, deployment: Deployment) -> dict[str, Any]:
        """Of the page and of its parts that change."""
        environment: Environment = deployment.environment
        can = request.user.has_perm
        sees_environment = may_see(Environment)
        went_live = deployment.status == Status.SUCCEEDED and not deployment.live
        return self.page(
            request,
            deployment,
            f"{environment} #{deployment.pk}",
            deployment=deployment,
            environment=environment,
            stops=live.stops(deployment),
            told=told.told_of(deployment),
            may_report=self.may(request, REPORT, deployment) and told.may_be_told(deployment),
            may_cancel=self.may(request, CANCEL, deployment)
            and deployment.status in (Status.QUEUED, Status.RUNNING)
            and not deployment.switched_at,
            may_retry=self.may(request, RETRY, deployment)
            and deployment.status == Status.ROLLBACK_FAILED
            and services.broken_by(environment) == deployment,
            may_roll_back=went_live and sees_environment and can("deployments.roll_back_environment"),
            may_deploy_again=self.may(request, AGAIN, deployment)
            and deployment.final
            and deployment.status != Status.ROLLBACK_FAILED,
        )

    def cancel(self, request: HttpRequest, deployment: Deployment) -> HttpResponse:
        services.cancel(deployment, who(request))
        self.log_change(request, deployment, "Cancelled.")
        if deployment.status == Status.CANCELLED:
            messages.success(request, f"{deployment} is cancelled.")
        else:
            messages.success(request, f"{deployment} is being cancelled; what it changed is put back first.")
        return HttpResponseRedirect(deployment.get_absolute_url())

    def retry_rollback(self, request: HttpRequest, deployment: Deployment) -> HttpResponse:
        services.retry_rollback(deployment, who(request))
        self.log_change(request, deployment, "The failed rollback is tried again.")
        messages.success(request, f"The rollback of {deployment} is tried again.")
        return HttpResponseRedirect(deployment.get_absolute_url())

    def report(self, request: HttpRequest, deployment: Deployment) -> None:
        """Also where the host knows already: somebody may have removed it there."""
        host = deployment.environment.project.get_host_display()
        if not reports.tell_again(deployment):
            messages.error(request, f"{host} is told nothing of {deployment}: see the project's page.")
            return
        self.log_change(request, deployment, f"{host} is told again.")
        messages.success(request, f"{host} is told of {deployment} again, in a moment.")

    def deploy_again(self, request: HttpRequest, deployment: Deployment) -> HttpResponse:
        """GET says what would be used again and what would be done anew, POST does it."""
        if request.method == "POST":
            again = retries.retry(deployment, who(request), Trigger.MANUAL)
            self.log_change(request, deployment, f"Deployed again as #{again.pk}.")
            messages.success(request, f"{again} deploys #{deployment.pk} again and is queued.")
            return HttpResponseRedirect(again.get_absolute_url())
        offer = retries.retry_offer(deployment)
        live = Deployment.objects.filter(environment=deployment.environment_id, live=True).first()
        context = self.page(
            request, deployment, f"Deploy #{deployment.pk} again", deployment=deployment, offer=offer, live_now=live
        )
        return TemplateResponse(request, "admin/deployments/deployment/deploy_again.html", context)

    def live(self, request: HttpRequest, deployment: Deployment) -> JsonResponse:
        """Polled by the page: `?after=` is the last log chunk that it has."""
        after = request.GET.get("after", "0")
        offset = int(after) if after.isascii() and after.isdigit() and len(after) < 19 else 0
        content = live.news(request, deployment, offset, self._context(request, deployment))
        return JsonResponse(content, headers={"Cache-Control": "no-store"})

    def log(self, request: HttpRequest, deployment: Deployment) -> StreamingHttpResponse:
        response = StreamingHttpResponse(live.whole_text(deployment), content_type="text/plain; charset=utf-8")
        name = f"{deployment.environment.key}-{deployment.pk}.log"
        response.headers["Content-Disposition"] = f'inline; filename="{name}"'
        return response
