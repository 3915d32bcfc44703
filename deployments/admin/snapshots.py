"""Snapshots, and the download of their dumps."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import FileResponse, HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments.admin.badges import LARGE, deployment_link
from deployments.models import Snapshot
from ocore.admin_acts import Act, ActsOnObjects, ReadOnly
from ocore.errors import ExpectedError
from ocore.show import NOTHING, as_of, link_to, size, tag

TONES: dict[str, tuple[str, str]] = {
    Snapshot.State.TAKING: ("busy", "●"),
    Snapshot.State.READY: ("ok", "✓"),
    Snapshot.State.RESTORED: ("undone", "↩"),
    Snapshot.State.REMOVING: ("muted", "…"),
    Snapshot.State.GONE: ("muted", "✕"),
}
DOWNLOAD = Act("download", "deployments.download_snapshot", methods=("GET", "HEAD"))


class NoDump(ExpectedError):
    default_advice = "It is made a while after the deployment; if it is gone, deploy once more to get a new one."


@admin.register(Snapshot)
class SnapshotAdmin(ActsOnObjects, ReadOnly):
    change_form_template = "admin/deployments/snapshot/change_form.html"
    acts = [DOWNLOAD]
    list_display = ["moment", "in_environment", "state_now", "how_big", "dump", "before"]
    list_filter = [
        "state",
        ("environment__project", admin.RelatedOnlyFieldListFilter),
        "environment__kind",
    ]
    list_select_related = ["environment__project", "deployment__environment__project", "of__environment__project"]
    search_fields = ["environment__name", "environment__project__name", "database", "label", "dump_sha256"]
    date_hierarchy = "taken_at"
    fieldsets = [
        (None, {"fields": ["in_environment", "exactly", "state_now", "before", "left_behind_by", "how_big"]}),
        ("Dump", {"fields": ["dump", "dump_sha256", "dump_problem"]}),
        ("On the server", {"fields": ["database", "label", "checksum_lines"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> Any:
        heavy = [f"{of}__{name}" for of in ("deployment", "of") for name in LARGE]
        return super().get_queryset(request).select_related(*self.list_select_related).defer(*heavy)

    @admin.display(description="data as of", ordering="taken_at")
    def moment(self, snapshot: Snapshot) -> str:
        return as_of(snapshot.taken_at)

    @admin.display(description="data as of")
    def exactly(self, snapshot: Snapshot) -> str:
        return as_of(snapshot.taken_at)

    @admin.display(description="environment", ordering="environment__project__name")
    def in_environment(self, snapshot: Snapshot) -> SafeString:
        return link_to(snapshot.environment)

    @admin.display(description="state", ordering="state")
    def state_now(self, snapshot: Snapshot) -> SafeString:
        tone, icon = TONES[snapshot.state]
        return tag(snapshot.get_state_display(), tone, icon)

    @admin.display(description="size", ordering="size_bytes")
    def how_big(self, snapshot: Snapshot) -> str:
        return size(snapshot.size_bytes) if snapshot.size_bytes else NOTHING

    @admin.display(description="dump", ordering="dump_bytes")
    def dump(self, snapshot: Snapshot) -> SafeString | str:
        if snapshot.dump_problem:
            return tag("Problem", "bad", "✕", snapshot.dump_problem)
        if snapshot.dump_removed_at:
            return format_html("removed {}", as_of(snapshot.dump_removed_at))
        return size(snapshot.dump_bytes) if snapshot.dump_path else "not made yet"

    @admin.display(description="taken before")
    def before(self, snapshot: Snapshot) -> SafeString | str:
        return deployment_link(snapshot.deployment)

    @admin.display(description="what ran then")
    def left_behind_by(self, snapshot: Snapshot) -> SafeString | str:
        return deployment_link(snapshot.of)

    @admin.display(description="checksums")
    def checksum_lines(self, snapshot: Snapshot) -> SafeString:
        flat = {
            f"{name} {part}".strip(): value
            for name, found in snapshot.checksums.items()
            for part, value in (found if isinstance(found, dict) else {"": found}).items()
        }
        lines = "\n".join(f"{name}: {value}" for name, value in sorted(flat.items()))
        return format_html('<pre class="oc-text">{}</pre>', lines or NOTHING)

    def download(self, request: HttpRequest, snapshot: Snapshot) -> FileResponse:
        """Streamed; who took it stands in its history."""
        folder = (Path(settings.STATE_DIR) / "dumps").resolve()
        file = (Path(settings.STATE_DIR) / snapshot.dump_path).resolve()
        if not snapshot.dump_path or folder not in file.parents or not file.is_file():
            raise NoDump(f"There is no dump of the {str(snapshot)[0].lower()}{str(snapshot)[1:]}.")
        if request.method == "GET":
            self.log_change(request, snapshot, "Dump downloaded.")
        response = FileResponse(file.open("rb"), as_attachment=True, filename=file.name)
        response.headers["Cache-Control"] = "no-store"
        return response

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        snapshot: Any = self.get_object(request, object_id)
        context = {"may_download": self.may(request, DOWNLOAD, snapshot), "snapshot": snapshot} if snapshot else {}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))
