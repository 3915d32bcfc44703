"""Inheritance on the admin's pages: what an empty field inherits and from whom, and what applies in the end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import ForeignKey, Model
from django.forms import NullBooleanSelect
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString

from ocore.fields import EncryptedMappingField, EncryptedTextField
from ocore.forms import KEPT, KeepsSecrets
from ocore.show import link_to
from projects.inheritance import EDGE_SETTINGS, INSTANCE_SETTINGS, SETTINGS, Effective, display, effective, inherited

GROUPS: dict[str, tuple[str, ...]] = {
    "Odoo": ("odoo_version", "odoo_image", "custom_modules", "update_policy", "pip_packages"),
    "Deployment": ("auto_deploy", "skip_words", "deploy_paths", "strategy", "health_path", "health_deadline"),
    "Resources": (
        "workers",
        "cron_threads",
        "memory_limit",
        "cpu_limit",
        "limit_memory_soft",
        "limit_memory_hard",
        "limit_time_cpu",
        "limit_time_real",
    ),
    "Who comes in, and how": EDGE_SETTINGS,
}
REST = "Options and variables"
"""Takes every setting that stands in no group, so that a new one is on the page by itself."""


def override_fieldsets(names: Sequence[str], holder: Any = None) -> list[tuple[str, dict[str, Any]]]:
    """The settings that a level has, in groups whose titles say how many are set there; the rest follows."""
    grouped = {name for group in GROUPS.values() for name in group}
    groups = GROUPS | {REST: tuple(name for name in SETTINGS if name not in grouped)}
    return [
        (
            title + _count_set(holder, group),
            {"fields": [name for name in group if name in names], "classes": ["collapse", "oc-overrides"]},
        )
        for title, group in groups.items()
        if any(name in names for name in group)
    ]


def _count_set(holder: Any, group: Sequence[str]) -> str:
    count = sum(getattr(holder, name, None) is not None for name in group)
    return f" · {count} set here" if count else ""


def settings_of(model: type[Model]) -> tuple[str, ...]:
    return SETTINGS if hasattr(model, "odoo_version") else INSTANCE_SETTINGS


def hint(holder: Any, name: str) -> SafeString:
    """What applies while the field is empty, and who set it."""
    above = inherited(holder, name)
    words = display(name, above.value)
    if getattr(holder, name) is None:
        return format_html('<span class="oc-hint">Inherits <strong>{}</strong>, from {}</span>', words, above.origin)
    return format_html(
        '<span class="oc-hint oc-own">Set here. Empty it inherits {}, from {}</span>', words, above.origin
    )


class OverridesForm(KeepsSecrets):
    """Beside each override stands what it inherits."""

    parent_field: ClassVar[str] = ""
    """The foreign key to the holder that is inherited from; empty on the topmost level."""
    empty_label = "Inherit"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for form_field in self.fields.values():
            form_field.help_text = escape(form_field.help_text)
        holder = self._holder()
        for name in settings_of(self._meta.model):
            if name in self.fields:
                self._say_inherit(self.fields[name])
                inherits = hint(holder, name) if holder is not None else f"Inherits from the {self.parent_field}."
                lines = [(SafeString(line),) for line in (self.fields[name].help_text,) if line]
                self.fields[name].help_text = format_html_join("", "{}<br>", lines) + inherits

    def _holder(self) -> Any:
        """The instance with its parent, as far as that is known yet."""
        parent = self.parent_field
        if not parent or getattr(self.instance, f"{parent}_id"):
            return self.instance
        chosen = self.data.get(self.add_prefix(parent)) if self.is_bound else self.initial.get(parent)
        found = self._meta.model._meta.get_field(parent).related_model
        pk = getattr(chosen, "pk", chosen)
        row = found._default_manager.filter(pk=pk).first() if str(pk or "").isdigit() else None
        return self._meta.model(**{parent: row}) if row is not None else None

    def _say_inherit(self, form_field: forms.Field) -> None:
        widget = form_field.widget
        widget = getattr(widget, "widget", widget)
        if isinstance(widget, NullBooleanSelect):
            widget.choices = [("unknown", self.empty_label), ("true", "Yes"), ("false", "No")]
        elif isinstance(form_field, forms.TypedChoiceField):
            choices: Any = form_field.choices
            form_field.choices = [("", self.empty_label), *list(choices)[1:]]


Readable = Callable[[Any], Any]


class ShowsOverrides(admin.ModelAdmin):  # type: ignore[type-arg]
    """Groups the overrides, shows what applies, and never shows a secret, neither to whom may only look."""

    head: ClassVar[Sequence[tuple[str | None, dict[str, Any]]]] = ()
    """The fieldsets before the overrides."""
    fixed: ClassVar[Sequence[str]] = ()
    """What can be chosen for a new one only."""

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = [*self.head, *override_fieldsets(settings_of(self.model), obj)]
        if obj is not None:
            fieldsets.append(
                (
                    "Effective configuration",
                    {"fields": ["effective_configuration"], "classes": ["collapse", "oc-overrides"]},
                )
            )
        if not self._may_edit(request, obj):
            return readable_fieldsets(self.model, fieldsets)
        return _replaced(fieldsets, self._fixed(obj))

    def _may_edit(self, request: HttpRequest, obj: Any) -> bool:
        return self.has_change_permission(request, obj) if obj is not None else self.has_add_permission(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*super().get_readonly_fields(request, obj), *self._fixed(obj).values(), "effective_configuration"]

    def _fixed(self, obj: Any) -> dict[str, Any]:
        return {name: linked(self.model, name) for name in self.fixed} if obj is not None else {}  # type: ignore[arg-type]  # a class is hashable

    @admin.display(description="")
    def effective_configuration(self, obj: Any) -> str:
        return render_to_string("admin/ocore/effective.html", {"rows": rows(obj), "level": obj.level})


def rows(holder: Any) -> list[dict[str, Any]]:
    """Each setting as it applies to the holder, secrets by name only; mappings entry by entry."""
    return [_row(holder, one) for one in effective(holder).values()]


def _row(holder: Any, one: Effective) -> dict[str, Any]:
    secret = isinstance(holder_field(one.name), EncryptedMappingField)
    return {
        "name": one.name,
        "label": one.label,
        "value": display(one.name, one.value),
        "origin": one.origin,
        "own": one.origin.level == holder.level,
        "entries": [
            (key, KEPT if secret else one.value[key], origin, origin.level == holder.level)
            for key, origin in sorted(one.entries.items())
        ],
    }


def holder_field(name: str) -> Any:
    from projects.models import Project

    return Project._meta.get_field(name)


def readable_fieldsets(model: type[Model], fieldsets: Sequence[Any]) -> list[Any]:
    """The same fieldsets for whom may only look: values in words, secrets only as being there."""
    return _replaced(
        fieldsets, {name: _readable(model, name) for _, options in fieldsets for name in options["fields"]}
    )


def _replaced(fieldsets: Iterable[Any], by: Mapping[Any, Any]) -> list[Any]:
    return [
        (title, {**options, "fields": [by.get(name, name) for name in options["fields"]]})
        for title, options in fieldsets
    ]


@cache
def linked(model: Any, name: str) -> Any:
    """A field to be read; what it points to is a link for those only who may open it, other than Django's."""
    model_field: Any = model._meta.get_field(name)
    if not isinstance(model_field, ForeignKey):
        return name

    @admin.display(description=model_field.verbose_name)
    def shown(obj: Any) -> Any:
        return link_to(getattr(obj, name))

    shown.__name__ = f"linked_{name}"
    return shown


def _readable(model: type[Model], name: Any) -> Any:
    if not isinstance(name, str) or name not in {one.name for one in model._meta.get_fields()}:
        return name
    model_field: Any = model._meta.get_field(name)
    if name in SETTINGS:
        show: Readable = lambda obj: _setting_in_words(obj, name)  # noqa: E731
    elif isinstance(model_field, EncryptedTextField):
        show = lambda obj: KEPT if getattr(obj, name) else "not set"  # noqa: E731
    else:
        return linked(model, name)

    @admin.display(description=model_field.verbose_name)
    def shown(obj: Any) -> Any:
        return show(obj)

    shown.__name__ = f"shown_{name}"
    return shown


def _setting_in_words(obj: Any, name: str) -> Any:
    own = getattr(obj, name)
    return hint(obj, name) if own is None else display(name, own)
