"""For anything that is none of the others, such as a post-receive hook or a CI system: a small JSON body of our own,
HMAC-SHA256 of its raw bytes in `X-oCore-Signature-256: sha256=<hex>`, and if wanted an id in `X-oCore-Delivery`.

    {"ref": "refs/heads/main", "before": "<sha>", "after": "<sha>", "repository": "acme/addons", "pusher": "ann",
     "message": "Fix the tax"}

`before`, `repository`, `pusher` and `message` may be missing; `commit` names the commit of an annotated tag; zeros as
`after` delete. Several refs stand in a list `changes`. `{"ping": true}` asks whether the way is open.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import proof, reading
from .base import Push, PushedCommit, RefChange, Setup

SIGNATURE_HEADER, DELIVERY_HEADER = "X-oCore-Signature-256", "X-oCore-Delivery"


class Generic:
    name = "generic"
    title = "Any other, signed"
    setup = Setup(
        "whatever calls it: a post-receive hook, a CI system, a script",
        url_label="URL",
        events="POST; one call per push",
        note=f"Sign the body's bytes: the header {SIGNATURE_HEADER} is “sha256=” and their HMAC-SHA256 with the "
        "secret, in hexadecimal digits. What the body says: docs/git-hosts.md.",
        deploy_key="the file .ssh/authorized_keys of the account that serves the repository, with “restrict” in front.",
    )

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        proof.check_signature(body, headers, secrets, SIGNATURE_HEADER)

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read_json(body)
        moves = reading.listed(document, "changes") or ([document] if "ref" in document else [])
        pairs = [(change, move) for move in moves for change in reading.each(_change, [move])]
        changes = tuple(change for change, _ in pairs)
        ping = not changes and document.get("ping") is True
        repository = reading.text(document, "repository")
        return Push(
            kind="ping" if ping else reading.kind_of(changes),
            event="ping" if ping else "push" if changes else "unknown",
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name="" if "://" in repository else repository,
            urls=reading.addresses(repository if "://" in repository else ""),
            pusher=reading.text(document, "pusher") if changes else "",
            commits=tuple(_commit(change, move) for change, move in pairs if change.head),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """Without one nothing tells a second push of the same from the first sent again; then the commit decides."""
        return reading.identifier(headers, DELIVERY_HEADER)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        body = json.dumps({"ping": True}).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return body, {DELIVERY_HEADER: delivery_id, SIGNATURE_HEADER: f"sha256={digest}"}


def _change(move: Mapping[str, Any]) -> RefChange:
    return reading.moved(
        reading.ref_name(move, "ref"),
        reading.earlier_id(move, "before"),
        reading.commit_id(move, "after"),
        reading.commit_id(move, "commit", required=False),
        forced=move.get("forced") is True if "forced" in move else None,
    )


def _commit(change: RefChange, move: Mapping[str, Any]) -> PushedCommit:
    words = reading.message(move, "message")
    return PushedCommit(change.head, reading.subject(move, "message"), reading.text(move, "author"), words)
