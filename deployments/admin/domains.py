"""Host names and the certificates that the edges show for them. What is changed here the edge learns at once."""

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments import edges
from instances.models import Certificate
from ocore.admin_acts import ReadOnly
from ocore.show import NOTHING, ago, at, link_to, tag
from ocore.viewer import may_see
from projects.admin.domains import DomainAdmin
from projects.domains import Domain


def certificate_tag(certificate: Certificate) -> SafeString:
    """Its state in a word; what is wrong when pointed at."""
    if certificate.problem:
        return tag("Problem", "bad", "✕", certificate.problem)
    if certificate.ends_at and certificate.ends_soon:
        return tag("Ends soon", "wait", "⚠", f"It ends at {certificate.ends_at:%Y-%m-%d %H:%M} UTC.")
    return tag("Valid", "ok", "✓", f"Issued by {certificate.issuer}")


@admin.register(Domain)
class LiveDomainAdmin(DomainAdmin):
    list_display = ["name", "of_environment", "is_primary", "source_now", "certificate", "ends"]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What is shown now stands before what it is to be."""
        fieldsets = list(super().get_fieldsets(request, obj))
        if obj is None or not may_see(Certificate):
            return fieldsets
        title, options = fieldsets[1]
        return [fieldsets[0], (title, {**options, "fields": ["shown_now", *options["fields"]]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*super().get_readonly_fields(request, obj), "shown_now"]

    @admin.display(description="shown now")
    def shown_now(self, domain: Domain) -> SafeString | str:
        found = Certificate.objects.filter(environment=domain.environment_id, host=domain.name).first()
        if found is None:
            return NOTHING
        ends = format_html(" by {}, ends {}", found.issuer, ago(found.ends_at)) if found.ends_at else ""
        return format_html("{} {}{}", certificate_tag(found), link_to(found, "seen"), ends)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Domain]:
        seen = Certificate.objects.filter(environment=OuterRef("environment"), host=OuterRef("name"))
        rows: QuerySet[Domain] = super().get_queryset(request)
        return rows.select_related("environment__project", "environment__server").annotate(
            certificate_pk=Subquery(seen.values("pk")[:1])
        )

    @admin.display(description="environment", ordering="environment__project__name")
    def of_environment(self, domain: Domain) -> SafeString | str:
        return link_to(domain.environment)

    @admin.display(description="primary", ordering="primary")
    def is_primary(self, domain: Domain) -> SafeString | str:
        return tag("Primary", "live", "▲") if domain.primary else NOTHING

    @admin.display(description="from", ordering="source")
    def source_now(self, domain: Domain) -> str:
        return str(domain.get_source_display()).partition(":")[0]

    @admin.display(description="certificate")
    def certificate(self, domain: Any) -> SafeString | str:
        found = self._seen(domain)
        return certificate_tag(found) if found else NOTHING

    @admin.display(description="ends")
    def ends(self, domain: Any) -> SafeString | str:
        found = self._seen(domain)
        return at(found.ends_at) if found else NOTHING

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """All certificates of the page in one query."""
        found = super().get_changelist_instance(request)
        keys = [domain.certificate_pk for domain in found.result_list]
        rows = Certificate.objects.in_bulk([pk for pk in keys if pk])
        for domain in found.result_list:
            domain.seen_certificate = rows.get(domain.certificate_pk)
        return found

    @staticmethod
    def _seen(domain: Any) -> Certificate | None:
        return getattr(domain, "seen_certificate", None)

    def save_model(self, request: HttpRequest, obj: Domain, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        edges.ask([obj.environment.server])

    def delete_model(self, request: HttpRequest, obj: Domain) -> None:
        server = obj.environment.server
        super().delete_model(request, obj)
        edges.ask([server])


@admin.register(Certificate)
class CertificateAdmin(ReadOnly):
    list_display = ["host", "of_environment", "state", "issuer", "ends", "looked"]
    list_filter = [("environment__project", admin.RelatedOnlyFieldListFilter), "issuer"]
    list_select_related = ["environment__project", "environment__server"]
    search_fields = ["host", "issuer", "environment__name", "environment__project__name"]
    fieldsets = [
        (None, {"fields": ["host", "of_environment", "state", "problem", "lasts"]}),
        ("As it was seen", {"fields": ["issuer", "begins", "ends", "fingerprint", "looked"]}),
    ]

    @admin.display(description="environment", ordering="environment__project__name")
    def of_environment(self, certificate: Certificate) -> SafeString | str:
        return link_to(certificate.environment)

    @admin.display(description="state")
    def state(self, certificate: Certificate) -> SafeString:
        return certificate_tag(certificate)

    @admin.display(description="since")
    def lasts(self, certificate: Certificate) -> SafeString | str:
        return ago(certificate.problem_since)

    @admin.display(description="begins", ordering="begins_at")
    def begins(self, certificate: Certificate) -> SafeString | str:
        return at(certificate.begins_at)

    @admin.display(description="ends", ordering="ends_at")
    def ends(self, certificate: Certificate) -> SafeString | str:
        left = certificate.ends_at
        return at(left) if left is None or left < timezone.now() else ago(left)

    @admin.display(description="looked at", ordering="checked_at")
    def looked(self, certificate: Certificate) -> SafeString | str:
        return ago(certificate.checked_at)
