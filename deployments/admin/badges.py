"""Statuses as people see them: a word, an icon, a colour, in that order of importance."""

from django.utils.html import format_html
from django.utils.safestring import SafeString

from deployments.models import Deployment, Step
from deployments.states import Status, StepStatus
from ocore.show import NOTHING, link_to, tag

TONES: dict[str, tuple[str, str]] = {
    Status.QUEUED: ("wait", "○"),
    Status.RUNNING: ("busy", "●"),
    Status.ROLLING_BACK: ("busy-bad", "↩"),
    Status.CANCELLING: ("busy", "⊘"),
    Status.SUCCEEDED: ("ok", "✓"),
    Status.FAILED: ("bad", "✕"),
    Status.ROLLED_BACK: ("bad", "↩"),
    Status.ROLLBACK_FAILED: ("loud", "⚠"),
    Status.CANCELLED: ("muted", "⊘"),
    Status.SUPERSEDED: ("muted", "»"),
}
SHORT: dict[str, str] = {
    Status.RUNNING: "Under way",
    Status.FAILED: "Failed",
    Status.ROLLBACK_FAILED: "Rollback failed",
    Status.SUPERSEDED: "Superseded",
}
STEP_TONES: dict[str, tuple[str, str]] = {
    StepStatus.RUNNING: ("busy", "●"),
    StepStatus.SUCCEEDED: ("ok", "✓"),
    StepStatus.SKIPPED: ("muted", "»"),
    StepStatus.FAILED: ("bad", "✕"),
    StepStatus.UNDONE: ("undone", "↩"),
}
LARGE = Deployment.LARGE


def status_tag(deployment: Deployment) -> SafeString:
    tone, icon = TONES[deployment.status]
    words = deployment.get_status_display()
    return tag(SHORT.get(deployment.status, words), tone, icon, deployment.error or words)


def step_tag(step: Step) -> SafeString:
    tone, icon = STEP_TONES[step.status]
    return tag(step.get_status_display(), tone, icon)


def commit_words(deployment: Deployment) -> SafeString | str:
    """Short id and subject; what was asked for while the commit isn't known yet."""
    if deployment.commit:
        return format_html(
            '<code title="{}">{}</code> <span class="oc-subject">{}</span>',
            deployment.commit,
            deployment.short_commit,
            deployment.subject,
        )
    return deployment.ref or "plain Odoo"


def cause_words(deployment: Deployment) -> str:
    """`by ada (push)`."""
    cause = deployment.get_trigger_display().lower()
    return f"by {deployment.requester} ({cause})" if deployment.requester else cause


def deployment_link(deployment: Deployment | None, text: str = "") -> SafeString | str:
    return link_to(deployment, text or f"#{deployment.pk}") if deployment else NOTHING
