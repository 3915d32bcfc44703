"""Servers: where environments live."""

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString

from ocore.admin_acts import NoBulkDelete
from ocore.forms import KeepsSecrets
from ocore.show import ago, link, size, tag
from ocore.viewer import may_see
from projects.admin.overrides import readable_fieldsets
from projects.models import Environment, Server


class ServerForm(KeepsSecrets):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for form_field in self.fields.values():
            form_field.help_text = escape(form_field.help_text)


class ServerAdmin(NoBulkDelete):
    form = ServerForm
    list_display = ["name", "kind_tag", "where", "environments_there", "resources", "seen"]
    list_filter = ["kind"]
    search_fields = ["name", "slug", "endpoint", "base_domain"]
    fieldsets = [
        (None, {"fields": ["name", "slug", "kind", "endpoint", "postgres_dsn"]}),
        ("How much at once", {"fields": ["concurrent_deployments", "concurrent_builds"]}),
        ("How clients reach it", {"fields": ["base_domain", "edge_host", "edge_port", "https_port"]}),
        ("Certificates", {"fields": ["acme_directory", "acme_email"]}),
        ("A proxy in front of its edge", {"fields": ["trusted_proxies", "behind_tls_proxy"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Server]:
        rows: QuerySet[Server] = super().get_queryset(request)
        return rows.annotate(environment_count=Count("environments"))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        may_edit = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        return self.fieldsets if may_edit else readable_fieldsets(Server, self.fieldsets or [])

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["slug", "kind"] if obj else []

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        return {} if obj else {"slug": ["name"]}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        may = Server.objects.aggregate(sum=Sum("concurrent_deployments"))["sum"]
        if "concurrent_deployments" in form.changed_data and may > settings.OCORE_WORKERS:
            messages.warning(
                request,
                f"All servers together may run {may} deployments at once, but {settings.OCORE_WORKERS} workers run. "
                f"To use that, set OCORE_WORKERS={may} and start oCore again.",
            )

    @admin.display(description="kind", ordering="kind")
    def kind_tag(self, server: Server) -> str:
        return tag("Simulated", "loud", "⚠") if server.simulated else str(server.get_kind_display())

    @admin.display(description="engine")
    def where(self, server: Server) -> str:
        return server.endpoint or "this machine"

    @admin.display(description="environments", ordering="environment_count")
    def environments_there(self, server: Any) -> SafeString:
        if not may_see(Environment):
            return format_html("{}", server.environment_count)
        url = reverse("admin:projects_environment_changelist")
        return link(f"{url}?server__id__exact={server.pk}", server.environment_count)

    @admin.display(description="resources")
    def resources(self, server: Server) -> str:
        facts = server.facts
        if not facts:
            return "–"
        memory, disk = size(facts["memory_bytes"]), size(facts["disk_free_bytes"])
        return f"{facts['engine']}, {facts['cpus']} CPUs, {memory}, {disk} of disk free"

    @admin.display(description="last answer", ordering="seen_at")
    def seen(self, server: Server) -> str:
        return tag("Problem", "bad", "✕", server.problem) if server.problem else ago(server.seen_at)
