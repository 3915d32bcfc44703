"""An environment's pages for maintenance and for testers' links."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from deployments import keep_out
from instances import maintenance, testers
from instances.models import TesterLink
from ocore.admin_acts import Act, ActsOnObjects
from ocore.errors import ExpectedError
from projects.models import Environment

LINKS_SHOWN = 50
TESTERS = Act("testers", "instances.manage_tester_links", methods=("GET", "POST"))


class MaintenanceForm(forms.Form):
    text = forms.CharField(
        required=False,
        max_length=maintenance.MOST_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 4, "cols": 60}),
        help_text="What clients read. Empty: that the service is being looked after.",
    )
    until = forms.DateTimeField(
        required=False,
        label="End (UTC)",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text="It ends by itself then, and clients are told so. Empty: it lasts until somebody ends it.",
    )


class LinkForm(forms.Form):
    for_whom = forms.CharField(max_length=150, label="For whom", help_text="For the record.")
    hours = forms.FloatField(
        min_value=0.1, max_value=testers.MOST_HOURS, initial=testers.HOURS, help_text="How long it is valid."
    )


class KeepOutActs(ActsOnObjects):
    acts = [
        Act("maintenance", "instances.set_maintenance", methods=("GET", "POST")),
        Act("end-maintenance", "instances.set_maintenance"),
        TESTERS,
    ]

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "<int:pk>/testers/<int:link>/revoke/",
                self.admin_site.admin_view(self.revoke_tester),
                name="projects_environment_revoke_tester",
            ),
            *super().get_urls(),
        ]

    def maintenance(self, request: HttpRequest, environment: Environment) -> HttpResponse | None:
        """GET shows what would be set, POST sets it."""
        now = maintenance.current(environment)
        known = {"text": now.text, "until": now.until} if now else None
        form = MaintenanceForm(request.POST or None, initial=known)
        if request.method == "POST" and form.is_valid():
            row = maintenance.begin(environment, request.user.get_username(), **form.cleaned_data)
            until = f"until {row.until:%Y-%m-%d %H:%M} UTC" if row.until else "until somebody ends it"
            self.log_change(request, environment, f"In maintenance {until}.")
            self._told(request, environment, f"{environment} is in maintenance {until}.")
            return None
        context = self.page(request, environment, "Maintenance", environment=environment, form=form, now_set=now)
        return TemplateResponse(request, "admin/projects/environment/maintenance.html", context)

    def end_maintenance(self, request: HttpRequest, environment: Environment) -> None:
        maintenance.end(environment, request.user.get_username())
        self.log_change(request, environment, "Maintenance ended.")
        self._told(request, environment, f"The clients of {environment} are let in again.")

    def testers(self, request: HttpRequest, environment: Environment) -> HttpResponse | None:
        """The links, and a form for a new one, which is shown once it is made."""
        form = LinkForm(request.POST or None)
        made = None
        if request.method == "POST" and form.is_valid():
            made = testers.make(environment, request.user.get_username(), **form.cleaned_data)
            self.log_change(request, environment, f"Tester's link {made.pk} made for {made.for_whom}.")
            self._told(request, environment, f"A link for {made.for_whom} is made.")
            form = LinkForm()
        context = self.page(
            request,
            environment,
            "Testers' links",
            environment=environment,
            form=form,
            made=made,
            address=testers.address(made) if made else "",
            links=environment.tester_links.all()[:LINKS_SHOWN],
        )
        return TemplateResponse(request, "admin/projects/environment/testers.html", context)

    def revoke_tester(self, request: HttpRequest, pk: int, link: int) -> HttpResponse:
        environment: Any = self.get_object(request, str(pk))
        if not self.may(request, TESTERS, environment):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        row = get_object_or_404(TesterLink, pk=link, environment=environment)
        try:
            testers.revoke(row, request.user.get_username())
        except ExpectedError as error:
            messages.error(request, error.message)
        else:
            self.log_change(request, environment, f"Tester's link {row.pk} for {row.for_whom} revoked.")
            self._told(request, environment, f"The link for {row.for_whom} is revoked.")
        return HttpResponseRedirect(reverse("admin:projects_environment_testers", args=[environment.pk]))

    def _told(self, request: HttpRequest, environment: Environment, done: str) -> None:
        problem = keep_out.tell(environment)
        (messages.warning if problem else messages.success)(request, " ".join(filter(None, (done, problem))))
