"""The further repositories of a deployment: each is resolved to a commit once, and written down with it. What goes back
to an earlier deployment, or deploys it again, takes that one's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.models import Deployment
from deployments.run import Run, Stage
from instances.build_plan import Tree
from instances.odoo.versions import series
from projects.git import Commit, GitError, Mirror, MirrorDamaged, UnknownRef
from projects.mirrors import mirror_of
from projects.models import Repository
from projects.validators import is_commit_id

Log = Callable[[str], None]
BRANCHES, TAGS = "refs/heads/", "refs/tags/"
WHOLE_ID = (40, 64)
"""Characters of a commit id that is not abbreviated."""
OTHER_CHOICE = "Choose a branch or pin of it on the project's page, in “Further repositories”; then deploy again."


class RepositoryGone(GitError):
    default_advice = (
        "Add it to the project again, by the same name; or go back to a deployment whose image is still there."
    )


@dataclass(frozen=True)
class Taken:
    """A further repository as a deployment has it."""

    name: str
    url: str
    asked: str
    """The branch or pin that led to the commit."""
    commit: str
    subject: str = ""
    folder: str = ""

    @property
    def short_commit(self) -> str:
        return self.commit[:10]

    @property
    def asked_by_name(self) -> str:
        """Empty where a commit was asked for."""
        return "" if self.commit.startswith(self.asked) else self.asked

    @property
    def identity(self) -> str:
        """What of it makes another image."""
        return f"{self.name} {self.commit} {self.folder}"

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.short_commit, self.asked_by_name)))


def taken(deployment: Deployment) -> list[Taken]:
    """In their order; none before they are known."""
    return [Taken(**row) for row in deployment.repositories or ()]


def identity(deployment: Deployment) -> list[str]:
    return [one.identity for one in taken(deployment)]


def settle(stage: Stage) -> None:
    """From here on it is on record which commit of each goes into the image. Raises `GitError`."""
    run = stage.run
    if run.deployment.repositories is None:
        rows = run.environment.project.repositories.select_related("project")
        found = [_resolved(run, row, stage.log) for row in rows]
        run.save(repositories=[asdict(one) for one in found])
    for one in taken(run.deployment):
        stage.log(f"With {one}" + (f" “{one.subject}”" if one.subject else ""))


def export(stage: Stage, folder: Path) -> list[Tree]:
    """The files of each in a folder of its own below this one. Raises `GitError`."""
    rows = {row.name: row for row in stage.run.environment.project.repositories.select_related("project")}
    trees = []
    for one in taken(stage.run.deployment):
        if one.name not in rows:
            raise RepositoryGone(
                f"{stage.run.deployment} has the commit {one.short_commit} of the further repository “{one.name}” "
                f"({one.url}), which {stage.run.environment.project} has no more."
            )
        with _named(one.name):
            mirror = mirror_of(rows[one.name])
            if not _has(mirror, one.commit):
                mirror.fetch(stage.log, commit=one.commit)
            mirror.export(one.commit, folder / one.name, stage.log)
        trees.append(Tree(one.name, folder / one.name, one.folder))
    return trees


def _resolved(run: Run, row: Repository, log: Log) -> Taken:
    with _named(row.name):
        mirror = mirror_of(row)
        asked, commit = _pinned(mirror, row, log) if row.pin else _newest(mirror, row, _branches(run, row), log)
    return Taken(row.name, row.repository_url, asked, commit.sha, commit.subject, row.folder)


def _branches(run: Run, row: Repository) -> list[str]:
    """Where none is named, that of the Odoo version comes first: a client's “master” is not Odoo's. A repository of the
    client's own has none of that name, and the same branches as the first."""
    if row.branch:
        return [row.branch]
    version = series(run.config.environment["odoo_version"]).name
    deployed = (run.deployment.ref, run.environment.branch)
    return list(dict.fromkeys([version, *(ref for ref in deployed if ref and not ref.startswith("refs/"))]))


def _newest(mirror: Mirror, row: Repository, branches: Sequence[str], log: Log) -> tuple[str, Commit]:
    mirror.fetch(log)
    for branch in branches:
        with suppress(UnknownRef):
            return branch, mirror.resolve(BRANCHES + branch)
    named = " or ".join(f"“{branch}”" for branch in branches)
    raise UnknownRef(f"{row.repository_url} has no branch {named}.", advice=OTHER_CHOICE)


def _pinned(mirror: Mirror, row: Repository, log: Log) -> tuple[str, Commit]:
    """Git is asked once: from then on the row says which commit it is."""
    whole = row.pin.lower() if len(row.pin) in WHOLE_ID and is_commit_id(row.pin) else ""
    known = row.pinned_commit or whole
    if not (known and _has(mirror, known)):
        mirror.fetch(log, commit=known)
    commit = mirror.resolve(known) if known else _meant(mirror, row)
    if not row.pinned_commit:
        same = Repository.objects.filter(pk=row.pk, repository_url=row.repository_url, pin=row.pin)
        same.update(pinned_commit=commit.sha)
    return row.pin, commit


def _meant(mirror: Mirror, row: Repository) -> Commit:
    with suppress(UnknownRef):
        return mirror.resolve(TAGS + row.pin)
    if is_commit_id(row.pin):
        return mirror.resolve(row.pin.lower())
    raise UnknownRef(f"{row.repository_url} has no tag “{row.pin}”.", advice=OTHER_CHOICE)


def _has(mirror: Mirror, commit: str) -> bool:
    """Without asking the remote; a damaged copy has nothing, and is made anew by the next fetch."""
    try:
        return mirror.path.exists() and mirror.has(commit)
    except MirrorDamaged:
        return False


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Which one of several it is that something is wrong with."""
    try:
        yield
    except GitError as error:
        message = f"The further repository “{name}”: {error.message}"
        raise type(error)(message, detail=error.detail, advice=error.advice) from None
