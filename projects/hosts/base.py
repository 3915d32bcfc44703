"""What the git hosts have in common: a webhook's bytes are verified first, then read into a `Push`.

A host's module is chosen by the project's configuration, never by the request's headers (Gitea, Forgejo and Gogs send
GitHub's headers too).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Kind = Literal["push", "tag", "delete", "mixed", "ping", "other"]
RefType = Literal["branch", "tag", "other"]


class WebhookError(Exception):
    """`reason` is for the delivery's record; what the sender is told is the intake's to decide."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Refused(WebhookError):
    """It isn't proven that the project's git host sent this."""


class Unreadable(WebhookError):
    """It is proven, and isn't what that host sends."""


@dataclass(frozen=True)
class RefChange:
    """One branch or tag that was created, moved or deleted."""

    ref: str
    """As git has it, `refs/heads/main`."""
    type: RefType
    name: str
    """The branch or tag; the whole ref for `other`."""
    before: str
    after: str
    head: str
    """The commit to deploy; "" on deletion. For an annotated tag `after` is the tag object, this its commit."""
    created: bool = False
    deleted: bool = False
    forced: bool | None = False
    """Known to have dropped commits; None: the host doesn't tell."""

    @property
    def kind(self) -> Kind:
        if self.deleted:
            return "delete"
        return {"branch": "push", "tag": "tag", "other": "other"}[self.type]  # type: ignore[return-value]


@dataclass(frozen=True)
class PushedCommit:
    sha: str
    subject: str
    author: str
    message: str = field(default="", compare=False)
    """All of it: what asks to be skipped may stand at its end."""


@dataclass(frozen=True)
class Push:
    """What a delivery says, in every host's words the same. The addresses in it only help to recognise the repository:
    nothing is ever cloned from them."""

    kind: Kind
    event: str
    """As the host calls it."""
    delivery_id: str
    changes: tuple[RefChange, ...] = ()
    full_name: str = ""
    urls: tuple[str, ...] = ()
    pusher: str = ""
    commits: tuple[PushedCommit, ...] = ()

    @property
    def tests_only(self) -> bool:
        """Whether nothing moved: what the button "Test" of GitLab, Gitea and their kin sends."""
        return bool(self.changes) and all(change.after and change.before == change.after for change in self.changes)


@dataclass(frozen=True)
class Setup:
    """What a person types where, at the git host, so that it calls the webhook."""

    path: str
    """The pages to click through."""
    url_label: str = "Payload URL"
    secret_label: str = "Secret"  # noqa: S105 - a label
    content_type: str = "application/json"
    """As the form there calls it; empty where it doesn't ask."""
    events: str = "Just the push event"
    note: str = ""
    deploy_key: str = ""
    """Where the public half of a deploy key is pasted, and with which rights."""


class Host(Protocol):
    """A git host's side of the webhook. Whatever the bytes are, the verbs raise nothing but what they name."""

    name: str
    title: str
    setup: Setup

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        """Raises `Refused` unless the body is proven to be from somebody who has one of the secrets. No secret, no
        entry: empty ones never match."""

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        """To be called on verified bytes only. Raises `Unreadable`."""

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """The same for the same delivery sent again, as far as the host lets one know. Unsigned: never proof."""

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers of a ping, or of a push that moves nothing, as that host would send and prove it."""
