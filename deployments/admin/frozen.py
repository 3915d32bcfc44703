"""A deployment's frozen configuration, for reading."""

from collections.abc import Mapping
from typing import Any

from deployments.models import Deployment
from ocore.forms import KEPT
from projects.inheritance import SECRET_SETTINGS, SETTINGS, display
from projects.models import Project


def frozen_tables(deployment: Deployment) -> list[tuple[str, list[dict[str, Any]]]]:
    """The environment's settings, and of each instance those that differ from them."""
    configuration = deployment.configuration
    if not configuration:
        return []
    whole = configuration["environment"]
    tables = [("Environment", _rows(whole))]
    for slug, settings in configuration["instances"].items():
        own = {name: entry for name, entry in settings.items() if entry != whole.get(name)}
        if own:
            tables.append((f"Instance {slug}", _rows(own)))
    return tables


def _rows(settings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "label": Project._meta.get_field(name).verbose_name,  # type: ignore[union-attr]
            "value": display(name, entry["value"]),
            "origin": entry["origin"],
            "own": False,
            "entries": [
                (key, KEPT if name in SECRET_SETTINGS else entry["value"][key], origin, False)
                for key, origin in sorted(entry.get("entries", {}).items())
            ],
        }
        for name, entry in settings.items()
        if name in SETTINGS
    ]
