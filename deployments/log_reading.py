"""A deployment's log as it is read: all of it, or what has been written since an offset."""

from dataclasses import dataclass

from django.db.models import QuerySet

from deployments.models import Deployment, LogChunk

MOST_CHARACTERS = 200_000
"""About so many at once; who wants the rest asks again."""
MOST_CHUNKS = 500


@dataclass
class Part:
    """Text of one step, in one piece."""

    step: str
    text: str


@dataclass(frozen=True)
class News:
    parts: list[Part]
    offset: int
    """The last chunk that it holds: where the next look goes on."""
    more: bool
    """There is more already."""


def chunks(deployment: Deployment) -> QuerySet[LogChunk]:
    return LogChunk.objects.filter(step__deployment=deployment).select_related("step").order_by("pk")


def since(deployment: Deployment, offset: int) -> News:
    parts: list[Part] = []
    characters, more = 0, False
    for read, chunk in enumerate(chunks(deployment).filter(pk__gt=offset)[: MOST_CHUNKS + 1]):
        if characters > MOST_CHARACTERS or read == MOST_CHUNKS:
            more = True
            break
        characters += len(chunk.text)
        offset = chunk.pk
        if parts and parts[-1].step == chunk.step.kind:
            parts[-1].text += chunk.text
        else:
            parts.append(Part(chunk.step.kind, chunk.text))
    return News(parts, offset, more)
