"""The ssh keys of git hosts: what was decided, what comes with oCore, and a page to review those of a host."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from ocore.admin_acts import ReadOnly
from ocore.errors import ExpectedError
from ocore.show import ago, link, tag
from projects import known_hosts
from projects.git import host_keys
from projects.known_hosts import KnownHost

MAY = "projects.manage_known_hosts"


def host_url(host: str = "") -> str:
    """The page on which the keys of `host` are reviewed."""
    url = reverse("admin:projects_knownhost_host")
    return f"{url}?{urlencode({'host': host})}" if host else url


@admin.register(KnownHost)
class KnownHostAdmin(ReadOnly):
    list_display = ["at_host", "key_type", "fingerprint", "state_tag", "decided_by", "decided"]
    list_display_links = None
    list_filter = ["state", "key_type"]
    search_fields = ["host", "fingerprint", "decided_by"]

    def get_urls(self) -> list[URLPattern]:
        page = path("host/", self.admin_site.admin_view(self.host_page), name="projects_knownhost_host")
        return [page, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        revoked = set(KnownHost.objects.filter(state=KnownHost.State.REVOKED).values_list("host", "fingerprint"))
        shipped = [
            {"key": key, "url": host_url(key.host), "revoked": (key.host, key.fingerprint) in revoked}
            for key in host_keys.shipped()
        ]
        hosts = dict.fromkeys(key.host for key in host_keys.shipped())
        context = {"shipped": shipped, "shipped_hosts": list(hosts), "host_url": host_url()}
        return super().changelist_view(request, context | (extra_context or {}))

    def host_page(self, request: HttpRequest) -> HttpResponse:
        """GET shows what is known of a host. POST asks the host, accepts or revokes."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        may = request.user.has_perm(MAY)
        if request.method == "POST" and not may:
            raise PermissionDenied
        typed = (request.POST if request.method == "POST" else request.GET).get("host", "")
        parsed = host_keys.parse_place(typed)
        context: dict[str, Any] = {"typed": typed, "wrong": bool(typed) and parsed is None, "may_manage": may}
        if parsed:
            act = request.POST.get("act", "")
            if act in ("accept", "revoke"):
                return self._decide(request, act, *parsed)
            here = host_keys.place(*parsed)
            context |= {"host": here, "known": known_hosts.known(here)}
            if act == "look":
                offered = known_hosts.offered(*parsed)
                states = {one.state for one in offered}
                context |= {"looked": True, "offered": offered, "changed": "changed" in states}
                context["acceptable"] = bool(states - {"known"})
        page = {**self.admin_site.each_context(request), "opts": self.opts, "title": "Keys of a host", **context}
        return TemplateResponse(request, "admin/projects/knownhost/host.html", page)

    def _decide(self, request: HttpRequest, act: str, host: str, port: int) -> HttpResponse:
        by = request.user.get_username()
        chosen = request.POST.getlist("fingerprint")
        try:
            if act == "accept":
                rows = known_hosts.accept(host, port, chosen, by)
            else:
                rows = [known_hosts.revoke(host, port, one, by) for one in chosen]
        except ExpectedError as error:
            messages.error(request, f"{error.message} {error.advice}")
        else:
            done = "Accepted" if act == "accept" else "Revoked"
            for row in rows:
                self.log_change(request, row, f"{done}: {row.fingerprint}")
                messages.success(request, f"{done}: {row.host} {row.fingerprint}")
        return HttpResponseRedirect(host_url(host_keys.place(host, port)))

    @admin.display(description="host", ordering="host")
    def at_host(self, row: KnownHost) -> SafeString:
        return link(host_url(row.host), row.host)

    @admin.display(description="state", ordering="state")
    def state_tag(self, row: KnownHost) -> SafeString:
        return tag("Revoked", "bad", "✕") if row.host_key.revoked else tag("Accepted", "ok", "✓")

    @admin.display(description="decided", ordering="decided_at")
    def decided(self, row: KnownHost) -> SafeString | str:
        return ago(row.decided_at)
