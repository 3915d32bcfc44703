"""Users and groups in the admin: they are offered the permissions that mean something here, in words."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db.models import Q, QuerySet
from django.forms import ModelMultipleChoiceField
from django.http import HttpRequest

from ocore.admin_acts import ReadOnly


def meaningful_permissions() -> QuerySet[Permission]:
    """Those that a page of the admin asks for: of kinds of things that have one, and not to write what only oCore
    writes."""
    wanted = Q()
    for model, model_admin in admin.site._registry.items():
        of_it = Q(content_type=ContentType.objects.get_for_model(model))
        if isinstance(model_admin, ReadOnly):
            written = [f"{act}_{model._meta.model_name}" for act in ("add", "change", "delete")]
            of_it &= ~Q(codename__in=written)
        wanted |= of_it
    rows = Permission.objects.filter(wanted).select_related("content_type")
    return rows.order_by("content_type__app_label", "content_type__model", "pk")


class PermissionsField(ModelMultipleChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Any) -> str:
        """`Environment: can view`, `Deployment: can roll an environment back`."""
        kind = obj.content_type.model_class()._meta.verbose_name
        words = obj.name[:1].lower() + obj.name[1:]
        return f"{kind[:1].upper()}{kind[1:]}: {words.removesuffix(f' {kind}')}"


class OffersPermissions(admin.ModelAdmin):  # type: ignore[type-arg]
    def formfield_for_manytomany(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        if db_field.related_model is Permission:
            kwargs |= {"queryset": meaningful_permissions(), "form_class": PermissionsField}
        return super().formfield_for_manytomany(db_field, request, **kwargs)


class Users(OffersPermissions, UserAdmin):  # type: ignore[type-arg]
    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Without the way to another password for somebody who may only look."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        return [
            (title, {**options, "fields": [name for name in options["fields"] if name != "password"]})
            for title, options in fieldsets
        ]


class Groups(OffersPermissions, GroupAdmin):  # type: ignore[misc]  # its base says less than it takes
    pass


for model, model_admin in ((User, Users), (Group, Groups)):
    admin.site.unregister(model)
    admin.site.register(model, model_admin)
