"""Locks of environments: rows of who wants that no deployment begins there, and why."""

from django.db import models
from django.db.models import Q

from projects.models import Environment


class Lock(models.Model):
    """A time during which no deployment begins in an environment, because a person wants it so. Kept for the record."""

    environment = models.ForeignKey(Environment, on_delete=models.CASCADE, related_name="locks")
    reason = models.CharField(max_length=500)
    locked_at = models.DateTimeField()
    locked_by = models.CharField(max_length=200)
    unlocked_at = models.DateTimeField(null=True, blank=True)
    unlocked_by = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-locked_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment"], condition=Q(unlocked_at=None), name="lock_one_at_a_time_per_environment"
            ),
        ]

    def __str__(self) -> str:
        return f"Lock of {self.environment}"

    @property
    def words(self) -> str:
        """By whom, since when and why."""
        return f"by {self.locked_by} since {self.locked_at:%Y-%m-%d %H:%M} UTC: {self.reason}"


def current(environment: Environment) -> Lock | None:
    return Lock.objects.filter(environment=environment, unlocked_at=None).first()
