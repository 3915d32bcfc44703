"""Instances, with start, stop and restart."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from deployments import control
from deployments.admin.due import tell_due
from deployments.services import NotPossible
from instances.admin import InstanceAdmin
from instances.models import Instance
from ocore.admin_acts import Act, ActsOnObjects
from ocore.viewer import may_see
from projects.models import Environment

CONTROL = "instances.control_instance"


@admin.register(Instance)
class ControlledInstanceAdmin(ActsOnObjects, InstanceAdmin):
    change_form_template = "admin/instances/instance/change_form.html"
    change_list_template = "admin/ocore/live_change_list.html"
    acts = [Act("start", CONTROL), Act("stop", CONTROL), Act("restart", CONTROL)]

    def start(self, request: HttpRequest, instance: Instance) -> None:
        self._control(request, instance, "start", "is being started")

    def stop(self, request: HttpRequest, instance: Instance) -> None:
        self._control(request, instance, "stop", "is being stopped")

    def restart(self, request: HttpRequest, instance: Instance) -> None:
        self._control(request, instance, "restart", "is being restarted; clients notice nothing, or wait a moment")

    def _control(self, request: HttpRequest, instance: Instance, verb: str, told: str) -> None:
        control.request(instance, verb)
        self.log_change(request, instance, f"Asked to {verb}.")
        messages.success(request, f"{instance} {told}.")

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        tell_due(request, form.changed_data, [form.instance.environment])

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Says what goes with it; one that has a container is removed by a worker, from the server first."""
        instance: Any = self.get_object(request, object_id)
        if not self.has_delete_permission(request, instance):
            raise PermissionDenied
        if instance is None:
            raise Http404
        refusal = control.removal_refusal(instance)
        if request.method == "POST" and not refusal:
            if not instance.container:
                return super().delete_view(request, object_id, extra_context)
            return self._remove(request, instance)
        context = self.page(request, instance, f"Remove {instance}", instance=instance, refusal=refusal)
        return TemplateResponse(request, "admin/instances/instance/remove.html", context)

    def _remove(self, request: HttpRequest, instance: Instance) -> HttpResponse:
        try:
            control.request(instance, "remove")
        except NotPossible as error:
            messages.error(request, error.message)
            return self.back_to(instance)
        self.log_change(request, instance, "Removal asked for.")
        messages.success(request, f"{instance} is being removed.")
        return self.back_to(instance.environment if may_see(Environment) else instance)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        instance: Any = self.get_object(request, object_id)
        context = {"allowed": self.allowed(request, instance), "instance": instance} if instance else {}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))
