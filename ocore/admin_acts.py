"""What can be done to an object besides editing it: buttons and pages of their own, each with its permission."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from ocore.errors import ExpectedError


@dataclass(frozen=True)
class Act:
    """`name` is the last part of its URL and, with `_` for `-`, the method that does it."""

    name: str
    permission: str
    methods: Sequence[str] = ("POST",)
    """GET only where it changes nothing. No permission: whoever may see the object may do it."""

    @property
    def method(self) -> str:
        return self.name.replace("-", "_")


class ActsOnObjects(admin.ModelAdmin):  # type: ignore[type-arg]
    """Serves `acts` under an object's page. Whoever may not see the object, or lacks the act's permission, gets 403.

    An act's method takes the request and the object; what it returns is the answer, None goes back to the object's
    page. An `ExpectedError` becomes a message there.
    """

    acts: ClassVar[Sequence[Act]] = ()

    def get_urls(self) -> list[URLPattern]:
        opts = self.model._meta
        return [
            path(
                f"<int:pk>/{act.name}/",
                self.admin_site.admin_view(self._view_of(act)),
                name=f"{opts.app_label}_{opts.model_name}_{act.method}",
            )
            for act in self.acts
        ] + super().get_urls()

    def _view_of(self, act: Act) -> Any:
        def view(request: HttpRequest, pk: int) -> HttpResponse:
            target = self.get_object(request, str(pk))
            if target is None:
                raise Http404
            if not self.may(request, act, target):
                raise PermissionDenied
            if request.method not in act.methods:
                return HttpResponseNotAllowed(act.methods)
            try:
                answer: HttpResponse | None = getattr(self, act.method)(request, target)
            except ExpectedError as error:
                messages.error(request, " ".join(filter(None, (error.message, error.advice))))
                answer = None
            return answer or self.back_to(target)

        return view

    def may(self, request: HttpRequest, act: Act, target: Model | None = None) -> bool:
        seen = self.has_view_permission(request, target)
        return seen and (not act.permission or request.user.has_perm(act.permission))

    def allowed(self, request: HttpRequest, target: Model | None = None) -> dict[str, bool]:
        """For templates: `allowed.roll_back`."""
        return {act.method: self.may(request, act, target) for act in self.acts}

    def back_to(self, target: Model) -> HttpResponseRedirect:
        opts = target._meta
        return HttpResponseRedirect(reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[target.pk]))

    def page(self, request: HttpRequest, target: Model, title: str, **context: Any) -> dict[str, Any]:
        """The context of an object's further page, below its own in the breadcrumbs."""
        return {
            **self.admin_site.each_context(request),
            "opts": self.model._meta,
            "original": target,
            "title": title,
            "allowed": self.allowed(request, target),
            **context,
        }


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only oCore itself writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        opts = self.opts
        return request.user.has_perm(f"{opts.app_label}.view_{opts.model_name}") or request.user.has_perm(
            f"{opts.app_label}.change_{opts.model_name}"
        )


class NoBulkDelete(admin.ModelAdmin):  # type: ignore[type-arg]
    """Deleting is one at a time, on a page that says what goes with it."""

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {name: action for name, action in super().get_actions(request).items() if name != "delete_selected"}
