"""Azure DevOps' service hook: no signature. The secret is the password of HTTP Basic authentication, or a header of
one's own, `X-oCore-Token`. The event stands in the body."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from django.core.exceptions import ValidationError

from projects.git.address import Address

from . import proof, reading
from .api import Api
from .base import Push, RefChange, Setup, Unreadable
from .statuses import Credentials, Place, Report, State, cut, host_of, parts_of

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
        deploy_key="it takes no ed25519 keys, and only keys of persons. Use an https:// address with a personal access "
        "token that may read code.",
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


class AzureDevOpsStatuses:
    token_note = "a personal access token with the scope Code (status)"  # noqa: S105
    has_deployments = False
    _STATES: Mapping[State, str] = {
        "pending": "pending",
        "running": "pending",
        "success": "succeeded",
        "failure": "failed",
        "error": "error",
        "cancelled": "notApplicable",
        "skipped": "notApplicable",
    }
    _VERSION = "api-version=7.1"

    def place(self, repository: Address, base: str) -> Place:
        """`…/<organisation>/<project>/_git/<repository>`; by ssh `v3/<organisation>/<project>/<repository>`. A project
        whose only repository has its name may be missing."""
        parts = parts_of(repository)
        if repository.scheme == "ssh" and parts[:1] == ["v3"] and len(parts) == 4:
            return Place(base or f"https://dev.azure.com/{quote(parts[1])}", (parts[2], parts[3]))
        if "_git" not in parts[:-1]:
            raise ValidationError("The repository's address has no “_git”, so its project at Azure DevOps is unknown.")
        at = parts.index("_git")
        before, name = parts[:at], parts[at + 1]
        collection = self._collection(repository, before)
        usual = "/".join([host_of(repository), *map(quote, collection)])
        project = before[len(collection) :]
        return Place(base or usual, (project[-1] if project else name, name))

    @staticmethod
    def _collection(repository: Address, before: list[str]) -> list[str]:
        host = repository.host.lower()
        if host == "dev.azure.com":
            return before[:1]
        if host.endswith(".visualstudio.com"):
            return before[:1] if before[:1] == ["DefaultCollection"] else []
        return before[:-1]

    def headers(self, credentials: Credentials) -> Mapping[str, str]:
        """Any user's name will do beside the token."""
        return Credentials(credentials.token, "ocore").basic

    def send(self, api: Api, place: Place, report: Report) -> str:
        project, name = (quote(part, safe="") for part in place.repository)
        genre, _, rest = report.context.partition("/")
        status = {
            "state": self._STATES[report.state],
            "description": cut(report.description),
            "targetUrl": report.url,
            "context": {"genre": genre, "name": rest},
        }
        path = f"/{project}/_apis/git/repositories/{name}/commits/{report.commit}/statuses?{self._VERSION}"
        api.post(path, status)
        return ""
