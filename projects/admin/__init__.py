"""Forms and pages of servers, projects and environments, as far as this app knows them.

Each is registered where all that its page shows is known: servers in `instances.admin`, projects and environments in
`deployments.admin`.
"""
