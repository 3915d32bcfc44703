"""What a project's git host knows of a commit that is or was to be deployed."""

from datetime import datetime

from django.db import models
from django.utils import timezone


class CommitStatus(models.Model):
    """Of one deployment and one commit: it has two where the branch's tip turned out to be a later one than was pushed.

    What is owed is never written down: it is whatever the deployment's own row says now and `settled` doesn't.
    """

    deployment = models.ForeignKey("deployments.Deployment", on_delete=models.CASCADE, related_name="commit_statuses")
    commit = models.CharField(max_length=64)
    settled = models.CharField(max_length=20, blank=True)
    """The deployment's status with which there is nothing left to do: told, given up, or another's to tell."""
    state = models.CharField(max_length=20, blank=True)
    """The last that the host took."""
    sent_at = models.DateTimeField(null=True)
    tried = models.CharField(max_length=20, blank=True)
    """The status that `attempts` were made with."""
    attempts = models.PositiveSmallIntegerField(default=0)
    sends = models.PositiveIntegerField(default=0)
    """Attempts with whatever status. Nothing resets it: what one of them made at the host may be there unheard of."""
    next_at = models.DateTimeField(null=True)
    """Before the next attempt with the same status."""
    not_before = models.DateTimeField(null=True)
    """The host asked to be left alone until then, with whatever."""
    busy_until = models.DateTimeField(null=True)
    """Somebody is sending it. Over that time nobody sends anything else of the environment: nothing overtakes."""
    problem = models.TextField(blank=True)
    given_up = models.BooleanField(default=False)
    remote_id = models.CharField(max_length=100, blank=True)
    """Under which the host keeps a deployment of its own."""

    class Meta:
        ordering = ["pk"]
        verbose_name_plural = "commit statuses"
        constraints = [
            models.UniqueConstraint(fields=["deployment", "commit"], name="commit_status_unique_in_deployment")
        ]

    def __str__(self) -> str:
        return f"{self.state or 'nothing yet'} of {self.commit[:10]} for #{self.deployment_id}"

    def due_at(self, status: str) -> datetime | None:
        """When the next attempt with this status may be made; None: at once."""
        moments = [self.not_before, self.next_at if self.tried == status else None, self.busy_until]
        return max((moment for moment in moments if moment and moment > timezone.now()), default=None)
