"""An environment's page for locking it."""

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from deployments import locking
from deployments.admin.who import who
from ocore.admin_acts import Act, ActsOnObjects
from projects.models import Environment

LOCK = "deployments.lock_environment"


class LockForm(forms.Form):
    reason = forms.CharField(
        max_length=locking.MOST_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
        help_text="Everybody reads it whose deployment waits.",
    )


class LockActs(ActsOnObjects):
    acts = [Act("lock", LOCK, methods=("GET", "POST")), Act("unlock", LOCK)]

    def lock(self, request: HttpRequest, environment: Environment) -> HttpResponse | None:
        """GET asks for the reason, POST locks."""
        form = LockForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            row = locking.lock(environment, who(request), form.cleaned_data["reason"])
            self.log_change(request, environment, f"Locked: {row.reason}")
            messages.success(request, f"{environment} is locked.")
            return None
        context = self.page(request, environment, "Lock", environment=environment, form=form)
        return TemplateResponse(request, "admin/projects/environment/lock.html", context)

    def unlock(self, request: HttpRequest, environment: Environment) -> None:
        locking.unlock(environment, who(request))
        self.log_change(request, environment, "Unlocked.")
        messages.success(request, f"{environment} is unlocked.")
