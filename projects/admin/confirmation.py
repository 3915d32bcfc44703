"""A changed default that reaches several environments is shown, and saved only when somebody says yes."""

import json
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.template.response import TemplateResponse

from ocore.errors import ExpectedError
from ocore.secrets import decrypt, encrypt
from projects.models import Environment, Project
from projects.reach import Change, changes, environments_of

CARRIED = "_carried"
"""The whole form on its way through the question, encrypted: what was typed into it may be secret."""
ASKED_FROM = 2


class ConfirmsReach(admin.ModelAdmin):  # type: ignore[type-arg]
    """For projects: settings that reach `ASKED_FROM` environments or more need a second look."""

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if request.method == "POST" and object_id:
            project = self.get_object(request, object_id)
            if project is not None and self.has_change_permission(request, project):
                if CARRIED in request.POST:
                    request.POST = self._unpack(request, object_id)  # type: ignore[assignment]
                    return super().changeform_view(request, object_id, form_url, extra_context)
                question = self._question(request, project, object_id)
                if question is not None:
                    return question
        return super().changeform_view(request, object_id, form_url, extra_context)

    def _question(self, request: HttpRequest, project: Project, object_id: str) -> HttpResponse | None:
        after = self.get_object(request, object_id)
        form = self.get_form(request, after, change=True)(request.POST, request.FILES, instance=after)
        if after is None or not form.is_valid():
            return None
        found = changes(project, after, environments_of(project))
        reached = _reached(found)
        if len(reached) < ASKED_FROM:
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": f"This reaches {len(reached)} environments",
            "opts": self.opts,
            "original": project,
            "changes": found,
            "carried_name": CARRIED,
            "carried": self._pack(request, object_id),
        }
        return TemplateResponse(request, "admin/ocore/confirm_reach.html", context)

    def _pack(self, request: HttpRequest, object_id: str) -> str:
        return encrypt(json.dumps([request.user.pk, object_id, request.POST.urlencode()]))

    def _unpack(self, request: HttpRequest, object_id: str) -> QueryDict:
        try:
            user, of, form = json.loads(decrypt(request.POST[CARRIED]))
        except ExpectedError as error:
            raise Http404 from error
        if (user, of) != (request.user.pk, object_id):
            raise PermissionDenied
        return QueryDict(form)


def _reached(found: list[Change]) -> list[Environment]:
    return list({environment.pk: environment for change in found for environment in change.reached}.values())
