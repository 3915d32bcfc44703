"""A project's repository as a bare mirror on the portal's machine."""

from pathlib import Path

from django.conf import settings

from projects.git import Mirror
from projects.models import Project


def mirror_of(project: Project) -> Mirror:
    return Mirror(
        project.repository_url,
        Path(settings.STATE_DIR) / "mirrors" / f"{project.slug}.git",
        username=project.repository_username,
        token=project.repository_token,
    )
