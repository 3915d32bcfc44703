"""Bitbucket Data Center's webhook: HMAC-SHA256 in `X-Hub-Signature`.

One delivery may move several refs. Older ones (Server, Stash) have no address to clone from; the repository is known by
the key of its project and its slug. `mirror:repo_synchronized` repeats what `repo:refs_changed` has told.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from projects.git.address import Address

from . import proof, reading
from .api import Api, StatusNotTaken
from .base import Push, PushedCommit, RefChange, Setup
from .bitbucket_cloud import changes_of as changes_as_in_the_cloud
from .bitbucket_cloud import commits_of as commits_as_in_the_cloud
from .statuses import Credentials, Place, Report, State, cut, host_of, owner_and_name, parts_of

_PUSHES = ("repo:refs_changed", "repo:push")


class BitbucketServer:
    name = "bitbucket_server"
    title = "Bitbucket Data Center"
    setup = Setup(
        "the repository's Repository settings → Webhooks → Create webhook",
        url_label="URL",
        content_type="",
        events="Repository: Push",
        note="“Test connection” there must answer 200.",
        deploy_key="the repository's Repository settings → Access keys → Add key, with the permission Read.",
    )

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        proof.check_signature(body, headers, secrets, "X-Hub-Signature")

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read_json(body)
        event = reading.identifier(headers, "X-Event-Key") or _event_of(document)
        pushed = event in _PUSHES
        changes = _changes(document) if pushed else ()
        repository = _repository(document)
        actor = reading.mapping(document, "actor")
        links = reading.mapping(repository, "links")
        found = [reading.text(link, "href") for kind in ("clone", "self") for link in reading.listed(links, kind)]
        return Push(
            kind="ping" if event == "diagnostics:ping" else reading.kind_of(changes),
            event=event,
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name=_full_name(repository),
            urls=reading.addresses(*found),
            pusher=reading.first_text(actor, "name", "username", "slug", "displayName") if pushed else "",
            commits=_commits(document) if pushed else (),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        return reading.identifier(headers, "X-Request-Id") or reading.body_id(body)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        body = json.dumps({"test": True}).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return body, {
            "X-Event-Key": "diagnostics:ping",
            "X-Request-Id": delivery_id,
            "X-Hub-Signature": f"sha256={digest}",
        }


def _event_of(document: Mapping[str, Any]) -> str:
    """The body's own word, which older ones don't have; else its shape."""
    if document.get("test") is True:
        return "diagnostics:ping"
    pushed = any(key in document for key in ("changes", "refChanges", "push"))
    return reading.text(document, "eventKey") or (_PUSHES[0] if pushed else "unknown")


def _changes(document: Mapping[str, Any]) -> tuple[RefChange, ...]:
    """Stash's old plugin says `refChanges`; another one speaks as Bitbucket Cloud does."""
    if "push" in document:
        return changes_as_in_the_cloud(reading.listed(reading.mapping(document, "push"), "changes"))
    moves = reading.listed(document, "changes") or reading.listed(document, "refChanges")
    return reading.each(_change, moves)


def _change(move: Mapping[str, Any]) -> RefChange:
    ref = reading.ref_name(move, "refId") if "refId" in move else reading.ref_name(reading.mapping(move, "ref"), "id")
    before, kind = reading.earlier_id(move, "fromHash"), move.get("type")
    change = reading.moved(ref, before, reading.commit_id(move, "toHash"), deleted=kind == "DELETE")
    return replace(change, created=change.created or (kind == "ADD" and not change.deleted))


def _commits(document: Mapping[str, Any]) -> tuple[PushedCommit, ...]:
    if "push" in document:
        return commits_as_in_the_cloud(reading.listed(reading.mapping(document, "push"), "changes"))
    return reading.commits_of([reading.mapping(document, "toCommit"), *reading.listed(document, "commits")])


def _repository(document: Mapping[str, Any]) -> dict[str, Any]:
    """Where it stands; in a pull request's event, the one that it is for."""
    target = reading.mapping(reading.mapping(document, "pullRequest"), "toRef")
    return reading.mapping(document, "repository") or reading.mapping(target, "repository")


def _full_name(repository: Mapping[str, Any]) -> str:
    parts = (reading.text(reading.mapping(repository, "project"), "key"), reading.text(repository, "slug"))
    return "/".join(parts) if all(parts) else ""


class BitbucketServerStatuses:
    """Version 7.4 and above know a build by its repository; older ones by its commit alone, with fewer states."""

    token_note = "an HTTP access token with “Repository read”"  # noqa: S105
    has_deployments = False
    _STATES: Mapping[State, str] = {
        "pending": "INPROGRESS",
        "running": "INPROGRESS",
        "success": "SUCCESSFUL",
        "failure": "FAILED",
        "error": "FAILED",
        "cancelled": "CANCELLED",
        "skipped": "CANCELLED",
    }
    _LONGEST_KEY = 255

    def place(self, repository: Address, base: str) -> Place:
        parts = parts_of(repository)
        folder = parts[: parts.index("scm")] if "scm" in parts[:-2] else []
        usual = "/".join([host_of(repository), *folder, "rest"])
        return Place(base or usual, owner_and_name(repository))

    def headers(self, credentials: Credentials) -> Mapping[str, str]:
        return credentials.basic if credentials.username or ":" in credentials.token else credentials.bearer

    def send(self, api: Api, place: Place, report: Report) -> str:
        project, slug = (quote(part, safe="~") for part in place.repository)
        status = {
            "key": report.context[: self._LONGEST_KEY],
            "name": report.context,
            "state": self._STATES[report.state],
            "url": report.url,
            "description": cut(report.description),
        }
        path = f"/api/latest/projects/{project}/repos/{slug}/commits/{report.commit}/builds"
        try:
            api.post(path, status, answers=False)
        except StatusNotTaken as error:
            if not _is_older(error):
                raise
            state = "FAILED" if status["state"] == "CANCELLED" else status["state"]
            api.post(f"/build-status/1.0/commits/{report.commit}", status | {"state": state}, answers=False)
        return ""


def _is_older(error: StatusNotTaken) -> bool:
    """Whether it does not know the way, rather than the project, the repository or the commit."""
    if error.code != 404:
        return error.code == 405
    document = error.answer if isinstance(error.answer, dict) else {}
    names = [reading.text(one, "exceptionName") for one in reading.listed(document, "errors")]
    return not any(name.startswith("com.atlassian.bitbucket.") for name in names)
