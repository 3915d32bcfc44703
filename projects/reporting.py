"""Whether, where and as whom a project's git host is told what becomes of its commits. From the project's
configuration alone: what a delivery says of addresses is never asked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError

from ocore.errors import ExpectedError
from projects.git import address
from projects.git.access import CONTROLS
from projects.hosts import STATUSES, Credentials, Place, Statuses
from projects.hosts.api import Api, origin

if TYPE_CHECKING:
    from projects.models import Project

STATUS, DEPLOYMENT = "status", "deployment"
KINDS = {"": "Nothing", STATUS: "Commit statuses", DEPLOYMENT: "Commit statuses and deployments (GitHub)"}
_API_OF = {
    "github.com": "api.github.com",
    "ssh.github.com": "api.github.com",
    "bitbucket.org": "api.bitbucket.org",
    "ssh.dev.azure.com": "dev.azure.com",
}
"""Hosts whose API has another name, and is theirs."""


class CannotTell(ExpectedError):
    """The project's configuration does not say where or as whom its git host is told."""


@dataclass(frozen=True)
class Reporting:
    statuses: Statuses
    place: Place
    credentials: Credentials
    borrowed: bool
    """The token is that of the repository."""

    def api(self) -> Api:
        headers = self.statuses.headers(self.credentials)
        secrets = [self.credentials.token, headers.get("Authorization", "").rpartition(" ")[2]]
        return Api(self.place.base, headers, secrets)


def reporting_of(project: "Project") -> Reporting:
    """Raises `CannotTell`."""
    try:
        place = _place(project)
        credentials, borrowed = _credentials(project, place)
    except ValidationError as error:
        raise CannotTell(" ".join(error.messages), advice="Correct it on the project's page.") from None
    return Reporting(STATUSES[project.host], place, credentials, borrowed)


def check(project: "Project", before: "Project | None") -> None:
    """Raises `ValidationError`, put to the field that has to be changed; `before` is the row as it is stored."""
    if before and before.report_token and before.report_token == project.report_token:
        _check_that_it_stays(project, before)
    if not project.report_to_host:
        return
    try:
        place = _place(project)
    except ValidationError as error:
        raise ValidationError({"report_to_host": error.messages}) from None
    if project.report_to_host == DEPLOYMENT and not STATUSES[project.host].has_deployments:
        raise ValidationError({"report_to_host": f"{project.get_host_display()} has no deployments to be told of."})
    try:
        _credentials(project, place)
    except ValidationError as error:
        raise ValidationError({"report_token": error.messages}) from None


def _check_that_it_stays(project: "Project", before: "Project") -> None:
    """A token that somebody typed for one host is never sent to another one because an address was changed."""
    if _origin(project) != _origin(before):
        raise ValidationError(
            {"report_token": "It was typed for another host. Type one for this host, or empty the field."}
        )


def _origin(project: "Project") -> object:
    """Who gets the token; of what leads nowhere, None."""
    try:
        return origin(_place(project).base)
    except ValidationError:
        return None


def _place(project: "Project") -> Place:
    statuses = STATUSES.get(project.host)
    if statuses is None:
        why = "has no API for it" if project.host == "gogs" else "is none that oCore knows how to tell"
        raise ValidationError(f"{project.get_host_display()} {why}, so it cannot be told.")
    if not project.repository_url:
        raise ValidationError("Without a git repository there is nothing to tell of.")
    repository = address.parse(project.repository_url)
    if repository.scheme == "file":
        raise ValidationError("A folder of this machine is at no git host that could be told.")
    return statuses.place(repository, project.report_url.rstrip("/"))


def _credentials(project: "Project", place: Place) -> tuple[Credentials, bool]:
    own, borrowed = project.report_token.strip(), project.repository_token.strip()
    if not (own or borrowed).isascii() or CONTROLS.search(own or borrowed):
        raise ValidationError("A token has no characters beyond ASCII, and no line break.")
    if own:
        return Credentials(own), False
    repository = address.parse(project.repository_url)
    theirs = origin(place.base) in _own_origins(repository)
    if borrowed and theirs:
        return Credentials(borrowed, project.repository_username.strip()), True
    raise ValidationError(
        f"A token is needed: {STATUSES[project.host].token_note}."
        + ("" if theirs else " The repository's access token is not sent to another host.")
    )


def _own_origins(repository: address.Address) -> set[tuple[str, str, int | None]]:
    """Where the repository's own token may be sent: to its host's API and to nothing else on that machine."""
    host = repository.host.lower()
    port = repository.port if repository.scheme == "https" else None
    api = f"api.{host}" if host.endswith(".ghe.com") else _API_OF.get(host, host)
    return {("https", host, port), ("https", api, None if api != host else port)}
