"""GitLab's webhook, proven by a token in clear or, newer, by a signature as Standard Webhooks have it.

Where the signature is there it decides, and the token beside it is not looked at. A hook of the whole instance
(`System Hook`) tells in its body what it is.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from projects.git.address import Address

from . import proof, reading
from .api import Api, StatusNotTaken
from .base import Push, RefChange, Setup, Unreadable
from .statuses import Credentials, Place, Report, State, below, cut, host_of

_EVENTS = {"push hook": "push", "tag push hook": "tag_push"}


class GitLab:
    name = "gitlab"
    title = "GitLab"
    setup = Setup(
        "the project's Settings → Webhooks → Add new webhook",
        url_label="URL",
        secret_label="Secret token",  # noqa: S106 - a label
        content_type="",
        events="Push events; Tag push events where a rule deploys tags",
        note="A signing token is better than a secret token: it proves the body as well. Let GitLab make one, and "
        "paste it into the project's field “Signing token of the git host”.",
        deploy_key="the project's Settings → Repository → Deploy keys → Add new key; without write permissions. For "
        "several projects: enable the same key there.",
    )

    def verify(self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str | None]) -> None:
        if any(str(name).lower() == "webhook-signature" for name in headers):
            proof.check_standard(body, headers, secrets)
        else:
            tokens = [one for one in proof.usable(secrets) if not one.startswith(proof.SIGNING_TOKEN)]
            proof.check_token(headers, tokens, "X-Gitlab-Token")

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Push:
        document = reading.read_json(body)
        event = _event_of(document, headers)
        pushed = event in ("push", "tag_push")
        changes = reading.each(_change, [document] if pushed else ())
        project, repository = reading.mapping(document, "project"), reading.mapping(document, "repository")
        return Push(
            kind=reading.kind_of(changes),
            event=event,
            delivery_id=self.delivery_id(headers, body),
            changes=changes,
            full_name=reading.text(project, "path_with_namespace") or reading.text(document, "path_with_namespace"),
            urls=reading.addresses(
                *reading.texts(project, "git_http_url", "git_ssh_url", "web_url"),
                *reading.texts(repository, "git_http_url", "git_ssh_url", "homepage", "url"),
            ),
            pusher=(reading.text(document, "user_username") or reading.text(document, "user_name")) if pushed else "",
            commits=reading.commits_of(reading.listed(document, "commits")) if pushed else (),
        )

    def delivery_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """What GitLab keeps when it delivers again; older ones only have an id per attempt."""
        names = ("webhook-id", "Idempotency-Key", "X-Gitlab-Webhook-UUID")
        return next(filter(None, (reading.identifier(headers, name) for name in names)), "") or reading.body_id(body)

    def sample(self, secret: str, delivery_id: str) -> tuple[bytes, dict[str, str]]:
        body = json.dumps(
            {
                "object_kind": "push",
                "ref": "refs/heads/main",
                "before": reading.SAMPLE,
                "after": reading.SAMPLE,
                "checkout_sha": reading.SAMPLE,
                "user_username": "oCore",
                "commits": [],
            }
        ).encode()
        headers = {"X-Gitlab-Event": "Push Hook", "Idempotency-Key": delivery_id}
        if not secret.startswith(proof.SIGNING_TOKEN):
            return body, headers | {"X-Gitlab-Token": secret}
        now = str(int(time.time()))
        signature = proof.standard_signature(proof.signing_key(secret), delivery_id, now, body)
        signed = {"webhook-id": delivery_id, "webhook-timestamp": now, "webhook-signature": f"v1,{signature}"}
        return body, headers | signed


def _event_of(document: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """The body's own word, else the header's, else its shape: the body may be made from a template of the user's."""
    named = reading.text(document, "object_kind") or reading.text(document, "event_name")
    header = reading.header(headers, "X-Gitlab-Event")
    if named:
        return named
    if header and header.lower() != "system hook":
        return _EVENTS.get(header.lower(), reading.text({"event": header}, "event"))
    if "ref" in document and ("after" in document or "checkout_sha" in document):
        return "tag_push" if str(document["ref"]).startswith("refs/tags/") else "push"
    return "unknown"


def _change(document: Mapping[str, Any]) -> RefChange:
    """`after` is the tag object of an annotated tag; `checkout_sha` is always the commit, null on deletion."""
    ref = reading.ref_name(document, "ref")
    before = reading.earlier_id(document, "before")
    after = reading.commit_id(document, "after", required=False)
    head = reading.commit_id(document, "checkout_sha", required=False)
    if not (after or head):
        raise Unreadable("neither “after” nor “checkout_sha” is a commit id")
    return reading.moved(ref, before, after, head)


class GitLabStatuses:
    token_note = "a project, group or personal access token with the scope api, as Developer or above"  # noqa: S105
    has_deployments = False
    _STATES: Mapping[State, str] = {
        "pending": "pending",
        "running": "running",
        "success": "success",
        "failure": "failed",
        "error": "failed",
        "cancelled": "canceled",
        "skipped": "canceled",
    }
    _API = "/api/v4"
    _LONGEST_URL = 255

    def place(self, repository: Address, base: str) -> Place:
        base = base or f"{host_of(repository)}{self._API}"
        return Place(base, ("/".join(below(repository, base, self._API)),))

    def headers(self, credentials: Credentials) -> Mapping[str, str]:
        return {"PRIVATE-TOKEN": credentials.token}

    def send(self, api: Api, place: Place, report: Report) -> str:
        status = {
            "state": self._STATES[report.state],
            "name": report.context,
            "target_url": report.url[: self._LONGEST_URL],
            "description": cut(report.description),
        }
        if report.ref:
            status["ref"] = report.ref
        try:
            api.post(f"/projects/{place.path}/statuses/{report.commit}", status)
        except StatusNotTaken as error:
            # It has this state already: from an attempt whose answer was lost, or two of ours are one of its.
            if error.code != 400 or "cannot transition status" not in error.detail.lower():
                raise
        return ""
