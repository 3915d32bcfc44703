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
from urllib.parse import quote

from projects.git.address import Address

from . import proof, reading
from .api import Api, StatusNotTaken
from .base import Push, RefChange, Setup, Unreadable
from .statuses import Credentials, Place, Report, State, as_github_takes_it, cut, host_of, owner_and_name


class GitHub:
    name = "github"
    title = "GitHub"
    setup = Setup(
        "the repository's Settings → Webhooks → Add webhook",
        deploy_key="the repository's Settings → Deploy keys → Add deploy key; without write access. GitHub takes a key "
        "for one repository only: where submodules are private too, give it to a machine user instead.",
    )

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


class GitHubStatuses:
    """Commit statuses, and if wanted deployments with their statuses."""

    token_note = "fine-grained: Commit statuses, and Deployments if told, both “Read and write”; classic: repo"  # noqa: S105
    has_deployments = True
    _STATES: Mapping[State, str] = {
        "pending": "pending",
        "running": "pending",
        "success": "success",
        "failure": "failure",
        "error": "error",
        "cancelled": "error",
        "skipped": "error",
    }
    _OF_DEPLOYMENTS: Mapping[State, str] = {
        "pending": "queued",
        "running": "in_progress",
        "success": "success",
        "failure": "failure",
        "error": "error",
        "cancelled": "inactive",
        "skipped": "inactive",
    }

    def place(self, repository: Address, base: str) -> Place:
        host = repository.host.lower()
        if host in ("github.com", "www.github.com", "ssh.github.com"):
            usual = "https://api.github.com"
        else:
            usual = f"https://api.{host}" if host.endswith(".ghe.com") else f"{host_of(repository)}/api/v3"
        return Place(base or usual, owner_and_name(repository))

    def headers(self, credentials: Credentials) -> Mapping[str, str]:
        return credentials.bearer | {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}

    def send(self, api: Api, place: Place, report: Report) -> str:
        status = as_github_takes_it(report, self._STATES[report.state])
        if report.speaks:
            api.post(f"/repos/{place.path}/statuses/{report.commit}", status)
        if report.deployment_state is None:
            return report.remote_id
        return self._deployment(api, place, report, self._OF_DEPLOYMENTS[report.deployment_state])

    def _deployment(self, api: Api, place: Place, report: Report, state: str) -> str:
        deployments = f"/repos/{place.path}/deployments"
        remote = report.remote_id or (self._found(api, deployments, report) if report.again else "")
        if not remote:
            remote = _id_of(api.post(deployments, self._new(report)))
        status = {
            "state": state,
            "log_url": report.url,
            "description": cut(report.description),
            "environment_url": report.environment_url,
            "auto_inactive": True,
        }
        api.post(f"{deployments}/{remote}/statuses", status)
        return remote

    def _new(self, report: Report) -> dict[str, Any]:
        """Of this very commit, whatever its other checks say: it is being deployed already."""
        return {
            "ref": report.commit,
            "task": "deploy",
            "auto_merge": False,
            "required_contexts": [],
            "payload": {"ocore": report.deployment},
            "environment": report.environment,
            "description": cut(report.description),
            "production_environment": report.production,
        }

    def _found(self, api: Api, deployments: str, report: Report) -> str:
        """One that an earlier attempt made without hearing of it."""
        listed = api.get(f"{deployments}?sha={report.commit}&environment={quote(report.environment, safe='')}")
        ours = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return next((_id_of(one) for one in ours if one.get("payload") == {"ocore": report.deployment}), "")


def _id_of(document: Any) -> str:
    number = document.get("id") if isinstance(document, dict) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise StatusNotTaken("It did not say under which id it keeps the deployment.", again=False)
    return str(number)
