"""Acme on a simulated server: its addon, a client who writes, and what there is to see."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from deployments.models import Deployment, LogChunk
from deployments.services import Who
from instances.runtimes import runtime_for
from ocore.locks import file_lock
from projects.models import Environment

ADA = Who("ada")


def addon(version: str = "1.0") -> dict[str, str]:
    """The files of Acme's one addon."""
    manifest = f"{{'name': 'Notes', 'version': '{version}', 'depends': ['base']}}\n"
    return {"acme_notes/__manifest__.py": manifest, "acme_notes/__init__.py": ""}


class Client:
    """Writes through the edge and remembers what was accepted."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.edge: Any = runtime_for(environment.server).edge
        self.accepted: list[str] = []

    def write(self, text: str) -> bool:
        accepted = self.edge.write(self.environment.hostname, text)
        if accepted:
            self.accepted.append(text)
        return bool(accepted)

    @property
    def found(self) -> list[str]:
        return list(self.edge.rows(self.environment.database))


def running(environment: Environment) -> list[str]:
    containers = runtime_for(environment.server).containers.list({"io.ocore.role": "odoo"})
    return sorted(one.name for one in containers if one.running)


def log_of(deployment: Deployment) -> str:
    return "".join(LogChunk.objects.filter(step__deployment=deployment).values_list("text", flat=True))


def simulated(change: Callable[[Any], Any]) -> Any:
    """Look at the simulated server's whole state, or change it by hand."""
    path = Path(settings.STATE_DIR) / "simulated" / "sim.json"
    with file_lock(path.with_suffix(".lock")):
        state = json.loads(path.read_text())
        answer = change(state)
        path.write_text(json.dumps(state))
    return answer
