"""A deployment as it happens: what its page shows at first, and what changes on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models.functions import Length
from django.http import HttpRequest
from django.template.loader import render_to_string

from deployments import log_reading
from deployments.log_reading import chunks
from deployments.models import Deployment, Step
from deployments.states import FORWARD, StepKind
from ocore.ansi import plain, to_html

PAGE_CHARACTERS = 300_000
"""Of log on the page at first; all of it can be downloaded."""


@dataclass(frozen=True)
class Stop:
    """One place in the row of steps, been at or not."""

    kind: StepKind
    step: Step | None

    @property
    def label(self) -> str:
        return str(self.kind.label)


@dataclass
class StepLogPart:
    stop: Stop
    html: str = ""


def stops(deployment: Deployment) -> list[Stop]:
    """The five steps, and the rollback when there is one."""
    rows = {step.kind: step for step in deployment.steps.all()}
    kinds = [*FORWARD, *([StepKind.ROLLBACK] if StepKind.ROLLBACK in rows else [])]
    return [Stop(kind, rows.get(kind)) for kind in kinds]


def first_look(deployment: Deployment) -> dict[str, Any]:
    """The log so far, its beginning left out if it is long; `offset` is where the polling goes on."""
    listed = list(chunks(deployment).order_by("-pk").values_list("pk", Length("text")))
    shown: list[int] = []
    total = 0
    for pk, length in listed:
        if shown and total + length > PAGE_CHARACTERS:
            break
        shown.append(pk)
        total += length
    texts: dict[str, list[str]] = {}
    if shown:
        for chunk in chunks(deployment).filter(pk__gte=shown[-1], pk__lte=shown[0]):
            texts.setdefault(chunk.step.kind, []).append(chunk.text)
    kinds = [Stop(kind, None) for kind in StepKind]
    return {
        "logs": [StepLogPart(stop, to_html("".join(texts.get(stop.kind, [])))) for stop in kinds],
        "offset": shown[0] if shown else 0,
        "cut": len(shown) < len(listed),
    }


def news(request: HttpRequest, deployment: Deployment, offset: int, context: dict[str, Any]) -> dict[str, Any]:
    """What has been written since `offset`, and the page's changing parts."""
    found = log_reading.since(deployment, offset)
    return {
        "status": deployment.status,
        "status_words": deployment.get_status_display(),
        "final": deployment.final,
        "offset": found.offset,
        "more": found.more,
        "log": [{"step": part.step, "html": to_html(part.text)} for part in found.parts],
        "head": render_to_string("admin/deployments/deployment/_head.html", context, request),
        "steps": render_to_string("admin/deployments/deployment/_steps.html", context, request),
        "controls": render_to_string("admin/deployments/deployment/_controls.html", context, request),
    }


def whole_text(deployment: Deployment) -> Iterator[str]:
    """All of the log, plain."""
    last = ""
    for chunk in chunks(deployment).iterator(chunk_size=50):
        if chunk.step.kind != last:
            last = chunk.step.kind
            yield f"\n--- {chunk.step.get_kind_display()} ---\n"
        yield plain(chunk.text)
