"""Azure DevOps' service hook: no signature. The secret is the password of HTTP Basic authentication, or a header of
one's own, `X-oCore-Token`. The event stands in the body."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import proof, reading
from .base import Push, RefChange, Setup, Unreadable

TOKEN_HEADER = "X-oCore-Token"  # noqa: S105 - its name


class AzureDevOps:
    name = "azure_devops"
    title = "Azure DevOps"
    setup = Setup(
        "the project's Project settings → Service hooks → Create subscription → Web Hooks",
        url_label="URL",
        secret_label="Basic authentication password",  # noqa: S106 - a label
        content_type="",
        events="Trigger: Code pushed; choose the repository, leave the branch at [Any]",
        note="Any user name will do. Azure DevOps demands https:// for Basic authentication; instead of it, a line "
        f"“{TOKEN_HEADER}: <the secret>” under HTTP headers proves the same. Set “Resource details to send” to All.",
    )

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        if reading.header(headers, TOKEN_HEADER):
            proof.check_token(headers, secrets, TOKEN_HEADER)
        else:
            proof.check_password(headers, secrets)

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read_json(body)
        resource = reading.mapping(document, "resource")
        event = reading.text(document, "eventType") or ("git.push" if "refUpdates" in resource else "unknown")
        pushed = event == "git.push"
        changes = reading.each(_change, reading.listed(resource, "refUpdates") if pushed else ())
        repository = reading.mapping(resource, "repository") or reading.mapping(
            reading.mapping(resource, "pullRequest"), "repository"
        )
        pusher = reading.mapping(resource, "pushedBy")
        return Push(
            kind=reading.kind_of(changes),
            event=event,
            delivery_id=_id_of(document) or reading.body_id(body),
            changes=changes,
            full_name=_full_name(repository),
            urls=reading.addresses(*reading.texts(repository, "remoteUrl", "url")),
            pusher=(reading.text(pusher, "uniqueName") or reading.text(pusher, "displayName")) if pushed else "",
            commits=reading.commits_of(reading.listed(resource, "commits"), "commitId", "comment") if pushed else (),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """In the body: the event's id, the same for each subscription and each attempt."""
        try:
            return _id_of(reading.read_json(body)) or reading.body_id(body)
        except Unreadable:
            return reading.body_id(body)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        sha = reading.SAMPLE
        update = {"name": "refs/heads/main", "oldObjectId": sha, "newObjectId": sha}
        document = {"id": delivery_id, "eventType": "git.push", "resource": {"refUpdates": [update]}}
        password = base64.b64encode(f"ocore:{secret}".encode()).decode()
        return json.dumps(document).encode(), {"Authorization": f"Basic {password}"}


def _id_of(document: Mapping[str, Any]) -> str:
    return reading.identifier({"id": reading.text(document, "id")}, "id")


def _change(update: Mapping[str, Any]) -> RefChange:
    return reading.moved(
        reading.ref_name(update, "name"),
        reading.earlier_id(update, "oldObjectId"),
        reading.commit_id(update, "newObjectId"),
    )


def _full_name(repository: Mapping[str, Any]) -> str:
    parts = (reading.text(reading.mapping(repository, "project"), "name"), reading.text(repository, "name"))
    return "/".join(parts) if all(parts) else ""
