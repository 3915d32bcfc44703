"""Received webhook calls, as they were kept: redacted; and replayed."""

import json
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from deployments import intake
from deployments.admin.badges import deployment_link
from deployments.admin.who import who
from deployments.models import Delivery
from ocore.admin_acts import Act, ActsOnObjects, ReadOnly
from ocore.show import NOTHING, ago, at, duration, exact, link_to, tag

TONES: dict[str, tuple[str, str]] = {
    Delivery.Verdict.ACCEPTED: ("ok", "✓"),
    Delivery.Verdict.IGNORED: ("muted", "–"),
    Delivery.Verdict.DUPLICATE: ("muted", "»"),
    Delivery.Verdict.REFUSED: ("bad", "✕"),
    Delivery.Verdict.UNREADABLE: ("bad", "?"),
}
SHOWN_CHARACTERS = 200_000


def verdict_tag(one: Any) -> SafeString:
    """Of a delivery, or of what it came to in one environment."""
    verdict, reason = (one["verdict"], one["reason"]) if isinstance(one, dict) else (one.verdict, one.reason)
    tone, icon = TONES[verdict]
    return tag(Delivery.Verdict(verdict).label, tone, icon, reason)


@admin.register(Delivery)
class DeliveryAdmin(ActsOnObjects, ReadOnly):
    change_form_template = "admin/deployments/delivery/change_form.html"
    acts = [Act("replay", "deployments.replay_delivery")]
    list_display = ["received", "project", "event", "refs", "verdict_now", "why", "answer", "came_from"]
    list_filter = ["verdict", "origin", "event", ("project", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["project"]
    search_fields = ["delivery_id", "event", "refs", "reason", "remote_address", "project__name"]
    date_hierarchy = "received_at"
    fieldsets = [
        (
            None,
            {
                "fields": [
                    "verdict_now",
                    "reason",
                    "project_link",
                    "event",
                    "refs",
                    "delivery_id",
                    "exactly",
                    "came_from",
                    "first",
                    "answer",
                    "caused",
                ]
            },
        ),
        ("What came", {"fields": ["header_lines", "content"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> Any:
        rows = super().get_queryset(request).select_related("project")
        match = request.resolver_match
        return rows.defer("body", "headers") if match and match.url_name.endswith("changelist") else rows  # type: ignore[union-attr]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        delivery: Any = self.get_object(request, object_id)
        context: dict[str, Any] = {}
        if delivery:
            context = {"allowed": self.allowed(request, delivery), "replayable": intake.replayable(delivery)}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))

    def replay(self, request: HttpRequest, delivery: Delivery) -> HttpResponse:
        again = intake.replay(delivery, who(request).name)
        self.log_change(request, delivery, f"Replayed: {again.reason}"[:500])
        messages.info(request, f"Replayed: {again.reason}")
        return self.back_to(again)

    @admin.display(description="from", ordering="remote_address")
    def came_from(self, delivery: Delivery) -> str:
        if delivery.origin == Delivery.Origin.HOST:
            return delivery.remote_address or "–"
        return f"{delivery.get_origin_display()}: {delivery.sent_by}"

    @admin.display(description="replay of")
    def first(self, delivery: Delivery) -> SafeString | str:
        of = delivery.replay_of
        return link_to(of, f"the delivery of {exact(of.received_at)}") if of else NOTHING

    @admin.display(description="received", ordering="received_at")
    def received(self, delivery: Delivery) -> str:
        return ago(delivery.received_at)

    @admin.display(description="received")
    def exactly(self, delivery: Delivery) -> str:
        return at(delivery.received_at)

    @admin.display(description="verdict", ordering="verdict")
    def verdict_now(self, delivery: Delivery) -> SafeString:
        return verdict_tag(delivery)

    @admin.display(description="reason")
    def why(self, delivery: Delivery) -> SafeString:
        return format_html('<span class="oc-subject">{}</span>', delivery.reason)

    @admin.display(description="project")
    def project_link(self, delivery: Delivery) -> SafeString:
        return link_to(delivery.project)

    @admin.display(description="answer", ordering="status_code")
    def answer(self, delivery: Delivery) -> str:
        return f"{delivery.status_code} in {duration(delivery.seconds)}"

    @admin.display(description="caused")
    def caused(self, delivery: Delivery) -> SafeString | str:
        found = {one.pk: one for one in delivery.deployments.select_related("environment__project")}
        lines = [
            (
                one.get("environment", ""),
                one.get("reason", ""),
                deployment_link(found[pk]) if (pk := one.get("deployment")) in found else "",
            )
            for one in delivery.outcome
        ]
        return format_html_join("", "<div>{}: {} {}</div>", lines) or NOTHING

    @admin.display(description="headers")
    def header_lines(self, delivery: Delivery) -> SafeString:
        lines = "\n".join(f"{name}: {value}" for name, value in sorted(delivery.headers.items()))
        return format_html('<pre class="oc-text">{}</pre>', lines)

    @admin.display(description="body")
    def content(self, delivery: Delivery) -> SafeString | str:
        if not delivery.body:
            return "not kept: only verified deliveries are"
        try:
            text = json.dumps(json.loads(delivery.body), indent=2, ensure_ascii=False)
        except ValueError:
            text = delivery.body
        cut = "\n…" if len(text) > SHOWN_CHARACTERS else ""
        return format_html('<pre class="oc-text">{}{}</pre>', text[:SHOWN_CHARACTERS], cut)
