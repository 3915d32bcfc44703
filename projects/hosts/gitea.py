"""Gitea's webhook, and of its kin Forgejo and Gogs: HMAC-SHA256 in a header of their own, without a prefix, of the
JSON, also where a form is around it.

They send GitHub's headers too, and without a secret they send empty signatures: their own header decides. A deleted ref
is told by `delete` alone; a new one by `create` and by a push, so `create` is left alone.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from projects.git.address import Address

from . import proof, reading
from .api import Api
from .base import Push, RefChange, Refused, Setup, Unreadable
from .statuses import Credentials, Place, Report, State, as_github_takes_it, host_of, owner_and_name, parts_of

_LONG = {"branch": "refs/heads/", "tag": "refs/tags/"}
_KIN = ("Gitea", "Gogs", "GitHub")
"""Whose headers each of them sends as well: for what was kept of a delivery without its own."""


class Gitea:
    name = "gitea"
    title = "Gitea"
    prefix = "Gitea"
    """Of its headers: `X-Gitea-Event`, `-Delivery`, `-Signature`."""
    setup = Setup(
        "the repository's Settings → Webhooks → Add webhook → Gitea",
        url_label="Target URL",
        events="Push events",
        note="Gitea calls only addresses that its ALLOWED_HOST_LIST ([webhook] in app.ini) allows; private ones must "
        "be named there.",
        deploy_key="the repository's Settings → Deploy Keys → Add Deploy Key; without write access.",
    )

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        try:
            content = proof.signed_part(body, headers)
        except Unreadable as error:
            raise Refused(error.reason) from None
        proof.check_signature(content, headers, secrets, f"X-{self.prefix}-Signature", "")

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read(body, headers)
        names = (f"X-{prefix}-Event" for prefix in (self.prefix, *_KIN))
        event = next(filter(None, (reading.identifier(headers, name) for name in names)), "") or _event_of(document)
        moves = event == "push" or (event == "delete" and reading.text(document, "ref_type") in _LONG)
        changes = reading.each(partial(_change, event), [document] if moves else ())
        repository = reading.mapping(document, "repository")
        pushed = event == "push"
        heads = [reading.mapping(document, "head_commit")] if pushed else []
        return Push(
            kind="ping" if event == "ping" else reading.kind_of(changes),
            event=event,
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name=reading.text(repository, "full_name"),
            urls=reading.addresses(*reading.texts(repository, "clone_url", "ssh_url", "html_url")),
            pusher=(_name(document, "pusher") or _name(document, "sender")) if pushed else "",
            commits=reading.commits_of([*reading.listed(document, "commits"), *heads]) if pushed else (),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        return reading.identifier(headers, f"X-{self.prefix}-Delivery") or reading.body_id(body)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        sha = reading.SAMPLE
        document = {"ref": "refs/heads/main", "before": sha, "after": sha, "commits": [], "pusher": {"login": "oCore"}}
        body = json.dumps(document).encode()
        return body, {
            f"X-{self.prefix}-Event": "push",
            f"X-{self.prefix}-Delivery": delivery_id,
            f"X-{self.prefix}-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
        }


def _event_of(document: Mapping[str, Any]) -> str:
    """From the body's shape."""
    if "ref" in document and "after" in document:
        return "push"
    if "ref_type" in document:
        return "delete" if "pusher_type" in document else "create"
    return "unknown"


def _change(event: str, document: Mapping[str, Any]) -> RefChange:
    ref = reading.ref_name(document, "ref")
    if event == "delete":
        prefix = "" if ref.startswith("refs/") else _LONG[reading.text(document, "ref_type")]
        return reading.moved(prefix + ref, "", "", deleted=True)
    before = reading.earlier_id(document, "before")
    after = reading.commit_id(document, "after", required=False)
    commit = reading.commit_id(reading.mapping(document, "head_commit"), "id", required=False)
    if not (after or commit):
        raise Unreadable("“after” is not a commit id")
    # Newer ones name the commit of an annotated tag; of a branch what it is at counts.
    return reading.moved(ref, before, after, commit if ref.startswith("refs/tags/") or not after else "")


def _name(document: Mapping[str, Any], key: str) -> str:
    return reading.first_text(reading.mapping(document, key), "login", "username", "name")


class GiteaStatuses:
    """Also Forgejo's."""

    token_note = "an access token with the scope write:repository"  # noqa: S105
    has_deployments = False
    _STATES: Mapping[State, str] = {
        "pending": "pending",
        "running": "pending",
        "success": "success",
        "failure": "failure",
        "error": "error",
        "cancelled": "warning",
        "skipped": "warning",
    }

    def place(self, repository: Address, base: str) -> Place:
        parts = parts_of(repository) if repository.scheme == "https" else []
        usual = "/".join([host_of(repository), *parts[:-2], "api/v1"])
        return Place(base or usual, owner_and_name(repository))

    def headers(self, credentials: Credentials) -> Mapping[str, str]:
        return {"Authorization": f"token {credentials.token}"}

    def send(self, api: Api, place: Place, report: Report) -> str:
        status = as_github_takes_it(report, self._STATES[report.state])
        api.post(f"/repos/{place.path}/statuses/{report.commit}", status)
        return ""
