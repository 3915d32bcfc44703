"""The page that explains where a ref would go, and why not elsewhere: a rehearsal of what decides when it is pushed."""

from typing import Any

from django import forms
from django.http import HttpRequest

from deployments import intake
from projects.hosts import Push, PushedCommit
from projects.hosts.reading import ZERO, moved, split_ref
from projects.models import Project

BEFORE, AFTER = "0" * 39 + "1", "0" * 39 + "2"
"""Commits that nobody has deployed."""
_PREFIXES = {"branch": "refs/heads/", "tag": "refs/tags/"}


class Question(forms.Form):
    """Any ref and event that somebody types."""

    event = forms.ChoiceField(
        label="What happens",
        choices=[
            ("moved", "It is pushed to"),
            ("created", "It is created"),
            ("deleted", "It is deleted"),
            ("test", "The git host's test button"),
            ("ping", "A ping"),
            ("other", "Another event, such as a merge request"),
        ],
    )
    kind = forms.ChoiceField(label="Of", choices=[("branch", "a branch"), ("tag", "a tag")])
    name = forms.CharField(
        label="Name", max_length=255, help_text="Such as main, release/17.1 or v1.0; or whole, as refs/notes/x."
    )
    message = forms.CharField(
        label="Message of its head commit",
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2, "cols": 60}),
        help_text="Only what asks to be skipped matters.",
    )

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise forms.ValidationError("No ref has such characters.")
        return name

    def push(self) -> Push:
        asked = self.cleaned_data
        ref = asked["name"] if asked["name"].startswith("refs/") else _PREFIXES[asked["kind"]] + asked["name"]
        if asked["event"] in ("ping", "other"):
            return Push("ping" if asked["event"] == "ping" else "other", asked["event"], "")
        before, after = {
            "moved": (BEFORE, AFTER),
            "created": (ZERO, AFTER),
            "deleted": (BEFORE, ZERO),
            "test": (BEFORE, BEFORE),
        }[asked["event"]]
        change = moved(ref, before, after)
        commit = PushedCommit(change.head, "", "", asked["message"])
        return Push(change.kind, "push", "", (change,), commits=(commit,))


def answered(request: HttpRequest, project: Project) -> dict[str, Any]:
    """The form, and what comes of it once it is filled in."""
    form = Question(request.GET if "name" in request.GET else None, initial={"kind": "branch"})
    if not form.is_bound or not form.is_valid():
        return {"form": form}
    push = form.push()
    decision = intake.rehearse(project, push)
    kind, name = split_ref(push.changes[0].ref) if push.changes else ("", "")
    return {
        "form": form,
        "decision": decision,
        "reached": decision.outcome,
        "unreached": intake.unreached(project, push),
        "asked": f"{kind} {name}" if name else push.event,
    }
