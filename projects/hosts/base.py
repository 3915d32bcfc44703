"""What the git hosts have in common: a webhook's bytes are verified first, then read into a `Push`.

A host's module is chosen by the project's configuration, never by the request's headers (Gitea, Forgejo and Gogs send
GitHub's headers too).
"""

import hashlib
import hmac
import json
import re
import secrets as random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs

Kind = Literal["push", "tag", "delete", "mixed", "ping", "other"]
RefType = Literal["branch", "tag", "other"]

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DUMMY_KEY = random.token_bytes(32)
_MAX_TEXT = 1000
_MAX_NAME = 300
_MAX_COMMITS = 2048
_MAX_URLS = 20


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
    forced: bool = False
    """Known to have dropped commits; hosts that don't tell leave it False."""

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


class Host(Protocol):
    """A git host's side of the webhook. Whatever the bytes are, the verbs raise nothing but what they name."""

    name: str
    title: str

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        """Raises `Refused` unless the body is proven to be from somebody who has one of the secrets. No secret, no
        entry: empty ones never match."""

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        """To be called on verified bytes only. Raises `Unreadable`."""

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """The same for the same delivery sent again, as far as the host lets one know. Unsigned: never proof."""


def header(headers: Mapping[str, str], name: str) -> str:
    """A header's value whatever its case, "" without it."""
    return next((str(value) for key, value in headers.items() if str(key).lower() == name.lower()), "")


def identifier(headers: Mapping[str, str], name: str) -> str:
    """A header that names something: printable ASCII, at most 100 characters, else ""."""
    value = header(headers, name)
    return value if re.fullmatch(r"[!-~]{1,100}", value) else ""


def signed(body: bytes, signature_hex: str, secrets: Iterable[str | None]) -> bool:
    """Whether it is the body's HMAC-SHA256 under one of the secrets. Takes the same way without any, so that neither
    time nor answer tells whether there is one."""
    candidates = [secrets] if isinstance(secrets, str) else secrets
    keys = [secret.encode("utf-8", "surrogatepass") for secret in candidates if secret and secret.strip()]
    given = signature_hex.encode("utf-8", "surrogatepass")
    matches = [
        hmac.compare_digest(hmac.new(key, body, hashlib.sha256).hexdigest().encode(), given)
        for key in keys or [_DUMMY_KEY]
    ]
    return bool(keys) and any(matches)


def form_payload(body: bytes) -> bytes:
    """The JSON in a form-encoded delivery, from the raw bytes."""
    try:
        fields = parse_qs(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20
        )
    except ValueError:
        raise Unreadable("the form cannot be read") from None
    payloads = fields.get("payload", [])
    if len(payloads) != 1:
        raise Unreadable("the form has no single “payload” field")
    return payloads[0].encode("utf-8", "surrogatepass")


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in the body, strictly: UTF-8, no NaN, no number or nesting that Python cannot take."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None
    except ValueError:
        # Bad UTF-8, a byte order mark, bad JSON, NaN, an integer of thousands of digits.
        raise Unreadable("the body is not valid JSON") from None
    if not isinstance(document, dict):
        raise Unreadable("the JSON is not an object")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(name)


def mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object in it, {} for anything else."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def text(document: Mapping[str, Any], key: str) -> str:
    """A text that a person may be shown and a database may store; "" for anything else."""
    value = document.get(key)
    if not isinstance(value, str):
        return ""
    return "".join(character if character.isprintable() else "�" for character in value[:_MAX_NAME])


def subject(document: Mapping[str, Any], key: str) -> str:
    """A commit message's first line."""
    value = document.get(key)
    return text({key: value.strip().split("\n", 1)[0].strip()}, key) if isinstance(value, str) else ""


def ref_name(document: Mapping[str, Any], key: str) -> str:
    """A whole ref. Raises `Unreadable` for what git itself never sends."""
    value = document.get(key)
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise Unreadable(f"“{key}” is not the name of a ref")
    if any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in value):
        raise Unreadable(f"“{key}” contains characters that no ref has")
    return value


def commit_id(document: Mapping[str, Any], key: str, *, required: bool = True) -> str:
    """A whole id of git's, SHA-1 or SHA-256; zeros are one. "" where it may be missing and is."""
    value = document.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or not _COMMIT.fullmatch(value):
        raise Unreadable(f"“{key}” is not a commit id")
    return value


def is_zero(sha: str) -> bool:
    """Whether it stands for "there is none"."""
    return not sha.strip("0")


def split_ref(ref: str) -> tuple[RefType, str]:
    for prefix, kind in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
        if ref.startswith(prefix) and len(ref) > len(prefix):
            return kind, ref.removeprefix(prefix)  # type: ignore[return-value]
    return "other", ref


def addresses(*found: str) -> tuple[str, ...]:
    """Each once, in their order, without the missing ones."""
    return tuple(dict.fromkeys(address for address in found if address))[:_MAX_URLS]


def pushed_commits(listed: Any) -> tuple[PushedCommit, ...]:
    """From a list of `{id, message, author: {name}}`; entries of another form are left out."""
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return tuple(
        PushedCommit(text(entry, "id"), subject(entry, "message"), text(mapping(entry, "author"), "name"))
        for entry in entries[:_MAX_COMMITS]
        if isinstance(entry.get("id"), str) and _COMMIT.fullmatch(entry["id"])
    )


def kind_of(changes: Iterable[RefChange]) -> Kind:
    kinds = {change.kind for change in changes}
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "other"
