"""The settings that a deployment uses, frozen at its start, with who set them."""

from dataclasses import dataclass
from typing import Any

from deployments.models import Deployment
from instances.models import Instance
from projects.inheritance import EDGE_SETTINGS, SECRET_SETTINGS, effective
from projects.models import Environment


@dataclass(frozen=True)
class Frozen:
    """Plain values, secrets included; lives in a worker's memory only."""

    base_image: str
    environment: dict[str, Any]
    instances: dict[str, dict[str, Any]]

    def instance(self, slug: str) -> dict[str, Any]:
        return self.instances.get(slug, self.environment)

    @property
    def wanted_modules(self) -> list[str] | None:
        """What the instances, which share a database, want together; None: all that the repository has."""
        wanted = [values["custom_modules"] for values in self.instances.values()]
        if any("*" in names for names in wanted):
            return None
        return sorted({name for names in wanted for name in names})

    @property
    def secrets(self) -> list[str]:
        holders = [self.environment, *self.instances.values()]
        return [value for holder in holders for value in holder["secret_variables"].values()]


def freeze(deployment: Deployment) -> Frozen:
    """Write the settings as they apply now, or as they applied then for a rollback, into the deployment's row."""
    environment = deployment.environment
    instances = list(environment.instances.select_related("environment__project"))
    public: dict[str, Any] = {
        "base_image": environment.base_image,
        "branch": environment.branch,
        "environment": _readable(environment),
        "instances": {instance.slug: _readable(instance) for instance in instances},
    }
    secret = {
        "environment": _secret(environment),
        "instances": {instance.slug: _secret(instance) for instance in instances},
    }
    then = deployment.rollback_to
    if then is not None and then.configuration:
        public = _as_then(public, then.configuration)
        secret = _as_then(secret, then.secret_variables or {})
    deployment.configuration, deployment.secret_variables = public, secret
    deployment.save(update_fields=["configuration", "secret_variables"])
    return thaw(deployment)


def thaw(deployment: Deployment) -> Frozen:
    """What was frozen, from the row."""
    public, secret = deployment.configuration, deployment.secret_variables or {}
    return Frozen(
        base_image=public["base_image"],
        environment=_plain(public["environment"], secret.get("environment", {})),
        instances={
            slug: _plain(readable, secret.get("instances", {}).get(slug, {}))
            for slug, readable in public["instances"].items()
        },
    )


def _readable(holder: Environment | Instance) -> dict[str, Any]:
    return {
        name: {
            "value": sorted(setting.value) if name in SECRET_SETTINGS else setting.value,
            "origin": str(setting.origin),
            "entries": {key: str(origin) for key, origin in setting.entries.items()},
        }
        for name, setting in effective(holder).items()
        if name not in EDGE_SETTINGS
    }


def _secret(holder: Environment | Instance) -> dict[str, Any]:
    wanted = SECRET_SETTINGS - set(EDGE_SETTINGS)
    return {name: setting.value for name, setting in effective(holder).items() if name in wanted}


def _plain(readable: dict[str, Any], secret: dict[str, Any]) -> dict[str, Any]:
    return {name: entry["value"] for name, entry in readable.items()} | {name: {} for name in SECRET_SETTINGS} | secret


def _as_then(now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """As it was, for the instances that there are today."""
    return now | then | {"instances": {slug: then["instances"].get(slug, of) for slug, of in now["instances"].items()}}
