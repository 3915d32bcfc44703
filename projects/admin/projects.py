"""Projects: their repository, and the defaults of their environments."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.html import escape, format_html_join
from django.utils.safestring import SafeString

from ocore.admin_acts import NoBulkDelete
from ocore.forms import SaysAllErrors
from ocore.show import ago, link_to, tag
from projects.admin.confirmation import ConfirmsReach
from projects.admin.overrides import OverridesForm, ShowsOverrides, linked
from projects.admin.repositories import RepositoryInline
from projects.inheritance import SETTINGS
from projects.models import BranchRule, Environment, Project
from projects.reach import environments_of, overriders

KIND_TONES = {
    Environment.Kind.PRODUCTION: "production",
    Environment.Kind.STAGING: "staging",
    Environment.Kind.DEVELOPMENT: "development",
    Environment.Kind.OTHER: "other",
}


def kind_tag(environment: Environment) -> SafeString:
    kind = Environment.Kind(environment.kind)
    return tag(kind.label, f"kind-{KIND_TONES[kind]}")


class ProjectForm(OverridesForm):
    empty_label = "oCore's default"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance.pk:
            return
        environments = environments_of(self.instance)
        for name, form_field in self.fields.items():
            others = overriders(name, environments) if name in SETTINGS else []
            if others:
                words = "; ".join(map(str, others))
                form_field.help_text += f'<br><span class="oc-hint oc-over">Overridden by {escape(words)}</span>'


def _only_choose(form: SaysAllErrors, name: str) -> None:
    """A field without the buttons to add or change what it points to."""
    widget = form.fields[name].widget if name in form.fields else None
    if isinstance(widget, RelatedFieldWidgetWrapper):
        widget.can_add_related = widget.can_change_related = False
        widget.can_view_related = widget.can_delete_related = False


class BranchRuleForm(SaysAllErrors):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _only_choose(self, "environment")


class EnvironmentInlineForm(SaysAllErrors):
    """What fixes an environment's names on its server cannot be changed later."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            for name in ("slug", "server"):
                if name in self.fields:
                    self.fields[name].disabled = True
        _only_choose(self, "server")


class EnvironmentInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Environment
    form = EnvironmentInlineForm
    fields = ["name", "slug", "kind", "server", "branch"]
    prepopulated_fields = {"slug": ["name"]}
    show_change_link = True
    can_delete = False
    extra = 0
    verbose_name_plural = "environments"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [self._shown(request, obj, name) for name in self.fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for name in self.get_fields(request, obj) if callable(name)]

    def _shown(self, request: HttpRequest, obj: Any, name: Any) -> Any:
        """A server is a link for those only who may open it."""
        may_edit = self.has_change_permission(request, obj) or self.has_add_permission(request, obj)
        return name if may_edit else linked(Environment, name)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Environment]:
        return super().get_queryset(request).select_related("project", "server")


class BranchRuleInline(admin.TabularInline):  # type: ignore[type-arg]
    model = BranchRule
    form = BranchRuleForm
    fields = ["priority", "kind", "pattern", "environment"]
    extra = 0
    verbose_name_plural = "rules for further branches and for tags"

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Only the project's own environments can be chosen."""
        if db_field.name == "environment":
            match = request.resolver_match
            project = str(match.kwargs.get("object_id", "")) if match else ""
            rows = Environment.objects.select_related("project")
            kwargs["queryset"] = rows.filter(project=int(project)) if project.isdecimal() else rows.none()
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[BranchRule]:
        return super().get_queryset(request).select_related("project", "environment__project")


class ProjectAdmin(ConfirmsReach, ShowsOverrides, NoBulkDelete):
    form = ProjectForm
    list_display = ["name", "environment_tags", "repository", "created"]
    search_fields = ["name", "slug", "description", "repository_url"]
    list_filter = ["host", ("environments__server", admin.RelatedOnlyFieldListFilter)]
    inlines = [EnvironmentInline, RepositoryInline, BranchRuleInline]
    fixed = ("slug",)
    head = [
        (None, {"fields": ["name", "slug", "description"]}),
        ("Git", {"fields": ["repository_url", "repository_username", "repository_token", "host", "signing_token"]}),
        ("Statuses at the git host", {"fields": ["report_to_host", "report_url", "report_token"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        environments = Environment.objects.select_related("project", "server")
        return super().get_queryset(request).prefetch_related(Prefetch("environments", environments))

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        return {} if obj else {"slug": ["name"]}

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, set[Any], list[Any]]:
        """In few words; its environments must be gone before."""
        _, _, _, protected = super().get_deleted_objects(objs, request)
        goes = [
            [
                f"Project {project}",
                "its webhook and the deliveries that came to it",
                "its status page and its address",
                "a moment later: the copy of its repository and those of further ones, its images on all servers",
            ]
            for project in objs
        ]
        return goes, {"projects": len(goes)}, set(), protected

    @admin.display(description="environments")
    def environment_tags(self, project: Project) -> str:
        rows = [(link_to(one, one.name), kind_tag(one)) for one in project.environments.all()]
        return format_html_join(" ", '<span class="oc-nowrap">{} {}</span>', rows) or "–"

    @admin.display(description="created", ordering="created_at")
    def created(self, project: Project) -> str:
        return ago(project.created_at)

    @admin.display(description="git repository", ordering="repository_url")
    def repository(self, project: Project) -> str:
        return project.repository_url or "none: plain Odoo"
