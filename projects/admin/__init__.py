"""Forms and pages of servers, projects and environments, as far as this app knows them.

Each is registered where all that its page shows is known: host keys here, servers in `instances.admin`, projects and
environments in `deployments.admin`.
"""

from projects.admin import known_hosts

__all__ = ["known_hosts"]
