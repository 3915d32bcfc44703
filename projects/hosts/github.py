"""GitHub's webhook: HMAC-SHA256 of the raw body in `X-Hub-Signature-256`, JSON or a form around it.

The signature is the only proof; the SHA-1 one beside it is not looked at. `create` and `delete` events come together
with a `push` of the same ref, so only the push counts.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import base
from .base import Push, RefChange, Refused, Unreadable

_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")
_FORM = "application/x-www-form-urlencoded"


class GitHub:
    name = "github"
    title = "GitHub"

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        signature = base.header(headers, "X-Hub-Signature-256")
        match = _SIGNATURE.fullmatch(signature)
        proven = base.signed(body, match[1] if match else "0" * 64, secrets)
        if not signature:
            raise Refused("the signature (X-Hub-Signature-256) is missing")
        if not match:
            raise Refused("the signature (X-Hub-Signature-256) is not “sha256=” and 64 hexadecimal digits")
        if not proven:
            raise Refused("the signature doesn't match the project's webhook secret")

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        event = base.identifier(headers, "X-GitHub-Event")
        if not event:
            raise Unreadable("the event (X-GitHub-Event) is missing")
        form = base.header(headers, "Content-Type").partition(";")[0].strip().lower() == _FORM
        document = base.read_json(base.form_payload(body) if form else body)
        changes = (_change(document),) if event == "push" else ()
        repository = base.mapping(document, "repository")
        sender = base.mapping(document, "sender")
        return Push(
            kind="ping" if event == "ping" else base.kind_of(changes),
            event=event,
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name=_full_name(repository),
            urls=base.addresses(
                *(base.text(repository, key) for key in ("clone_url", "ssh_url", "git_url", "html_url", "url"))
            ),
            pusher=(base.text(base.mapping(document, "pusher"), "name") or base.text(sender, "login"))
            if event == "push"
            else "",
            commits=base.pushed_commits(document.get("commits")) if event == "push" else (),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """GitHub's own id, which it keeps when it delivers again; the body's digest should it be missing."""
        return base.identifier(headers, "X-GitHub-Delivery") or f"sha256:{hashlib.sha256(body).hexdigest()}"


def _full_name(repository: Mapping[str, Any]) -> str:
    """`owner/name`; old payloads only have the parts."""
    owner = base.mapping(repository, "owner")
    parts = (base.text(owner, "login") or base.text(owner, "name"), base.text(repository, "name"))
    return base.text(repository, "full_name") or ("/".join(parts) if all(parts) else "")


def _change(document: Mapping[str, Any]) -> RefChange:
    ref = base.ref_name(document, "ref")
    kind, name = base.split_ref(ref)
    after = base.commit_id(document, "after")
    before = base.commit_id(document, "before", required=False)
    deleted = base.is_zero(after) or document.get("deleted") is True
    head = "" if deleted else after
    if kind == "tag" and not deleted:
        # `after` is the tag object of an annotated tag.
        head = base.commit_id(base.mapping(document, "head_commit"), "id", required=False) or after
    return RefChange(
        ref=ref,
        type=kind,
        name=name,
        before=before,
        after=after,
        head=head,
        created=not deleted and (base.is_zero(before) if before else document.get("created") is True),
        deleted=deleted,
        forced=document.get("forced") is True,
    )
