"""Whether memory sizes can be together: soft <= hard <= the container's limit <= the server's memory.

Judged by the values that apply in the end, wherever they come from. A limit of Odoo's that is 0 is none.
"""

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ValidationError

from ocore.forms import format_size
from projects.inheritance import Effective, resolve

SIZES = ("limit_memory_soft", "limit_memory_hard", "memory_limit")
NAMES = {
    "limit_memory_soft": "Odoo's soft limit",
    "limit_memory_hard": "Odoo's hard limit",
    "memory_limit": "the container's memory limit",
}
LEAST = 128 * 1024**2
"""Odoo takes more than this by itself: every request would be the last of its worker."""


def check(holder: Any) -> None:
    """Raise a `ValidationError` at the field to correct, of a project, environment or instance that is new or gets
    another size, and of what inherits from it. What is stored already hinders nobody who changes something else."""
    changed = _changed(holder)
    if not changed or not _is_whole(holder):
        return
    wrong = _wrong(holder)
    if wrong:
        raise ValidationError(wrong)
    for heir in _heirs(holder):
        for message in _wrong(heir).values():
            raise ValidationError({changed[0]: f"Of {heir.level} {heir.name}, which inherits from here: {message}"})


def _is_whole(holder: Any) -> bool:
    """Whether all that it inherits from is known: in a form that isn't filled in yet it may not be."""
    while holder is not None:
        if not hasattr(holder, "inherits_from"):
            return False
        holder = holder.inherits_from
    return True


def _wrong(holder: Any) -> dict[str, str]:
    """Field -> what is wrong; the first thing only."""
    soft, hard, limit = (resolve(holder, name) for name in SIZES)
    if not all(isinstance(one.value, int) for one in (soft, hard, limit)):
        return {}  # told at the field itself
    for one in (soft, hard):
        if 0 < one.value < LEAST:
            return {one.name: f"{_told(one)} is too little: at least {format_size(LEAST)}, or 0 for none."}
    for lower, upper in ((soft, hard), (hard, limit), (soft, limit)):
        if lower.value > upper.value > 0:
            return _above(holder, lower, upper)
    server: Any = getattr(getattr(holder, "environment", holder), "server", None)
    memory = server.facts.get("memory_bytes") if server else None
    if server and memory and limit.value > memory:
        return {"memory_limit": f"{_told(limit)} is more than {server.name} has, which is {format_size(memory)}."}
    return {}


def _above(holder: Any, lower: Effective, upper: Effective) -> dict[str, str]:
    """At the one that is set here; where both are, or none is, at the one that is too large."""
    here = [one.name for one in (lower, upper) if getattr(holder, one.name) is not None]
    message = f"{_told(lower)} is above {NAMES[upper.name]} ({upper}). Lower the first or raise the second."
    return {here[0] if len(here) == 1 else lower.name: message}


def _told(one: Effective) -> str:
    name = NAMES[one.name]
    return f"{name[0].upper()}{name[1:]} ({one})"


def _changed(holder: Any) -> list[str]:
    """Which sizes are other than those that are stored; of what is new, all."""
    stored = type(holder)._default_manager.filter(pk=holder.pk).values(*SIZES).first() if holder.pk else None
    return [name for name in reversed(SIZES) if not stored or stored[name] != getattr(holder, name)]


def _heirs(holder: Any) -> Iterator[Any]:
    """Environments and instances below, with the values that the holder is about to have."""
    if holder.pk is None:
        return
    if holder.level == "project":
        for environment in holder.environments.select_related("server").prefetch_related("instances"):
            environment.project = holder
            yield environment
            yield from _heirs(environment)
    elif holder.level == "environment":
        for instance in holder.instances.all():
            instance.environment = holder
            yield instance
