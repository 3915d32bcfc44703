"""A second version of an environment beside the first: a share of the clients is led to it (A/B), or all of them (a
standby that was switched to).

It is an environment of its own, whose `Environment.second_of` is the first: it has its own deployments, instances and
address, inherits the first one's settings, and either uses the first one's database and filestore or has begun as a
copy of them. It never runs scheduled actions: the first one does.
"""

import secrets

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q


def new_mark() -> str:
    return secrets.token_hex(6)


class Split(models.Model):
    """Which part of the first version's clients the second one gets."""

    class Ending(models.TextChoices):
        NOT = "", "Goes on"
        FIRST = "first", "The first one stays"
        SECOND = "second", "The second one takes its place"

    environment = models.OneToOneField("projects.Environment", on_delete=models.CASCADE, related_name="split")
    """The second version."""
    share = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(100)])
    """Percent. 0: it is a standby, under its own address only; 100: all were switched to it."""
    mark = models.CharField(max_length=16, default=new_mark)
    """Names this test in the clients' cookies: those of an earlier one count no more."""
    since = models.DateTimeField(null=True, blank=True)
    """Since when the share is as it is."""
    set_by = models.CharField(max_length=200, blank=True)
    copied_at = models.DateTimeField(null=True, blank=True)
    """The instant that its own copy of the data is of."""
    ending = models.CharField(max_length=10, blank=True, choices=Ending.choices, default=Ending.NOT)
    ended_by = models.CharField(max_length=200, blank=True)
    deployment = models.PositiveBigIntegerField(null=True, blank=True)
    """The one with which the first environment becomes the second version."""
    problem = models.TextField(blank=True)
    """Why it could not be ended."""

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(share__lte=100), name="split_share_is_a_percentage")]
        permissions = [("split_environment", "Can set up a second version of an environment, and lead clients to it")]

    def __str__(self) -> str:
        return f"{self.share} % of {self.environment.second_of}"
