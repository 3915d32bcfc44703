"""Servers, with what their disks hold and why it is kept. Changes nothing."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from deployments import edges
from deployments.retention.sweep import Survey, survey
from deployments.retention.verdicts import ROWS, Verdict
from instances.admin import CheckedServerAdmin
from ocore.admin_acts import Act
from projects.models import Server

DISK = Act("disk", "deployments.view_snapshot", methods=("GET",))


@admin.register(Server)
class DiskServerAdmin(CheckedServerAdmin):
    acts = [*CheckedServerAdmin.acts, DISK]

    def save_model(self, request: HttpRequest, obj: Server, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        edges.ask([obj])

    def disk(self, request: HttpRequest, server: Server) -> HttpResponse:
        """A dry run for this server and for the portal's own machine."""
        surveys = [survey(server), survey(None)]
        context = self.page(
            request,
            server,
            "Disk",
            server=server,
            surveys=[
                {"of": one, "lists": [(_listed(one, keep=False), "Goes"), (_listed(one, keep=True), "Kept")]}
                for one in surveys
            ],
        )
        return TemplateResponse(request, "admin/projects/server/disk.html", context)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, set[Any], list[Any]]:
        """In few words; its environments must be gone before, and have taken what was theirs along."""
        _, _, _, protected = super().get_deleted_objects(objs, request)
        goes = [
            [
                f"Server {server}: oCore forgets it",
                "its environments are gone already, with their containers, databases, volumes, images and dumps",
                "on the machine itself stay the edge, PostgreSQL and the base images: run make clean-machine there, or "
                f"remove what docker lists with the label io.ocore.namespace={settings.OCORE_NAMESPACE}",
            ]
            for server in objs
        ]
        return goes, {"servers": len(goes)}, set(), protected


def _listed(found: Survey, *, keep: bool) -> list[Verdict]:
    """One by one, but for the rows, of which the totals tell."""
    return [one for one in found.verdicts if one.keep == keep and one.thing.kind not in ROWS]
