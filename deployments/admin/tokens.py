"""API tokens: made for oneself, shown once, revoked."""

import secrets
from collections.abc import Collection
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments import tokens
from deployments.admin.who import who
from deployments.models import ApiToken
from deployments.tokens import DAYS, MOST_DAYS, Verb
from ocore.admin_acts import Act, ActsOnObjects, NoBulkDelete
from ocore.forms import SaysAllErrors
from ocore.show import NOTHING, ago, at, link_to, tag
from ocore.viewer import may_see
from projects.models import Project

SHOWN = ("name", "begins_with", "acts_for", "is_for", "where", "state")
SHOWN_OF_TIME = ("made", "ends", "used", "revoked")
SENT, MOST_SENT = "sent_token_forms", 50
REVOKE = Act("revoke", "deployments.revoke_apitoken")


class ApiTokenForm(SaysAllErrors):
    verbs = forms.MultipleChoiceField(
        choices=Verb.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=[Verb.READ],
        label="For",
        help_text="And never for more than you may do yourself at that moment.",
    )
    days = forms.IntegerField(
        min_value=1, max_value=MOST_DAYS, initial=DAYS, label="Valid for", help_text="Days. A new one takes its place."
    )

    form = forms.CharField(widget=forms.HiddenInput, initial=secrets.token_hex, required=False, max_length=64)
    sent: Collection[str] = ()
    """Forms that this session has sent: a page that is loaded again makes no second token."""

    class Meta:
        model = ApiToken
        fields = ["name", "verbs", "projects", "every_project", "days", "form"]
        widgets = {"projects": forms.CheckboxSelectMultiple}
        help_texts = {
            "name": "Who uses it, for what: such as “CI of acme”.",
            "every_project": "Also those that there are not yet.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choice: Any = self.fields["projects"]
        choice.widget.can_add_related = False
        choice.queryset = Project.objects.all() if may_see(Project) else Project.objects.none()

    def clean(self) -> dict[str, Any]:
        if self.cleaned_data.get("form") in self.sent:
            raise forms.ValidationError("This form was sent already, and its token was shown then. Nothing was made.")
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if bool(cleaned.get("projects")) == bool(cleaned.get("every_project")):
            self.add_error("projects", "Choose the projects in which it holds, or that it is every one; not both.")
        return cleaned


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("valid", "valid"), ("expired", "expired"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> QuerySet[ApiToken]:
        match self.value():
            case "valid":
                return tokens.unexpired(queryset)
            case "expired":
                return queryset.filter(revoked_at=None).exclude(pk__in=tokens.unexpired(queryset))
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


@admin.register(ApiToken)
class ApiTokenAdmin(ActsOnObjects, NoBulkDelete):
    """Whoever may add one does so for themselves, and may revoke their own; everybody's is a permission of its own."""

    change_form_template = "admin/deployments/apitoken/change_form.html"
    acts = [REVOKE]
    list_display = ["name", "begins_with", "acts_for", "is_for", "where", "state", "ends", "used"]
    list_filter = [
        StateFilter,
        ("user", admin.RelatedOnlyFieldListFilter),
        ("projects", admin.RelatedOnlyFieldListFilter),
    ]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username"]
    fieldsets = [
        (None, {"fields": SHOWN}),
        ("When", {"fields": SHOWN_OF_TIME}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        return super().get_queryset(request).prefetch_related("projects")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def may(self, request: HttpRequest, act: Act, target: Any = None) -> bool:
        own = target is not None and target.user_id == request.user.pk
        seen = self.has_view_permission(request, target)
        return super().may(request, act, target) or (own and seen and self.has_add_permission(request))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return [(None, {"fields": ApiTokenForm.Meta.fields})]
        return super().get_fieldsets(request, obj)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs |= {"form": ApiTokenForm, "fields": ["name", "projects", "every_project"]}
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.sent = request.session.get(SENT, ())
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [] if obj is None else [*SHOWN, *SHOWN_OF_TIME]

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> ApiToken:
        asked = form.cleaned_data
        made, secret = tokens.make(
            request.user,  # type: ignore[arg-type]
            who(request).name,
            name=asked["name"],
            verbs=asked["verbs"],
            projects=None if asked["every_project"] else list(asked["projects"]),
            days=asked["days"],
        )
        request.made_secret = secret  # type: ignore[attr-defined]
        request.session[SENT] = [*form.sent, asked["form"]][-MOST_SENT:]
        form.instance = made
        return made

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """`save_form` has."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """`save_form` has."""

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        context = self.page(
            request,
            obj,
            "A new token",
            secret_name="Token",  # noqa: S106 - a label
            secret=request.made_secret,  # type: ignore[attr-defined]
            explanation="It is shown this once: keep it where the program that needs it finds it, such as the secrets "
            "of your CI system. oCore knows its digest only.",
        )
        response = TemplateResponse(request, "admin/ocore/secret.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """One button: whichever is pressed, what comes next is the token."""
        one = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().add_view(request, form_url, one | (extra_context or {}))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        token: Any = self.get_object(request, object_id)
        context = {"allowed": self.allowed(request, token), "token": token} if token else {}
        return super().change_view(request, object_id, form_url, context | (extra_context or {}))

    def revoke(self, request: HttpRequest, token: ApiToken) -> None:
        tokens.revoke(token, who(request).name)
        self.log_change(request, token, "Revoked.")
        messages.success(request, f"{token} is revoked.")

    @admin.display(description="begins with", ordering="prefix")
    def begins_with(self, token: ApiToken) -> str:
        return f"{token.prefix}…"

    @admin.display(description="user", ordering="user__username")
    def acts_for(self, token: ApiToken) -> SafeString | str:
        return link_to(token.user, token.owner) if token.user else token.owner

    @admin.display(description="for")
    def is_for(self, token: ApiToken) -> str:
        return ", ".join(str(Verb(one).label).lower() for one in token.verbs)

    @admin.display(description="in")
    def where(self, token: ApiToken) -> str:
        if token.every_project:
            return "every project"
        return ", ".join(str(one) for one in token.projects.all()) or "no project any more"

    @admin.display(description="state")
    def state(self, token: ApiToken) -> SafeString:
        if token.revoked_at:
            return tag("Revoked", "muted", "⊘", f"by {token.revoked_by}")
        if token.expired:
            return tag("Expired", "muted", "○")
        if not token.valid:
            return tag("Without effect", "bad", "✕", f"{token.owner} may not work in the portal")
        return tag("Valid", "ok", "✓")

    @admin.display(description="ends", ordering="expires_at")
    def ends(self, token: ApiToken) -> str:
        return at(token.expires_at)

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, token: ApiToken) -> str:
        return ago(token.last_used_at) if token.last_used_at else "never"

    @admin.display(description="made")
    def made(self, token: ApiToken) -> SafeString:
        return format_html("{} by {}", at(token.made_at), token.made_by)

    @admin.display(description="revoked")
    def revoked(self, token: ApiToken) -> SafeString | str:
        return format_html("{} by {}", at(token.revoked_at), token.revoked_by) if token.revoked_at else NOTHING
