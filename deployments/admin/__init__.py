"""The admin's pages that know deployments: what runs where, what is being done, and the buttons that do it."""

from deployments.admin import deliveries, deployments, domains, environments, instances, projects, servers, snapshots

__all__ = ["deliveries", "deployments", "domains", "environments", "instances", "projects", "servers", "snapshots"]
