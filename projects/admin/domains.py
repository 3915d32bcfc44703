"""The client's own host names: beside the environment's form, and a page for each with its certificate."""

from typing import Any

from django import forms
from django.contrib import admin
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.html import escape

from ocore.admin_acts import NoBulkDelete
from ocore.forms import KeepsSecrets
from projects.admin.overrides import linked, readable_fieldsets
from projects.domains import Domain

LINES = {"rows": 6, "cols": 70, "class": "vLargeTextField", "spellcheck": "false", "autocomplete": "off"}


class DomainForm(KeepsSecrets):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("chain", "private_key"):
            if name in self.fields:
                self.fields[name].widget = forms.Textarea(attrs=LINES)
        for form_field in self.fields.values():
            form_field.help_text = escape(form_field.help_text)


class DomainFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """What one form cannot see of the others."""

    def clean(self) -> None:
        super().clean()
        kept = [form for form in self.forms if form.is_valid() and not form.cleaned_data.get("DELETE")]
        names = [form.instance.name for form in kept if form.instance.name]
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice:
            raise forms.ValidationError(f"{twice} stands there twice.")
        if sum(bool(form.cleaned_data.get("primary")) for form in kept) > 1 and self._new_ones(kept) != 1:
            raise forms.ValidationError("Only one host name can be the primary one.")

    @staticmethod
    def _new_ones(kept: list[Any]) -> int:
        """Those that become primary: exactly one takes it from the one that was."""
        return sum(bool(form.cleaned_data.get("primary")) and "primary" in form.changed_data for form in kept)


class DomainInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Domain
    form = DomainForm
    formset = DomainFormSet
    fields = ["name", "primary", "source"]
    extra = 0
    show_change_link = True
    verbose_name_plural = "host names of its own"


class DomainAdmin(NoBulkDelete):
    form = DomainForm
    autocomplete_fields = ["environment"]
    list_filter = ["source", ("environment__project", admin.RelatedOnlyFieldListFilter), "environment__kind"]
    list_select_related = ["environment__project", "environment__server"]
    search_fields = ["name", "environment__name", "environment__project__name"]
    fieldsets = [
        (None, {"fields": ["environment", "name", "primary"]}),
        ("Certificate", {"fields": ["source", "chain", "private_key"]}),
    ]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        may_edit = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        fieldsets = self.fieldsets or []
        if not may_edit:
            return readable_fieldsets(Domain, fieldsets)
        if obj is None:
            return fieldsets
        shown = linked(Domain, "environment")
        return [(None, {"fields": [shown, "name", "primary"]}), *list(fieldsets)[1:]]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [linked(Domain, "environment")] if obj else []
