"""The test of a connection: whether oCore gets into a repository now, what is in the way, which branches it lacks."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from projects.git import Deadlines, GitError, Trouble
from projects.models import Environment, Project
from projects.repository_access import RepositoryAccess

DEADLINES = Deadlines(total=20, silence=15)
"""A person waits for it; asking what a key of the host is may add as much."""
LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `words` say what was found, `trouble` what is wrong in a few plain words."""

    what: str
    words: str
    trouble: str = ""
    advice: str = ""
    detail: str = ""

    @property
    def good(self) -> bool:
        return not self.trouble


def check_project(project: Project) -> list[Finding]:
    """The project's repository with the branch of each environment, then its further repositories."""
    environments = Environment.objects.filter(project=project).exclude(branch="").select_related("project")
    began = time.monotonic()
    found = check(project, [(str(one), one.branch) for one in environments])
    for repository in project.repositories.select_related("project"):
        left = DEADLINES.total - (time.monotonic() - began)
        if left < LEAST_SECONDS:
            return [*found, Finding(f"{repository}", "There was no time left to ask it.", Trouble.NO_CONNECTION)]
        branches = [(str(repository), repository.branch)] if repository.branch else []
        deadlines = Deadlines(total=left, silence=min(left, DEADLINES.silence))
        found += check(repository, branches, what=f"Connection of {repository}", deadlines=deadlines)
    return found


def check(
    repository: RepositoryAccess,
    branches: Iterable[tuple[str, str]],
    *,
    what: str = "Connection",
    deadlines: Deadlines | None = None,
) -> list[Finding]:
    """`branches` are pairs: whose, and which. Takes `deadlines.total` at most and a little more; changes nothing here
    or there. Only the newest deploy key counts, so that one knows whether it has been pasted."""
    wanted = list(branches)
    place = Path(settings.STATE_DIR) / "mirrors" / "never-made"
    try:
        access = repository.access(newest_key_only=True)
        there = repository.mirror_in(place, access=access, deadlines=deadlines or DEADLINES).branches(
            {name for _, name in wanted}
        )
    except GitError as error:
        return [Finding(what, error.message, error.trouble, error.advice, error.detail)]
    told = [Finding(what, f"oCore may read {repository.repository_url}{_by_what(repository)}.")]
    return told + [_branch(whose, name, there.get(name, "")) for whose, name in wanted]


def _by_what(repository: RepositoryAccess) -> str:
    if repository.over_ssh:
        return ", by its deploy key" if repository.deploy_key else ", by an ssh key of the portal's own account"
    return ", with its token" if repository.repository_token else ", which is open to everybody"


def _branch(whose: str, name: str, sha: str) -> Finding:
    what = f"Branch “{name}” of {whose}"
    if sha:
        return Finding(what, f"It is at commit {sha[:10]}.")
    return Finding(
        what,
        "The repository has no such branch.",
        Trouble.NO_REF,
        "Push the branch, or correct the git branch of the environment.",
    )
