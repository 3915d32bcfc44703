"""The cast: Acme, a client whose Odoo runs in production and staging, on a simulated server unless told otherwise."""

from typing import Any

from deployments.models import Deployment
from deployments.states import Status, Trigger
from instances.models import Instance
from projects.models import Environment, Project, Server


def server(**fields: Any) -> Server:
    defaults = {"name": "Sim", "kind": Server.Kind.SIMULATED}
    slug = fields.pop("slug", "sim")
    return Server.objects.get_or_create(slug=slug, defaults=defaults | fields)[0]


def project(**fields: Any) -> Project:
    return Project.objects.create(**({"name": "Acme", "slug": "acme"} | fields))


def environment(**fields: Any) -> Environment:
    """Production of Acme, with its one instance."""
    fields.setdefault("project", None)
    fields["project"] = fields["project"] or Project.objects.filter(slug="acme").first() or project()
    fields.setdefault("server", None)
    fields["server"] = fields["server"] or server()
    defaults = {"name": "Production", "slug": "production", "kind": Environment.Kind.PRODUCTION, "branch": "main"}
    made = Environment.objects.create(**(defaults | fields))
    Instance.ensure_first(made)
    return made


def deployment(environment: Environment, **fields: Any) -> Deployment:
    """A row, without having been run."""
    defaults = {"trigger": Trigger.PUSH, "requester": "ada", "ref": "main", "status": Status.SUCCEEDED}
    return Deployment.objects.create(environment=environment, **(defaults | fields))
