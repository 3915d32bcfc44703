"""Besides the exact branch of each environment: patterns of branches and tags, looked through in order, the first that
matches wins."""

import re
from functools import lru_cache
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from projects import validators

MOST_STARS = 5
"""In one pattern: looking through stays quick whatever is pushed."""


def validate_pattern(pattern: str) -> None:
    """A branch's or tag's name in which `*` stands for anything without a slash, `**` for anything, `?` for one
    character."""
    if "***" in pattern or len(re.findall(r"\*+", pattern)) > MOST_STARS:
        raise ValidationError(f"At most {MOST_STARS} times “*” or “**” in a pattern.")
    try:
        validators.validate_branch(re.sub(r"\*+|\?", "x", pattern))
    except ValidationError:
        shown = validators.printable(pattern)
        raise ValidationError(
            f"“{shown}” is no pattern of branches or tags. Write for example release/* or v*.",
        ) from None


def matches(pattern: str, name: str) -> bool:
    return bool(_compiled(pattern).fullmatch(name))


@lru_cache(maxsize=1000)
def _compiled(pattern: str) -> re.Pattern[str]:
    signs = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(signs.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\?)", pattern)))


class BranchRule(models.Model):
    """Which environment a push reaches whose branch is no environment's own, or which moves a tag."""

    class Kind(models.TextChoices):
        BRANCH = "branch", "Branch"
        TAG = "tag", "Tag"

    project = models.ForeignKey("projects.Project", on_delete=models.CASCADE, related_name="branch_rules")
    environment = models.ForeignKey("projects.Environment", on_delete=models.CASCADE, related_name="branch_rules")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.BRANCH)
    pattern = models.CharField(
        max_length=200,
        validators=[validate_pattern],
        help_text="Such as release/* or v*: * is anything without a slash, ** anything, ? one character.",
    )
    priority = models.PositiveSmallIntegerField(
        default=10, help_text="The smallest number is looked at first; the first rule that matches wins."
    )

    class Meta:
        ordering = ["project", "priority"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "priority"],
                name="branch_rule_priority_unique_in_project",
                violation_error_message="Another rule of this project has the same priority; one of them must come "
                "first.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display().lower()} {self.pattern} (priority {self.priority})"

    def clean(self) -> None:
        super().clean()
        environment: Any = self.environment if self.environment_id else None
        if environment and self.project_id and environment.project_id != self.project_id:
            raise ValidationError({"environment": f"{environment} belongs to another project."})

    def matches(self, kind: str, name: str) -> bool:
        return self.kind == kind and matches(self.pattern, name)
