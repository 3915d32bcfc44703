"""Where the settings of an environment have moved on since what runs was started: due at the next deployment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.models import Deployment
from projects.inheritance import SECRET_SETTINGS, display, effective
from projects.models import Environment

AT_ONCE = frozenset({"auto_deploy", "skip_words", "deploy_paths"})
"""Settings that are looked up when a push arrives, and don't wait for a deployment."""


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
    found = _base_image(environment, frozen)
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
