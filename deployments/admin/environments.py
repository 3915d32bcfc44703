"""Environments: what runs where, since when, in what state."""

from typing import Any

from django.contrib import admin
from django.db.models import Max, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from deployments import edges, locks, scaling, services
from deployments.admin import versions
from deployments.admin.badges import LARGE, cause_words, commit_words, deployment_link, status_tag
from deployments.admin.due import tell_due
from deployments.admin.environment_acts import EnvironmentActs
from deployments.drift import drift
from deployments.models import Deployment
from deployments.states import ACTIVE, FAILURES, Status
from instances import incidents, maintenance
from instances.admin import InstanceInline, KnowsOdoo, state_tag
from instances.models import Certificate, HealthCheck, Incident, Instance
from ocore.show import NOTHING, ago, link, tag
from ocore.viewer import may_see
from projects.admin.domains import DomainInline
from projects.admin.environments import EnvironmentAdmin, EnvironmentForm
from projects.admin.projects import kind_tag
from projects.domains import of_environments
from projects.inheritance import resolve
from projects.models import Environment

RECENT = 8
RECENT_INCIDENTS = 5


class LastStatusFilter(admin.SimpleListFilter):
    title = "last deployment"
    parameter_name = "last"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "under way"), ("failed", "failed or rolled back"), ("never", "never live")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Environment]) -> QuerySet[Environment]:
        last = Deployment.objects.filter(pk__in=_last_pks())
        match self.value():
            case "active":
                return queryset.filter(deployments__in=Deployment.objects.filter(status__in=ACTIVE)).distinct()
            case "failed":
                return queryset.filter(deployments__in=last.filter(status__in=FAILURES))
            case "never":
                return queryset.exclude(deployments__in=Deployment.objects.filter(live=True))
        return queryset


def _last_pks() -> QuerySet[Any, Any]:
    """Of the newest deployment of each environment."""
    newest = Environment.objects.annotate(last=Max("deployments__pk")).exclude(last=None)
    return newest.order_by().values("last")


class LiveEnvironmentForm(KnowsOdoo, EnvironmentForm):
    pass


@admin.register(Environment)
class LiveEnvironmentAdmin(EnvironmentActs, EnvironmentAdmin):
    form = LiveEnvironmentForm
    change_form_template = "admin/projects/environment/change_form.html"
    change_list_template = "admin/ocore/live_change_list.html"
    inlines = [DomainInline, InstanceInline]
    list_display = ["path_and_kind", "on_server", "state", "running", "version", "waiting", "open_odoo"]
    list_filter = [
        LastStatusFilter,
        "kind",
        ("project", admin.RelatedOnlyFieldListFilter),
        ("server", admin.RelatedOnlyFieldListFilter),
    ]
    list_select_related = ["project", "server"]
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        light = Deployment.objects.defer(*LARGE)
        return (
            super()
            .get_queryset(request)
            .select_related("project", "server")
            .prefetch_related(
                Prefetch("second_of", Environment.objects.select_related("project")),
                Prefetch("deployments", light.filter(live=True), to_attr="live_rows"),
                Prefetch("deployments", light.filter(pk__in=_last_pks()), to_attr="last_rows"),
                "instances",
                of_environments(),
            )
        )

    @admin.display(description="environment", ordering="project__name")
    def path_and_kind(self, environment: Environment) -> SafeString:
        gone = tag("Being removed", "busy-bad", "✕", environment.removal_problem) if environment.removing_since else ""
        beside = tag("Second version", "muted", "⑂", f"of {environment.second_of}") if environment.second_of_id else ""
        return format_html("{} {} {} {}", environment, kind_tag(environment), beside, gone)

    @admin.display(description="server", ordering="server__name")
    def on_server(self, environment: Environment) -> str:
        return str(environment.server)

    @admin.display(description="state")
    def state(self, environment: Any) -> SafeString:
        """Its instances, and the last deployment where that isn't what is live."""
        found: list[Instance] = list(environment.instances.all())
        named = len(found) > 1
        lines = [(format_html("{} {}", state_tag(one), one.name) if named else state_tag(one),) for one in found]
        last: Deployment | None = next(iter(environment.last_rows), None)
        if last is not None and not last.live:
            words = (deployment_link(last), status_tag(last), ago(last.finished_at or last.created_at))
            lines.append((format_html("{} {} {}", *words),))
        mark = ' data-active=""' if last is not None and last.status in ACTIVE else ""
        body = format_html_join("", "<div>{}</div>", lines) or NOTHING
        return format_html("<div{}>{}</div>", SafeString(mark), body)

    @admin.display(description="live")
    def running(self, environment: Any) -> SafeString | str:
        live: Deployment | None = next(iter(environment.live_rows), None)
        branch = environment.branch or "no branch: by hand"
        if live is None:
            return format_html('nothing yet<div class="oc-quiet">{}</div>', branch)
        return format_html(
            '{} {}<div class="oc-quiet">{} · {} {}</div>',
            deployment_link(live),
            commit_words(live),
            branch,
            ago(live.live_at),
            cause_words(live),
        )

    @admin.display(description="Odoo")
    def version(self, environment: Environment) -> SafeString:
        one = resolve(environment, "odoo_version")
        return format_html('{}<div class="oc-quiet">from {}</div>', one.value, one.origin)

    @admin.display(description="pending")
    def waiting(self, environment: Environment) -> SafeString | str:
        commits = environment.pending.get("commits", [])
        if not commits:
            return NOTHING
        words = f"{len(commits)} commit{'s' if len(commits) > 1 else ''}"
        return tag(words, "wait", "○", "\n".join(one["subject"] for one in commits[:10]))

    @admin.display(description="open")
    def open_odoo(self, environment: Any) -> SafeString | str:
        return link(environment.url, "Odoo ↗", new_tab=True) if environment.live_rows else NOTHING

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        Instance.ensure_first(form.instance)
        edges.ask([form.instance.server])
        of_instances = (name for formset in formsets for one in formset.forms for name in one.changed_data)
        tell_due(request, [*form.changed_data, *of_instances], [form.instance])

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        environment = self.get_object(request, object_id)
        context = self.panel(request, environment) if environment is not None else {}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))

    def panel(self, request: HttpRequest, environment: Any) -> dict[str, Any]:
        """What the page shows above the form: what runs, what is being done, and what can be."""
        recent = list(environment.deployments.defer(*LARGE)[:RECENT])
        live = environment.deployments.filter(live=True).first()
        return {
            "environment": environment,
            "live": live,
            "recent": recent,
            "active": next((one for one in reversed(recent) if one.status in ACTIVE), None),
            "troubled": recent[0] if recent and recent[0].status in FAILURES else None,
            "drift": drift(environment, live),
            "pending": environment.pending.get("commits", []),
            "pending_problem": environment.pending.get("problem", ""),
            "health": HealthCheck.objects.filter(environment=environment).first(),
            "instances": environment.instances.all(),
            "wanted_instances": environment.scale_to or len(environment.instances.all()),
            "most_instances": scaling.MOST,
            **versions.known(environment),
            "certificates": environment.certificates.all() if may_see(Certificate) else [],
            "maintenance": maintenance.current(environment),
            "lock": locks.current(environment),
            "incidents": incidents.about(environment)[:RECENT_INCIDENTS] if may_see(Incident) else [],
            "can_go_back": services.rollback_targets(environment)[:1],
            "allowed": self.allowed(request, environment),
            "may_delete": self.has_delete_permission(request, environment),
            "failed_loud": recent and recent[0].status == Status.ROLLBACK_FAILED,
        }
