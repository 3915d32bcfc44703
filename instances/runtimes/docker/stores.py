"""Volumes and networks: made with our label, found by name, removed only when they carry it."""

from collections.abc import Mapping
from typing import Any

from docker.errors import APIError, NotFound

from instances.runtimes.base import NAMESPACE_LABEL, RunFailed, ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.ownership import in_namespace

CONFLICT = 409


class DockerStores:
    def __init__(self, spec: ServerSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine

    def _refuse(self, kind: str, name: str) -> RunFailed:
        return RunFailed(
            f"The {kind} {name} on {self.engine.name} does not belong to “{self.spec.namespace}”: it is left alone.",
            advice=f"Rename or remove that {kind}, or give this installation another OCORE_NAMESPACE.",
        )

    def find_volume(self, name: str) -> dict[str, str] | None:
        """Its labels; None where there is none."""
        with self.engine.translated(f"look for the volume {name}"):
            try:
                raw: dict[str, Any] = self.engine.api.inspect_volume(name)
            except NotFound:
                return None
        return dict(raw.get("Labels") or {})

    def list_volumes(self) -> list[str]:
        """Names of those that carry our label."""
        filters = {"label": [f"{NAMESPACE_LABEL}={self.spec.namespace}"]}
        with self.engine.translated("list the volumes"):
            found = self.engine.api.volumes(filters=filters).get("Volumes") or []
        return sorted(str(raw["Name"]) for raw in found)

    def ensure_volume(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Raises `RunFailed` when another's volume has that name."""
        found = self.find_volume(name)
        if found is None:
            ours = {**(labels or {}), NAMESPACE_LABEL: self.spec.namespace}
            with self.engine.translated(f"create the volume {name}"):
                self.engine.api.create_volume(name, labels=ours)
            found = self.find_volume(name)
        if not in_namespace(found, self.spec.namespace):
            raise self._refuse("volume", name)

    def remove_volume(self, name: str) -> None:
        """Gone, with what is in it. `RunFailed` when it is another's, or a container still has it."""
        found = self.find_volume(name)
        if found is None:
            return
        if not in_namespace(found, self.spec.namespace):
            raise self._refuse("volume", name)
        with self.engine.translated(f"remove the volume {name}"):
            try:
                self.engine.api.remove_volume(name)
            except NotFound:
                return

    def find_network(self, name: str) -> dict[str, Any] | None:
        with self.engine.translated(f"look for the network {name}"):
            # By name through the list: an id that begins like the name would be found otherwise.
            networks: list[dict[str, Any]] = self.engine.api.networks(names=[name])
        return next((network for network in networks if network["Name"] == name), None)

    def ensure_network(self, name: str) -> None:
        """A bridge of ours."""
        found = self.find_network(name)
        if found is None:
            with self.engine.translated(f"create the network {name}"):
                try:
                    self.engine.api.create_network(
                        name, driver="bridge", check_duplicate=True, labels={NAMESPACE_LABEL: self.spec.namespace}
                    )
                except APIError as error:  # another process was faster
                    if error.status_code != CONFLICT:
                        raise
            found = self.find_network(name)
        if found is None or not in_namespace(found.get("Labels"), self.spec.namespace):
            raise self._refuse("network", name)
