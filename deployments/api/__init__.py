"""The HTTP API, for CI systems and other programs: docs/api.md."""

from deployments.api.openapi import Api
from deployments.api.routes import acts, deployments, environments, projects, records

api = Api()
for routes in (projects, environments, acts, deployments, records):
    api.add_router("", routes.router)

__all__ = ["api"]
