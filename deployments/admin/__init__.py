"""The admin's pages that know deployments: what runs where, what is being done, and the buttons that do it."""

from deployments.admin import (
    deliveries,
    deployments,
    domains,
    environments,
    instances,
    projects,
    servers,
    snapshots,
    tokens,
)

__all__ = [
    "deliveries",
    "deployments",
    "domains",
    "environments",
    "instances",
    "projects",
    "servers",
    "snapshots",
    "tokens",
]
