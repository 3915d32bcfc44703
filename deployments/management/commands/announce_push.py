"""`manage.py announce_push PROJECT`: a post-receive hook for repositories on the portal's own machine."""

import hashlib
import hmac
import http.client
import json
import subprocess
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from deployments.terminal import find_project
from ocore.errors import ExpectedError
from ocore.machine import web
from projects.hosts import HOSTS, generic
from projects.models import Project

ZERO = "0" * 40


class Command(BaseCommand):
    help = "Read git's “old new ref” lines and tell the webhook endpoint of them, signed, as a git host would."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", help="slug of the project")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            project = find_project(options["project"])
        except ExpectedError as error:
            raise CommandError(error.message) from error
        for line in sys.stdin:
            before, after, ref = line.split()
            self.stdout.write(f"oCore: {announce(project, before, after, ref)}")


def announce(project: Project, before: str, after: str, ref: str) -> str:
    """What the portal answered, as a sentence."""
    body, headers = signed(project, payload(before, after, ref))
    headers |= {"Host": urlsplit(settings.OCORE_BASE_URL).netloc, "Content-Type": "application/json"}
    host, port = web.address()
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("POST", project.webhook_path, body, headers)
        answer = connection.getresponse()
        return str(json.loads(answer.read())["reason"])
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        raise CommandError(f"The portal at {settings.OCORE_WEB_BIND} did not take the push: {error}") from error
    finally:
        connection.close()


def signed(project: Project, document: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and proof in the words of the project's git host, which is one of the two that a script can speak for."""
    if project.host not in ("github", "generic"):
        raise CommandError(
            f"{project} takes webhooks of {project.get_host_display()} only. Choose “{HOSTS['generic'].title}” as its "
            "git host."
        )
    body = json.dumps(document if project.host == "github" else _generic(document)).encode()
    signature = f"sha256={hmac.new(project.webhook_secret.encode(), body, hashlib.sha256).hexdigest()}"
    delivery = str(uuid.uuid4())
    if project.host == "generic":
        return body, {generic.DELIVERY_HEADER: delivery, generic.SIGNATURE_HEADER: signature}
    return body, {"X-GitHub-Event": "push", "X-GitHub-Delivery": delivery, "X-Hub-Signature-256": signature}


def _generic(document: dict[str, Any]) -> dict[str, Any]:
    head = document["head_commit"] or {"message": "", "author": {"name": ""}}
    told = {"message": head["message"], "author": head["author"]["name"], "pusher": document["pusher"]["name"]}
    return {key: document[key] for key in ("ref", "before", "after")} | told


def payload(before: str, after: str, ref: str) -> dict[str, Any]:
    """A push in GitHub's words, but for the repository's name: here it is a folder, and git's working one."""
    deleted = after == ZERO
    commit = None if deleted else _commit(after)
    return {
        "ref": ref,
        "before": before,
        "after": after,
        "created": before == ZERO,
        "deleted": deleted,
        "forced": False,
        "head_commit": commit,
        "commits": [commit] if commit else [],
        "pusher": {"name": commit["author"]["name"] if commit else "git"},
    }


def _commit(sha: str) -> dict[str, Any]:
    shown = subprocess.run(
        ["git", "show", "--no-patch", "--format=%an%n%s", "--end-of-options", sha],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    return {"id": sha, "message": shown[1], "author": {"name": shown[0]}}
