"""Servers with their engine's answer; instances as far as this app knows them (they are registered in
`deployments.admin`, which can also start and stop them)."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import asdict
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from instances import incidents
from instances.models import Incident, Instance
from instances.odoo.config import InvalidOption, check_environment, check_extra_options
from instances.runtimes import runtime_for
from instances.runtimes.base import ServerFacts, ServerUnreachable
from ocore.admin_acts import Act, ActsOnObjects, NoBulkDelete, ReadOnly
from ocore.errors import ExpectedError
from ocore.show import NOTHING, ago, at, duration, link_to, tag
from projects.admin.overrides import OverridesForm, ShowsOverrides
from projects.admin.servers import ServerAdmin
from projects.models import Environment, Server

RECENT = 8
CHECK_SECONDS = 15.0
"""A person waits for the page meanwhile."""

CHECKS: dict[str, Callable[[Mapping[str, str]], None]] = {
    "odoo_conf": check_extra_options,
    "environment_variables": check_environment,
    "secret_variables": check_environment,
}
STATES: dict[str, tuple[str, str]] = {
    Instance.State.NEW: ("muted", "○"),
    Instance.State.CREATING: ("busy", "●"),
    Instance.State.RUNNING: ("ok", "✓"),
    Instance.State.STOPPED: ("muted", "■"),
    Instance.State.RESTARTING: ("busy", "●"),
    Instance.State.FAILED: ("bad", "✕"),
}


DOING = {"start": "Being started", "stop": "Being stopped", "remove": "Being removed"}


def state_tag(instance: Instance) -> SafeString:
    tone, icon = STATES[instance.state]
    return tag(_words(instance), tone, icon, instance.problem)


def _words(instance: Instance) -> str:
    """While somebody is at work on it, what is being done: the row is *Restarting* with each of these."""
    usual = str(instance.get_state_display())
    if instance.state != Instance.State.RESTARTING:
        return usual
    verb, _, what = instance.environment.busy_with.partition(" of ")
    return DOING.get(verb, usual) if what == str(instance) else usual


def ask(server: Server) -> ServerFacts:
    """What the engine says of itself, within a bound. Raises `ServerUnreachable` and what the driver raises."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-check")
    try:
        return pool.submit(lambda: runtime_for(server).facts()).result(timeout=CHECK_SECONDS)
    except TookTooLong as error:
        raise ServerUnreachable(f"{server} did not answer within {CHECK_SECONDS:.0f} s.") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class TakesIncidentsAlong(admin.ModelAdmin):  # type: ignore[type-arg]
    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, set[Any], list[Any]]:
        """What was recorded of it goes with it, though nobody may delete that by itself."""
        found, counts, missing, protected = super().get_deleted_objects(objs, request)
        return found, counts, missing - {str(Incident._meta.verbose_name)}, protected


class CheckedServerAdmin(TakesIncidentsAlong, ActsOnObjects, ServerAdmin):
    change_form_template = "admin/projects/server/change_form.html"
    acts = [Act("check-now", "projects.change_server")]

    def check_now(self, request: HttpRequest, server: Server) -> HttpResponse | None:
        try:
            facts = ask(server)
        except ExpectedError as error:
            Server.objects.filter(pk=server.pk).update(problem=error.message)
            raise
        Server.objects.filter(pk=server.pk).update(problem="", facts=asdict(facts), seen_at=timezone.now())
        messages.success(request, f"{server} answers.")
        return None

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        server = self.get_object(request, object_id)
        context: dict[str, Any] = {}
        if server:
            seen = incidents.of_parts(server)[:RECENT] if may_see_incidents(request) else []
            context = {"allowed": self.allowed(request, server), "incidents": seen}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))


