"""Further repositories of a project, whose addons are taken in beside its own: Odoo Enterprise, OCA's, themes."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from projects import validators
from projects.repository_access import RepositoryAccess

ADDRESS = (
    Q(repository_url__startswith="https://")
    | Q(repository_url__startswith="ssh://")
    | Q(repository_url__startswith="file:///")
    | (Q(repository_url__contains="@") & ~Q(repository_url__contains="::"))
)
"""What no row may say otherwise, whoever writes it."""

FURTHER = "--"
"""Between a project's slug and a repository's name: no slug has two dashes in a row."""


class Repository(RepositoryAccess):
    """One of them. Of two addons of one name that of the project's own repository is taken, then that of the first of
    these."""

    project = models.ForeignKey("projects.Project", on_delete=models.CASCADE, related_name="repositories")
    priority = models.PositiveSmallIntegerField(
        default=10, help_text="The smallest number comes first. The project's own repository comes before all."
    )
    name = models.SlugField(
        max_length=40, validators=[validators.validate_slug], help_text="Short, such as enterprise or oca-web."
    )
    repository_url = models.CharField(
        max_length=500,
        validators=[validators.validate_repository_url],
        verbose_name="git repository",
        help_text="https:// or ssh.",
    )
    branch = models.CharField(
        max_length=200,
        blank=True,
        validators=[validators.validate_branch],
        verbose_name="git branch",
        help_text="Each deployment takes its newest commit. Empty: the branch of the Odoo version, such as 19.0; "
        "where there is none, the one that is deployed.",
    )
    pin = models.CharField(
        max_length=200,
        blank=True,
        validators=[validators.validate_ref],
        help_text="A tag or commit instead of a branch. It stays at the commit that it means first, also where the tag "
        "is moved.",
    )
    pinned_commit = models.CharField(max_length=64, blank=True, editable=False)
    """What the pin meant when it was first deployed."""
    folder = models.CharField(
        max_length=200,
        blank=True,
        validators=[validators.validate_folder],
        help_text="Only the addons below this folder. Empty: all, wherever they lie.",
    )

    class Meta:
        ordering = ["project", "priority", "name"]
        verbose_name = "further repository"
        verbose_name_plural = "further repositories"
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name"],
                name="repository_name_unique_in_project",
                violation_error_message="Another further repository of this project has the same name.",
            ),
            models.CheckConstraint(condition=ADDRESS, name="repository_is_https_ssh_or_file"),
            models.CheckConstraint(condition=Q(branch="") | Q(pin=""), name="repository_has_branch_or_pin"),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.project}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Another pin means another commit. For an ssh address there is a deploy key from the beginning: git hosts take
        one for one repository only."""
        before = Repository.objects.filter(pk=self.pk).values_list("repository_url", "pin").first()
        if before != (self.repository_url, self.pin):
            self.pinned_commit = ""
        super().save(*args, **kwargs)
        if self.over_ssh and not self.deploy_key and (before is None or before[0] != self.repository_url):
            self.make_deploy_key()

    def clean(self) -> None:
        super().clean()
        if self.branch and self.pin:
            raise ValidationError({"pin": "Either a branch is followed, or the repository is pinned."})

    @property
    def mirror_name(self) -> str:
        """Of its copy on the portal's machine."""
        return f"{self.project.slug}{FURTHER}{self.name}"

    @property
    def asks(self) -> str:
        """The branch or pin that it names, if any."""
        return self.pin or self.branch

    @property
    def follows(self) -> str:
        """The same in words."""
        return self.asks or "branch of the Odoo version"
