"""Bitbucket Cloud's webhook: HMAC-SHA256 in `X-Hub-Signature` (the name that GitHub uses for SHA-1).

One delivery may move several branches and tags. Names are short, nothing stands for "there is none", and there is no
address to clone from. Bodies from Mercurial times have named branches.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from projects.git.address import Address

from . import proof, reading
from .api import Api
from .base import Push, PushedCommit, RefChange, Setup
from .statuses import Credentials, Place, Report, State, cut, host_of, owner_and_name

_PREFIXES = {
    "branch": "refs/heads/",
    "named_branch": "refs/heads/",
    "tag": "refs/tags/",
    "annotated_tag": "refs/tags/",
}


class BitbucketCloud:
    name = "bitbucket_cloud"
    title = "Bitbucket Cloud"
    setup = Setup(
        "the repository's Repository settings → Webhooks → Add webhook",
        url_label="URL",
        content_type="",
        events="Repository push",
        note="Bitbucket sends nothing, and says so nowhere, where a push's payload is above 256 KB: push fewer refs at "
        "once.",
        deploy_key="the repository's Repository settings → Security → Access keys → Add key; it can only read.",
    )

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        proof.check_signature(body, headers, secrets, "X-Hub-Signature")

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read_json(body)
        event = reading.identifier(headers, "X-Event-Key") or ("repo:push" if "push" in document else "unknown")
        pushed = event == "repo:push"
        moves = reading.listed(reading.mapping(document, "push"), "changes") if pushed else []
        changes = changes_of(moves)
        repository = reading.mapping(document, "repository")
        actor = reading.mapping(document, "actor")
        links = reading.mapping(repository, "links")
        return Push(
            kind="ping" if event == "diagnostics:ping" else reading.kind_of(changes),
            event=event,
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name=reading.text(repository, "full_name"),
            urls=reading.addresses(*(reading.text(reading.mapping(links, key), "href") for key in ("html", "self"))),
            pusher=reading.first_text(actor, "nickname", "username", "display_name") if pushed else "",
            commits=commits_of(moves),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        return reading.identifier(headers, "X-Request-UUID") or reading.body_id(body)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        body = json.dumps({"push": {"changes": []}, "actor": {"nickname": "oCore"}}).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return body, {
            "X-Event-Key": "repo:push",
            "X-Request-UUID": delivery_id,
            "X-Hub-Signature": f"sha256={digest}",
        }


def changes_of(moves: Sequence[Mapping[str, Any]]) -> tuple[RefChange, ...]:
    """What has neither an old nor a new end moved nothing."""
    return reading.each(
        _change, (move for move in moves if reading.mapping(move, "new") or reading.mapping(move, "old"))
    )


def _change(move: Mapping[str, Any]) -> RefChange:
    new, old = reading.mapping(move, "new"), reading.mapping(move, "old")
    end = new or old
    name = reading.ref_name(end, "name")
    before = reading.commit_id(reading.mapping(old, "target"), "hash", required=bool(old))
    after = reading.commit_id(reading.mapping(new, "target"), "hash", required=bool(new))
    ref = _PREFIXES.get(reading.text(end, "type") or "branch", "") + name
    change = reading.moved(ref, before, after, deleted=not new, forced=move.get("forced") is True)
    return replace(change, created=not old)


def commits_of(moves: Sequence[Mapping[str, Any]]) -> tuple[PushedCommit, ...]:
    """The commits that each ref is at, and those listed with it."""
    entries = [
        entry
        for move in moves
        for entry in (reading.mapping(reading.mapping(move, "new"), "target"), *reading.listed(move, "commits"))
    ]
    return reading.commits_of([_with_author(entry) for entry in entries], "hash")


def _with_author(entry: Mapping[str, Any]) -> dict[str, Any]:
    author = reading.mapping(entry, "author")
    user = reading.text(reading.mapping(author, "user"), "display_name")
    name = user or reading.text(author, "raw").partition(" <")[0]
    return dict(entry) | {"author": {"name": name}}


class BitbucketCloudStatuses:
    token_note = "an access token with repository write; or e-mail:token for an API token of an account"  # noqa: S105
    has_deployments = False
    _STATES: Mapping[State, str] = {
        "pending": "INPROGRESS",
        "running": "INPROGRESS",
        "success": "SUCCESSFUL",
        "failure": "FAILED",
        "error": "FAILED",
        "cancelled": "STOPPED",
        "skipped": "STOPPED",
    }
    _LONGEST_KEY = 40
    _USERS_OF_TOKENS = ("x-token-auth", "x-bitbucket-api-token-auth")
    """What git calls whoever comes with a token; the API knows no such user."""

    def place(self, repository: Address, base: str) -> Place:
        known = repository.host.lower() in ("bitbucket.org", "altssh.bitbucket.org")
        usual = "https://api.bitbucket.org/2.0" if known else f"{host_of(repository)}/2.0"
        return Place(base or usual, owner_and_name(repository))

    def headers(self, credentials: Credentials) -> Mapping[str, str]:
        user = credentials.username not in ("", *self._USERS_OF_TOKENS)
        return credentials.basic if user or ":" in credentials.token else credentials.bearer

    def send(self, api: Api, place: Place, report: Report) -> str:
        status = {
            "key": short_key(report.context, self._LONGEST_KEY),
            "name": report.context,
            "state": self._STATES[report.state],
            "url": report.url,
            "description": cut(report.description),
        }
        api.post(f"/repositories/{place.path}/commit/{report.commit}/statuses/build", status)
        return ""


def short_key(context: str, longest: int) -> str:
    """The context, or what stands for it where it is too long to be a key."""
    return context if len(context) <= longest else hashlib.sha256(context.encode()).hexdigest()[:longest]
