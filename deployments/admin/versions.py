"""An environment's page for its second version: set one up, lead clients to it, compare, end it."""

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from deployments import second
from deployments.admin.who import who
from deployments.models import Deployment
from deployments.services import NotPossible
from instances.runtimes import runtime_for
from instances.runtimes.base import Figures
from ocore.admin_acts import Act, ActsOnObjects
from ocore.errors import ExpectedError
from projects.models import Environment, Split

PAGE = "admin/projects/environment/versions.html"
CONFIRM = "admin/projects/environment/versions_confirm.html"


class SecondForm(forms.Form):
    name = forms.CharField(max_length=40, initial="Second", help_text="Of the environment that it becomes.")
    ref = forms.CharField(
        max_length=255,
        required=False,
        label="Version",
        help_text="Branch, tag or commit. Empty: the tip of the first one's branch.",
    )
    uses = forms.ChoiceField(
        label="Data",
        widget=forms.RadioSelect,
        initial="shared",
        choices=[
            ("shared", f"The first one's database. {second.begin_consequences(shared=True)}"),
            ("copy", f"A copy of its own, made now. {second.begin_consequences(shared=False)}"),
        ],
    )


@dataclass(frozen=True)
class Version:
    """A column of the comparison."""

    title: str
    environment: Environment
    live: Deployment | None
    share: int
    figures: Figures | None

    def percent(self, count: int) -> str:
        if not self.figures or not self.figures.requests:
            return ""
        return f"{100 * count / self.figures.requests:.1f} %"

    @property
    def median(self) -> str:
        return f"{1000 * self.figures.median:.0f} ms" if self.figures else ""

    @property
    def p95(self) -> str:
        return f"{1000 * self.figures.p95:.0f} ms" if self.figures else ""

    @property
    def failed(self) -> str:
        return self.percent(self.figures.failed) if self.figures else ""

    @property
    def refused(self) -> str:
        return self.percent(self.figures.refused) if self.figures else ""


class VersionsActs(ActsOnObjects):
    acts = [Act("versions", "projects.split_environment", methods=("GET", "POST"))]

    def versions(self, request: HttpRequest, environment: Environment) -> HttpResponse | None:
        """GET shows both, and with `share` or `keep` what that would do; POST does it."""
        try:
            split = second.split_of(environment)
        except NotPossible:
            return self._set_up(request, environment)
        if request.method == "POST":
            return self._act(request, environment, split)
        if "share" in request.GET:
            share = _percent(request.GET["share"])
            title = f"Lead {share} % of the clients to {split.environment}"
            return self._ask(request, environment, split, title, second.consequences(split, share), share=share)
        if keep := request.GET.get("keep"):
            if keep not in (Split.Ending.FIRST, Split.Ending.SECOND):
                raise NotPossible("Keep the first or the second version.")
            kept = split.environment if keep == Split.Ending.SECOND else split.environment.second_of
            said = second.end_consequences(split, keep)
            return self._ask(request, environment, split, f"Keep {kept}", said, keep=keep)
        return self._compare(request, environment, split)

    def _set_up(self, request: HttpRequest, environment: Environment) -> HttpResponse:
        form = SecondForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            said = form.cleaned_data
            deployment = second.begin(
                environment, said["name"], who(request), ref=said["ref"].strip(), shared=said["uses"] == "shared"
            )
            self.log_change(request, environment, f"Second version {deployment.environment} set up.")
            messages.success(request, f"{deployment.environment} is being deployed beside {environment}.")
            return self._to_versions(environment)
        context = self.page(request, environment, "Second version", environment=environment, form=form)
        return TemplateResponse(request, PAGE, context, status=400 if form.errors else 200)

    def _compare(self, request: HttpRequest, environment: Environment, split: Split) -> HttpResponse:
        there = split.environment
        first = there.second_of
        assert first is not None  # noqa: S101 - a split is of a second version
        problem, figures = "", {}
        try:
            figures = runtime_for(first.server).edge.figures(split.mark)
        except ExpectedError as error:
            problem = error.message
        versions = [
            Version("First", first, second.live_of(first), 100 - split.share, figures.get("first")),
            Version("Second", there, second.live_of(there), split.share, figures.get("second")),
        ]
        last = there.deployments.first()
        context = self.page(
            request,
            environment,
            "Two versions",
            environment=environment,
            split=split,
            versions=versions,
            figures=figures,
            figures_problem=problem,
            last=last if last and not last.live else None,
        )
        return TemplateResponse(request, PAGE, context)

    def _ask(
        self, request: HttpRequest, environment: Environment, split: Split, title: str, said: str, **wanted: Any
    ) -> HttpResponse:
        context = self.page(request, environment, title, environment=environment, split=split, said=said, **wanted)
        return TemplateResponse(request, CONFIRM, context)

    def _act(self, request: HttpRequest, environment: Environment, split: Split) -> HttpResponse:
        try:
            if keep := request.POST.get("keep", ""):
                second.end(split, keep, who(request))
                told = f"Two versions end, the {keep} one stays."
            else:
                share = _percent(request.POST.get("share", ""))
                problem = second.lead(split, share, who(request))
                told = f"{share} % of the clients are led to {split.environment}."
                if problem:
                    messages.warning(request, problem)
        except NotPossible as error:
            messages.error(request, " ".join(filter(None, (error.message, error.advice))))
        else:
            self.log_change(request, split.environment.second_of or environment, told)
            messages.success(request, told)
        return self._to_versions(environment)

    def _to_versions(self, environment: Environment) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:projects_environment_versions", args=[environment.pk]))


def _percent(text: str) -> int:
    if not text.isdecimal() or len(text) > 3:
        raise NotPossible("Say how many percent, as a whole number.")
    return int(text)


def known(environment: Environment) -> dict[str, Any]:
    """For the environment's own page."""
    there = environment if environment.second_of_id else environment.beside
    split = Split.objects.filter(environment=there).first() if there else None
    return {"split": split, "other_version": environment.second_of or environment.beside}
