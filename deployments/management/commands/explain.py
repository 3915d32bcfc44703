"""`manage.py explain PROVIDER BODY_FILE`: how a delivery reads, as JSON; with a project, what it would cause."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.db import DatabaseError

from deployments import intake
from deployments.terminal import PortalCommand, find_project
from ocore.errors import ExpectedError
from projects.hosts import HOSTS, Push, RefChange, Refused, Unreadable
from projects.hosts.reading import leniently
from projects.models import Project

MOST_BYTES = 64 * 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
EXIT_CODES = """exit codes:
  0  read, whatever it says
  1  not read: the JSON has an "error" (no such provider, file or project; a body that is none)
"""


class Command(PortalCommand):
    help = "How a delivery of a git host reads: kind, ref changes, repository, pusher; with a project also what for."
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", help=", ".join(HOSTS))
        parser.add_argument("body", help="file with the delivery's body as it came; - for the standard input")
        parser.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="'NAME: VALUE'",
            help="a header of the delivery; without the event's, the body's shape tells the event",
        )
        parser.add_argument("--project", metavar="SLUG", help="check the signature too, and say what would be deployed")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            told = explain(options["provider"], _body(options["body"]), options["header"], options["project"] or "")
        except ExpectedError as error:
            told = {"error": " ".join(filter(None, (error.message, error.advice)))}
        except DatabaseError as error:
            told = {"error": f"oCore's database cannot be used: {error}"}
        self.stdout.write(json.dumps(told, indent=2, ensure_ascii=True))
        if "error" in told:
            sys.exit(1)


def explain(provider: str, body: bytes, header_lines: list[str], slug: str) -> dict[str, Any]:
    """Raises `ExpectedError` for what is no delivery's doing."""
    host = HOSTS.get(provider)
    if host is None:
        raise ExpectedError(f"There is no provider “{provider}”.", advice=f"There is: {', '.join(HOSTS)}.")
    headers = _headers(header_lines)
    project = find_project(slug) if slug else None
    told: dict[str, Any] = {"provider": provider}
    try:
        push = host.parse(body.removeprefix(BYTE_ORDER_MARK), headers)
    except Unreadable as error:
        told |= _as_far_as_it_goes(provider, body, headers)
        told["error"] = error.reason
        if project:
            told["signature"] = _signature(project, provider, body, headers)
        return told
    told |= reading(push)
    if project:
        told |= {"project": project.slug, "signature": _signature(project, provider, body, headers)}
        told |= _verdict(project, provider, push, told["signature"])
    return told


def _as_far_as_it_goes(provider: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """What it says where only a commit's id is none: that is never deployed, but may be what somebody looks for."""
    try:
        with leniently():
            return reading(HOSTS[provider].parse(body.removeprefix(BYTE_ORDER_MARK), headers))
    except Unreadable:
        return {}


def reading(push: Push) -> dict[str, Any]:
    return {
        "event": push.event,
        "kind": push.kind,
        "changes": [_change(change) for change in push.changes],
        "urls": list(push.urls),
        "repo_full_name": push.full_name or None,
        "pusher": push.pusher or None,
        "delivery_id": push.delivery_id or None,
    }


def _change(change: RefChange) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "ref": change.ref,
        "ref_type": change.type,
        "name": change.name,
        "before": change.before or None,
        "after": change.after or None,
        "head_sha": change.head or None,
        "created": change.created,
        "deleted": change.deleted,
        "forced": change.forced,
    }


def _signature(project: Project, provider: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    if provider != project.host:
        return {
            "verdict": "refused",
            "reason": f"{project.name} takes webhooks of {HOSTS[project.host].title}, and of nobody else.",
        }
    if not headers:
        return {"verdict": "unknown", "reason": "No header was given (--header), so there is nothing to check."}
    try:
        HOSTS[provider].verify(body, headers, project.webhook_secrets)
    except Refused as error:
        return {"verdict": "refused", "reason": error.reason}
    return {"verdict": "right", "reason": "It is proven by the project's webhook secret."}


def _verdict(project: Project, provider: str, push: Push, signature: Mapping[str, Any]) -> dict[str, Any]:
    """What it would cause now; nothing is kept of it."""
    decision = intake.rehearse(project, push)
    found = [{key: entry[key] for key in ("environment", "verdict", "reason")} for entry in decision.outcome]
    told: dict[str, Any] = {
        "verdict": str(decision.verdict),
        "reason": decision.reason,
        "environments": found,
        "not": intake.unreached(project, push),
    }
    if signature["verdict"] == "refused":
        reason = f"{signature['reason']} Were it proven: {decision.reason}"
        told |= {"verdict": "refused", "reason": reason}
    return told


def _headers(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if not separator or not name.strip():
            raise ExpectedError(f"“{line}” is no header.", advice="Write 'Name: value'.")
        found[name.strip()] = value.strip()
    return found


def _body(path: str) -> bytes:
    try:
        if path == "-":
            body = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                body = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ExpectedError(f"The body cannot be read from {path}: {reason}.") from None
    if len(body) > MOST_BYTES:
        raise ExpectedError("The body is larger than any git host's.")
    return body
