"""The admin's pages that know deployments: what runs where, what is being done, and the buttons that do it."""

from deployments.admin import deliveries, deployments, environments, instances, projects, servers, snapshots

__all__ = ["deliveries", "deployments", "environments", "instances", "projects", "servers", "snapshots"]
