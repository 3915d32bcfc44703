"""GitHub's webhook: HMAC-SHA256 of the raw body in `X-Hub-Signature-256`, JSON or a form around it.

The signature is the only proof; the SHA-1 one beside it is not looked at. `create` and `delete` events come together
with a `push` of the same ref, so only the push counts.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import proof, reading
from .base import Push, RefChange, Setup, Unreadable


class GitHub:
    name = "github"
    title = "GitHub"
    setup = Setup("the repository's Settings → Webhooks → Add webhook")

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        proof.check_signature(body, headers, secrets, "X-Hub-Signature-256")

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read(body, headers)
        event = reading.identifier(headers, "X-GitHub-Event") or _event_of(document)
        pushed = event == "push"
        changes = reading.each(_change, [document] if pushed else ())
        repository = reading.mapping(document, "repository")
        sender = reading.mapping(document, "sender")
        heads = [reading.mapping(document, "head_commit")] if pushed else []
        return Push(
            kind="ping" if event == "ping" else reading.kind_of(changes),
            event=event,
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name=_full_name(repository),
            urls=reading.addresses(*reading.texts(repository, "clone_url", "ssh_url", "git_url", "html_url", "url")),
            pusher=(reading.text(reading.mapping(document, "pusher"), "name") or reading.text(sender, "login"))
            if pushed
            else "",
            commits=reading.commits_of([*reading.listed(document, "commits"), *heads]) if pushed else (),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """GitHub's own id, which it keeps when it delivers again; the body's digest should it be missing."""
        return reading.identifier(headers, "X-GitHub-Delivery") or reading.body_id(body)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        body = json.dumps({"zen": "Sent by oCore, to see whether it arrives.", "hook_id": 0}).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return body, {
            "X-GitHub-Event": "ping",
            "X-GitHub-Delivery": delivery_id,
            "X-Hub-Signature-256": f"sha256={digest}",
        }


def _event_of(document: Mapping[str, Any]) -> str:
    """From the body's shape."""
    if "zen" in document:
        return "ping"
    return "push" if "ref" in document and ("after" in document or "head_commit" in document) else "unknown"


def _full_name(repository: Mapping[str, Any]) -> str:
    """`owner/name`; old payloads only have the parts."""
    owner = reading.mapping(repository, "owner")
    parts = (reading.text(owner, "login") or reading.text(owner, "name"), reading.text(repository, "name"))
    return reading.text(repository, "full_name") or ("/".join(parts) if all(parts) else "")


def _change(document: Mapping[str, Any]) -> RefChange:
    """`after` is the tag object of an annotated tag; `head_commit` is always the commit."""
    ref = reading.ref_name(document, "ref")
    before = reading.earlier_id(document, "before")
    after = reading.commit_id(document, "after", required=False)
    head = reading.commit_id(reading.mapping(document, "head_commit"), "id", required=False)
    deleted = document.get("deleted") is True
    if not (after or head or deleted):
        raise Unreadable("neither “after” nor “head_commit” is a commit id")
    change = reading.moved(ref, before, after, head, deleted=deleted, forced=document.get("forced") is True)
    return replace(change, created=change.created or (document.get("created") is True and not change.deleted))
