"""Where the settings of an environment have moved on since what runs was started: due at the next deployment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments import further
from deployments.models import Deployment
from projects.inheritance import SECRET_SETTINGS, display, effective
from projects.models import Environment

AT_ONCE = frozenset({"auto_deploy", "skip_words", "deploy_paths"})
"""Settings that are looked up when a push arrives, and don't wait for a deployment."""


REPOSITORIES = "further repositories"


@dataclass(frozen=True)
class Difference:
    holder: str
    """Name of the environment or instance whose setting it is."""
    label: str
    running: str
    next: str
    origin: str
    """Who sets the next one."""


def drift(environment: Environment, live: Deployment | None) -> list[Difference]:
    """Between the live deployment's frozen settings and those that apply now. Secrets are told apart, never shown."""
    if live is None or not live.configuration:
        return []
    frozen, secrets = live.configuration, live.secret_variables or {}
    found = _base_image(environment, frozen) + _repositories(environment, live)
    of_environment = _differences(environment, frozen["environment"], secrets.get("environment", {}))
    found += of_environment
    known = {(one.label, one.next) for one in of_environment}
    for instance in environment.instances.all():
        # One that was added since, by scaling, runs with its environment's settings.
        then = frozen["instances"].get(instance.slug) or (frozen["environment"] if instance.container else None)
        if then is None:
            found.append(Difference(str(instance.name), "instance", "not there", "is started", "its row"))
            continue
        own = _differences(instance, then, secrets.get("instances", {}).get(instance.slug, {}))
        found += [one for one in own if (one.label, one.next) not in known]
    return found


def _base_image(environment: Environment, frozen: Mapping[str, Any]) -> list[Difference]:
    now, then = environment.base_image, frozen.get("base_image", "")
    return [] if now == then else [Difference(environment.name, "base image", then, now, "version and image")]


def _repositories(environment: Environment, live: Deployment) -> list[Difference]:
    """What is asked for of the further ones, and not where their branches are by now: that nobody has looked up."""
    project = environment.project
    if not project.repository_url:
        return []
    now, then = list(project.repositories.all()), further.taken(live)
    wanted = [(one.name, one.repository_url, one.folder, one.asks) for one in now]
    # Where a row names no branch, whichever was found is the right one.
    named = {one.name: one.asks for one in now}
    had = [(one.name, one.url, one.folder, one.asked if named.get(one.name, "?") else "") for one in then]
    if wanted == had:
        return []
    running = ", ".join(f"{one.name} ({one.asked})" for one in then) or "none"
    found = {one.name: one.asked for one in then}
    coming = ", ".join(f"{one.name} ({one.asks or found.get(one.name) or one.follows})" for one in now) or "none"
    if running == coming:
        running, coming = (", ".join(f"{name} ({url} {folder})" for name, url, folder, _ in of) for of in (had, wanted))
    return [Difference(environment.name, REPOSITORIES, running, coming, str(project))]


def _differences(holder: Any, then: Mapping[str, Any], secrets: Mapping[str, Any]) -> list[Difference]:
    found = []
    for name, one in effective(holder).items():
        if name not in then or name in AT_ONCE:
            continue
        if name in SECRET_SETTINGS:
            before, after = secrets.get(name, {}), one.value
            renamed = sorted(before) != sorted(after)
            shown = (display(name, before), display(name, after)) if renamed else ("kept secret", "another secret")
        else:
            before, after = then[name]["value"], json.loads(json.dumps(one.value))
            shown = (display(name, before), display(name, after))
        if before != after:
            found.append(Difference(holder.name, one.label, *shown, str(one.origin)))
    return found
