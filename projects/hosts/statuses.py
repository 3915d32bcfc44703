"""What a git host is told of a deployment, in every host's words the same, and where."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import quote, unquote, urlsplit

from django.core.exceptions import ValidationError

from projects.git.address import Address

from .api import Api

State = Literal["pending", "running", "success", "failure", "error", "cancelled", "skipped"]
LONGEST = 140
"""Characters of a description: GitHub takes no more."""


@dataclass(frozen=True)
class Report:
    """One status of one commit."""

    state: State
    commit: str
    context: str
    """What tells it from other systems' statuses, and one environment from another."""
    description: str
    """For readers of the git host, who need not be allowed to see anything here: no error, no name of a server."""
    url: str
    """Of the deployment's page."""
    ref: str = ""
    """The branch or tag, by its short name; "" where only a commit was asked for."""
    environment: str = ""
    environment_url: str = ""
    """Only of a public one."""
    production: bool = False
    deployment: int = 0
    speaks: bool = True
    """Its own outcome, or that of the one that counts, stands beside the commit; else a newer deployment's does, and
    only what the host has as a deployment of its own is told."""
    deployment_state: State | None = None
    """Of the host's own deployment, where it has those and is to be told of them."""
    remote_id: str = ""
    """What the host calls that deployment, once it has one."""
    again: bool = False
    """An earlier attempt may have come through."""


@dataclass(frozen=True)
class Place:
    """A repository at its host's API."""

    base: str
    repository: tuple[str, ...]
    """The parts by which the API's paths name it, unescaped."""

    @property
    def path(self) -> str:
        return "/".join(quote(part, safe="~") for part in self.repository)

    @property
    def name(self) -> str:
        return "/".join(self.repository)


@dataclass(frozen=True)
class Credentials:
    token: str
    username: str = ""

    @property
    def basic(self) -> dict[str, str]:
        pair = self.token if not self.username and ":" in self.token else f"{self.username}:{self.token}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class Statuses(Protocol):
    """A git host's side of it. `send` raises `StatusNotTaken`, and nothing else for what the host answers."""

    token_note: str
    """What the token must be allowed."""
    has_deployments: bool

    def place(self, repository: Address, base: str) -> Place:
        """Where its API is, `base` if that is given, else as follows from the repository's own address. Raises
        `ValidationError`."""

    def headers(self, credentials: Credentials) -> Mapping[str, str]: ...

    def send(self, api: Api, place: Place, report: Report) -> str:
        """The id of the host's own deployment, "" without one."""


def parts_of(repository: Address) -> list[str]:
    """The repository's path, piece by piece."""
    path = unquote(repository.path.strip("/")).removesuffix(".git")
    return [part for part in path.split("/") if part]


def owner_and_name(repository: Address) -> tuple[str, str]:
    """Raises `ValidationError`."""
    parts = parts_of(repository)
    if len(parts) < 2:
        raise ValidationError("The repository's address does not say whose it is, so its host cannot be told of it.")
    return parts[-2], parts[-1]


def host_of(repository: Address) -> str:
    """`https://host`, with the port where https is how the repository is reached itself."""
    port = f":{repository.port}" if repository.port and repository.scheme == "https" else ""
    return f"https://{repository.host.lower()}{port}"


def below(repository: Address, base: str, api: str) -> list[str]:
    """The repository's parts without those of the folder in which its host is served: its API's address has it too."""
    folder = [part for part in urlsplit(base).path.removesuffix("/").removesuffix(api).split("/") if part]
    parts = parts_of(repository)
    return parts[len(folder) :] if folder and parts[: len(folder)] == folder else parts


def cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def as_github_takes_it(report: Report, state: str) -> dict[str, str]:
    """A commit status for GitHub, and for those whose API is made after it."""
    description = cut(report.description)
    return {"state": state, "target_url": report.url, "description": description, "context": report.context}
