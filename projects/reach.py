"""Whom a changed default reaches, and who overrides it: asked before it is saved."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from projects.inheritance import SECRET_SETTINGS, SETTINGS, Effective, display, resolve
from projects.models import Environment, Project


@dataclass(frozen=True)
class Overrider:
    holder: Any
    value: str

    def __str__(self) -> str:
        return f"{self.holder.level} {self.holder.name} ({self.value})"


@dataclass(frozen=True)
class Change:
    """One setting of a project, and what a new value of it does below."""

    before: Effective
    after: Effective
    reached: list[Environment] = field(default_factory=list)
    overridden_by: list[Overrider] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.after.label

    @property
    def from_to(self) -> tuple[str, str]:
        name = self.after.name
        return display(name, self.before.value), display(name, self.after.value)

    @property
    def secret(self) -> bool:
        return self.after.name in SECRET_SETTINGS


def environments_of(project: Project) -> list[Environment]:
    """With what is needed to resolve their settings, and their instances'."""
    return list(project.environments.select_related("server").prefetch_related("instances"))


def changes(before: Project, after: Project, environments: Sequence[Environment]) -> list[Change]:
    """For each setting that `after` has otherwise than `before`. Both are the same row; neither needs to be saved."""
    found = []
    for name in SETTINGS:
        if getattr(before, name) == getattr(after, name):
            continue
        change = Change(resolve(before, name), resolve(after, name))
        for environment in environments:
            if _values(environment, before, name) != _values(environment, after, name):
                change.reached.append(environment)
        change.overridden_by.extend(overriders(name, environments))
        found.append(change)
    return found


def overriders(name: str, environments: Iterable[Environment]) -> list[Overrider]:
    """Environments and instances that say something of their own."""
    return [
        Overrider(holder, display(name, own))
        for environment in environments
        for holder in (environment, *environment.instances.all())
        if (own := getattr(holder, name, None)) is not None
    ]


def _values(environment: Environment, project: Project, name: str) -> list[Any]:
    """As they apply in the environment and in each of its instances, were its project this one."""
    kept, environment.project = environment.project, project
    try:
        instances = list(environment.instances.all())
        for instance in instances:
            instance.environment = environment
        return [resolve(holder, name).value for holder in (environment, *instances)]
    finally:
        environment.project = kept