class KnowsOdoo(OverridesForm):
    """Refuses at its field what a deployment would refuse: options and variables that would overrule oCore's own."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        for name, check in CHECKS.items():
            try:
                check({key: text for key, text in (self.cleaned_data.get(name) or {}).items() if text is not None})
            except InvalidOption as error:
                self.add_error(name, error.message)
        return cleaned


class InstanceForm(KnowsOdoo):
    parent_field = "environment"


class InstanceInlineForm(OverridesForm):
    parent_field = "environment"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.fields["slug"].disabled = True


class InstanceInline(admin.TabularInline):  # type: ignore[type-arg]
    """The Odoos of an environment; one unless more are wanted."""

    model = Instance
    form = InstanceInlineForm
    fields = ["name", "slug", "workers", "state_now"]
    readonly_fields = ["state_now"]
    show_change_link = True
    can_delete = False

    def get_extra(self, request: HttpRequest, obj: Environment | None = None, **kwargs: Any) -> int:
        return 0 if obj else 1

    def get_queryset(self, request: HttpRequest) -> QuerySet[Instance]:
        return super().get_queryset(request).select_related("environment__project", "environment__server")

    @admin.display(description="state")
    def state_now(self, instance: Instance) -> str:
        return state_tag(instance) if instance.pk else "–"


class InstanceAdmin(TakesIncidentsAlong, ShowsOverrides, NoBulkDelete):
    form = InstanceForm
    autocomplete_fields = ["environment"]
    list_display = ["name", "in_environment", "state_now", "since", "container", "server"]
    list_filter = ["state", ("environment__project", admin.RelatedOnlyFieldListFilter), "environment__kind"]
    list_select_related = ["environment__project", "environment__server"]
    search_fields = ["name", "environment__name", "environment__project__name", "container"]
    head = [(None, {"fields": ["environment", "name", "slug"]})]
    fixed = ("environment", "slug")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Instance]:
        return super().get_queryset(request).select_related("environment__project", "environment__server")

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        return {} if obj else {"slug": ["name"]}

    @admin.display(description="environment", ordering="environment__project__name")
    def in_environment(self, instance: Instance) -> SafeString:
        return link_to(instance.environment)

    @admin.display(description="state", ordering="state")
    def state_now(self, instance: Instance) -> SafeString:
        return state_tag(instance)

    @admin.display(description="since", ordering="state_since")
    def since(self, instance: Instance) -> str:
        return ago(instance.state_since)

    @admin.display(description="server", ordering="environment__server__name")
    def server(self, instance: Instance) -> str:
        return str(instance.environment.server)


OUTCOMES: dict[str, tuple[str, str]] = {
    Incident.Outcome.OPEN: ("busy-bad", "●"),
    Incident.Outcome.BROUGHT_BACK: ("ok", "✓"),
    Incident.Outcome.OVER: ("muted", "✓"),
    Incident.Outcome.GIVEN_UP: ("loud", "⚠"),
}


def outcome_tag(incident: Incident) -> SafeString:
    tone, icon = OUTCOMES[incident.outcome]
    if incident.outcome == Incident.Outcome.GIVEN_UP and incident.ended_at:
        return tag("Given up, over since", "bad", icon, incident.problem)
    return tag(incident.get_outcome_display(), tone, icon, incident.problem)


def may_see_incidents(request: HttpRequest) -> bool:
    return bool(admin.site.get_model_admin(Incident).has_view_permission(request))


@admin.register(Incident)
class IncidentAdmin(ReadOnly):
    list_display = ["noticed", "what", "seen", "outcome_now", "attempts", "over", "lasted"]
    list_filter = [
        "outcome",
        "part",
        ("server", admin.RelatedOnlyFieldListFilter),
        ("environment__project", admin.RelatedOnlyFieldListFilter),
        "environment__kind",
    ]
    list_select_related = ["server", "environment__project", "instance__environment__project"]
    search_fields = ["seen", "problem", "environment__name", "environment__project__name", "server__name"]
    date_hierarchy = "noticed_at"
    fieldsets = [
        (None, {"fields": ["what", "seen", "outcome_now", "problem", "advice"]}),
        ("When", {"fields": ["exactly", "attempts", "attempted", "over", "lasted"]}),
        ("The last lines of its log", {"fields": ["log"]}),
    ]

    @admin.display(description="noticed", ordering="noticed_at")
    def noticed(self, incident: Incident) -> str:
        return ago(incident.noticed_at)

    @admin.display(description="noticed")
    def exactly(self, incident: Incident) -> str:
        return at(incident.noticed_at)

    @admin.display(description="what", ordering="part")
    def what(self, incident: Incident) -> SafeString | str:
        return link_to(incident.environment or incident.server, incident.subject)

    @admin.display(description="outcome", ordering="outcome")
    def outcome_now(self, incident: Incident) -> SafeString:
        return outcome_tag(incident)

    @admin.display(description="last attempt")
    def attempted(self, incident: Incident) -> str:
        return at(incident.attempted_at)

    @admin.display(description="over", ordering="ended_at")
    def over(self, incident: Incident) -> str:
        return at(incident.ended_at)

    @admin.display(description="lasted")
    def lasted(self, incident: Incident) -> str:
        if incident.ended_at is None:
            return NOTHING
        return duration((incident.ended_at - incident.noticed_at).total_seconds())

    @admin.display(description="log")
    def log(self, incident: Incident) -> SafeString:
        return format_html('<pre class="oc-text">{}</pre>', incident.detail or NOTHING)
