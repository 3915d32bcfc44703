"""A project's further repositories: beside its form."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest

from ocore.forms import KeepsSecrets
from projects.admin.overrides import readable_fieldsets
from projects.models import Repository

SECRET = "repository_token"  # noqa: S105 - a field's name
((_, _shown),) = readable_fieldsets(Repository, [(None, {"fields": [SECRET]})])
KEPT_SECRET = _shown["fields"][0]
"""In its place for whom may not change it: Django shows what somebody may only look at as it is kept."""


BEFORE = ["priority", "name", "repository_url", "repository_username"]
AFTER = ["key_to_paste", "branch", "pin", "stands_at", "folder"]


class RepositoryFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """What no form can see of the project."""

    def clean(self) -> None:
        super().clean()
        kept = [form for form in self.forms if form.is_valid() and form.cleaned_data.get("name")]
        if any(not form.cleaned_data.get("DELETE") for form in kept) and not self.instance.repository_url:
            raise forms.ValidationError(
                "The project has no git repository of its own. Enter there what comes first; further ones add to it."
            )


class RepositoryInline(admin.StackedInline):  # type: ignore[type-arg]
    model = Repository
    form = KeepsSecrets
    formset = RepositoryFormSet
    extra = 0
    readonly_fields = ["key_to_paste", "stands_at", KEPT_SECRET]
    verbose_name_plural = "further repositories: Odoo Enterprise, OCA, themes"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        secret = SECRET if self.has_change_permission(request, obj) else KEPT_SECRET
        return [(None, {"fields": [*BEFORE, secret, *AFTER]})]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Repository]:
        return super().get_queryset(request).select_related("project")

    @admin.display(description="deploy key, public half")
    def key_to_paste(self, repository: Repository) -> str:
        return repository.deploy_key_public or "only for ssh addresses"

    @admin.display(description="stands at")
    def stands_at(self, repository: Repository) -> str:
        if not repository.pin:
            return "follows its branch"
        return repository.pinned_commit[:10] or "not deployed yet"
