"""The webhook as a project's page shows it: is it healthy, and a test delivery through the endpoint's own code."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Max, Q
from django.test.client import RequestFactory

from deployments import webhook
from deployments.models import Delivery
from ocore.errors import ExpectedError
from projects.hosts import HOSTS
from projects.models import Project

Verdict = Delivery.Verdict
_UNPROVEN = Q(verdict=Verdict.REFUSED)


@dataclass(frozen=True)
class Health:
    tone: str
    icon: str
    label: str
    words: str
    last: Delivery | None = None
    """The last that the git host itself sent and proved."""
    refused: int = 0
    """Calls since then that were not let in."""


def health(project: Project) -> Health:
    """From what the git host sent; tests by hand and replays say nothing of it."""
    sent = Delivery.objects.filter(project=project, origin=Delivery.Origin.HOST, host=project.host)
    last = sent.exclude(_UNPROVEN).select_related("project").defer("body", "headers").first()
    since = sent.filter(_UNPROVEN) if last is None else sent.filter(_UNPROVEN, received_at__gt=last.received_at)
    told: dict[str, Any] = since.aggregate(count=Count("pk"), latest=Max("received_at"))
    refused = int(told["count"])
    if last is None and not refused:
        return Health("muted", "–", "Not used yet", "Nothing has come from the git host yet.")
    if last is None:
        return Health(
            "bad", "✕", "Not let in", "Calls come, but none could be proven: paste the secret once more.", None, refused
        )
    if last.verdict == Verdict.UNREADABLE:
        return Health("bad", "?", "Not read", "The last delivery could not be read.", last, refused)
    if refused:
        return Health("wait", "⚠", "Worked", "Calls that could not be proven have come since.", last, refused)
    return Health("ok", "✓", "Works", "", last)


def send_test(project: Project, who: str) -> Delivery:
    """A signed delivery of our own making that moves nothing, through the endpoint that git hosts call: address,
    secret and code are proven by it, and not the way from the git host to here. Raises `ExpectedError`."""
    secrets = project.webhook_secrets
    if not secrets:
        raise ExpectedError("The project has no webhook secret.", advice="Make a new one.")
    secret = project.signing_token if project.host == "gitlab" and project.signing_token else secrets[0]
    body, headers = HOSTS[project.host].sample(secret, f"test-{uuid.uuid4()}")
    request = RequestFactory(headers=headers).generic("POST", project.webhook_path, body, "application/json")
    request.META.pop("HTTP_COOKIE", None)
    response = webhook.receive(request, host=project.host, slug=project.slug)
    answer = json.loads(response.content)
    delivery = Delivery.objects.filter(project=project, pk=answer.get("delivery", 0)).first()
    if delivery is None:
        raise ExpectedError(f"The endpoint answered {response.status_code}: {answer.get('reason', '')}")
    delivery.origin, delivery.sent_by = Delivery.Origin.TEST, who[:200]
    delivery.save(update_fields=["origin", "sent_by"])
    return delivery
