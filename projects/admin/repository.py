"""On a project's page: how oCore gets into its repository, the deploy key to paste, and the test of the connection."""

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from ocore.admin_acts import Act, ActsOnObjects
from projects.admin.known_hosts import host_url
from projects.connection import check_project
from projects.git import address, host_keys
from projects.models import Project

REPOSITORY_ACTS = [
    Act("make-deploy-key", "projects.make_deploy_key"),
    Act("remove-deploy-key", "projects.make_deploy_key"),
    Act("test-connection", "projects.test_repository"),
]


class GetsIntoRepository(ActsOnObjects):
    """The acts of `REPOSITORY_ACTS`; what the card shows besides the project is `access_context`."""

    def make_deploy_key(self, request: HttpRequest, project: Project) -> None:
        first = not project.deploy_key
        project.make_deploy_key()
        self.log_change(request, project, "Deploy key made." if first else "New deploy key made.")
        besides = "" if first else " The old one is tried besides for a while, so that nothing fails meanwhile."
        messages.success(request, f"There is a new deploy key. Paste its public half at the git host.{besides}")

    def remove_deploy_key(self, request: HttpRequest, project: Project) -> None:
        project.remove_deploy_key()
        self.log_change(request, project, "Deploy key removed.")
        messages.success(request, "The deploy key is removed. Remove it at the git host too.")

    def test_connection(self, request: HttpRequest, project: Project) -> HttpResponse | None:
        if not project.repository_url:
            messages.info(request, "There is no repository to connect to.")
            return None
        findings = check_project(project)
        context = self.page(request, project, "Connection", findings=findings, **access_context(project))
        return TemplateResponse(request, "admin/projects/project/connection.html", context)


def access_context(project: Project) -> dict[str, str]:
    """Where the keys of an ssh address' host are reviewed."""
    if not project.over_ssh:
        return {}
    try:
        found = address.parse(project.repository_url)
    except ValidationError:
        return {}
    host = host_keys.place(found.host, found.port)
    return {"ssh_host": host, "host_keys_url": host_url(host)}
