"""Where environments live, and what is deployed there: servers, projects, environments."""

import re
import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from ocore.fields import EncryptedTextField
from ocore.machine.processes import is_dead
from projects import inheritance, reporting, sizes, validators
from projects.domains import Domain
from projects.hosts import HOSTS
from projects.hosts.proof import SIGNING_TOKEN, signing_key
from projects.inheritance import EnvironmentOverrides
from projects.known_hosts import KnownHost
from projects.repositories import ADDRESS, Repository
from projects.repository_access import RepositoryAccess
from projects.rules import BranchRule
from projects.second import Split
from projects.servers import Server

__all__ = ["BranchRule", "Domain", "Environment", "KnownHost", "Project", "Repository", "Server", "Split"]

LEAST_KEY = 24
"""Bytes that a key to sign with has at least (Standard Webhooks)."""


def new_token() -> str:
    """256 random bits for a URL or a shared secret."""
    return secrets.token_urlsafe(32)


def sane_overrides(table: str) -> list[models.BaseConstraint]:
    """What no row may say, whoever writes it; None inherits."""
    least = 256 * 1024**2
    return [
        models.CheckConstraint(
            condition=Q(memory_limit=None) | Q(memory_limit__gte=least), name=f"{table}_memory_limit_is_enough"
        ),
        models.CheckConstraint(
            condition=Q(odoo_version=None) | Q(odoo_version__endswith=".0"), name=f"{table}_odoo_version_is_a_series"
        ),
    ]


class Project(RepositoryAccess, EnvironmentOverrides):
    """One Odoo application or client engagement, and the defaults of its environments."""

    level = "project"
    inherits_from = None

    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=40, unique=True, validators=[validators.validate_slug])
    description = models.TextField(blank=True)
    host = models.CharField(
        max_length=20,
        choices={name: driver.title for name, driver in HOSTS.items()},
        default="github",
        verbose_name="git host",
        help_text="Calls the webhook.",
    )
    signing_token = EncryptedTextField(
        blank=True,
        verbose_name="signing token of the git host",
        help_text="GitLab only: the token that GitLab made itself to sign with (whsec_…). Encrypted, never shown "
        "again. Empty: the webhook secret that oCore made is the proof.",
    )
    report_to_host = models.CharField(
        max_length=20,
        choices=reporting.KINDS,
        blank=True,
        verbose_name="tell the git host",
        help_text="What becomes of each commit that is deployed: shown beside it there, with a link to here.",
    )
    report_url = models.CharField(
        max_length=300,
        blank=True,
        validators=[validators.validate_api_url],
        verbose_name="address of the git host's API",
        help_text="Such as https://git.example.com/api/v4. Empty: as follows from the repository's address.",
    )
    report_token = EncryptedTextField(
        blank=True,
        verbose_name="token for that API",
        help_text="Must be allowed to write commit statuses. Encrypted, never shown again. Empty: the access token "
        "above, where the API is the repository's own host.",
    )
    report_since = models.DateTimeField(null=True, blank=True, editable=False)
    """Since when it is told: nothing of before."""
    webhook_secret = EncryptedTextField(blank=True, editable=False)
    previous_webhook_secret = EncryptedTextField(blank=True, editable=False)
    previous_webhook_secret_until = models.DateTimeField(null=True, blank=True, editable=False)
    status_token = models.CharField(max_length=64, unique=True, default=new_token, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            *sane_overrides("project"),
            models.CheckConstraint(
                condition=Q(repository_url="") | ADDRESS, name="project_repository_is_https_ssh_or_file"
            ),
        ]
        permissions = [
            ("view_webhook_secret", "Can see a project's webhook secret"),
            ("rotate_webhook_secret", "Can make a new webhook secret for a project"),
            ("make_deploy_key", "Can make and remove a project's deploy key"),
            ("test_repository", "Can test the connection to a project's repository"),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.webhook_secret:
            self.webhook_secret = new_token()
        if bool(self.report_to_host) != bool(self.report_since):
            self.report_since = timezone.now() if self.report_to_host else None
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "report_since"}
        super().save(*args, **kwargs)

    def clean(self) -> None:
        super().clean()
        sizes.check(self)
        token = self.signing_token
        if token and not (token.startswith(SIGNING_TOKEN) and len(signing_key(token)) >= LEAST_KEY):
            raise ValidationError({"signing_token": "This is no signing token: whsec_ and at least 32 characters."})
        reporting.check(self, Project.objects.filter(pk=self.pk).first() if self.pk else None)

    def rotate_webhook_secret(self) -> None:
        """A new secret; the old one is accepted for a while, so that no push is refused meanwhile."""
        self.previous_webhook_secret = self.webhook_secret
        self.previous_webhook_secret_until = timezone.now() + timedelta(seconds=settings.OCORE_SECRET_GRACE_SECONDS)
        self.webhook_secret = new_token()
        self.save(
            update_fields=["webhook_secret", "previous_webhook_secret", "previous_webhook_secret_until"],
        )

    @property
    def webhook_secrets(self) -> list[str]:
        """Those that a delivery may be signed with now."""
        accepted = [self.webhook_secret]
        until = self.previous_webhook_secret_until
        if self.previous_webhook_secret and until and timezone.now() < until:
            accepted.append(self.previous_webhook_secret)
        if self.host == "gitlab":
            accepted.append(self.signing_token)
        return [secret for secret in accepted if secret]

    @property
    def mirror_name(self) -> str:
        """Of its repository's copy on the portal's machine."""
        return self.slug

    @property
    def webhook_path(self) -> str:
        return f"/webhooks/{self.host}/{self.slug}/"


class Environment(EnvironmentOverrides):
    """A deployment stage of a project: a server, a branch, and what differs from the project's defaults."""

    level = "environment"

    class Kind(models.TextChoices):
        PRODUCTION = "production", "Production"
        STAGING = "staging", "Staging"
        DEVELOPMENT = "development", "Development"
        OTHER = "other", "Other"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="environments")
    server = models.ForeignKey(Server, on_delete=models.PROTECT, related_name="environments")
    name = models.CharField(max_length=100, help_text="Any name; development, staging and production are usual.")
    slug = models.SlugField(max_length=40, validators=[validators.validate_slug])
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.OTHER)
    description = models.TextField(blank=True)
    branch = models.CharField(
        max_length=200,
        blank=True,
        validators=[validators.validate_branch],
        verbose_name="git branch",
        help_text="A push to it deploys here. Empty: deployed by hand.",
    )
    public = models.BooleanField(default=False, help_text="Shown on the project's status page.")
    second_of = models.OneToOneField(
        "self", null=True, blank=True, editable=False, on_delete=models.PROTECT, related_name="second"
    )
    """The environment beside which it is a second version (`projects.second`)."""
    shares_data = models.BooleanField(default=False, editable=False)
    """It uses that one's database and filestore, and never changes them but as clients do."""
    key = models.CharField(max_length=90, unique=True, editable=False)
    subdomain = models.CharField(max_length=63, editable=False)
    database = models.CharField(max_length=50, editable=False)
    database_password = EncryptedTextField(default=new_token, editable=False)
    odoo_admin_password = EncryptedTextField(default=new_token, editable=False)
    pending = models.JSONField(default=dict, blank=True, editable=False)
    busy_with = models.CharField(max_length=200, blank=True, editable=False)
    """What a worker does to it outside of a deployment; nothing else may begin before `busy_until`."""
    busy_until = models.DateTimeField(null=True, blank=True, editable=False)
    busy_by = models.CharField(max_length=200, blank=True, editable=False)
    """The process that does it (`processes.own_name`): once it is dead, nobody waits for `busy_until`."""
    scale_to = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)
    """So many instances are wanted, and a worker is to see to it; empty: as it is."""
    scale_asked_by = models.CharField(max_length=200, blank=True, editable=False)
    scale_problem = models.TextField(blank=True, editable=False)
    """Why the last change of their number did not come about."""
    removing_since = models.DateTimeField(null=True, blank=True, editable=False)
    removal_problem = models.TextField(blank=True, editable=False)
    removal_due = models.DateTimeField(null=True, blank=True, editable=False)
    """When the clock tries it again in spite of its problem; empty: that waits for a person."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project__name", "name"]
        constraints = [
            models.UniqueConstraint(fields=["project", "slug"], name="environment_slug_unique_in_project"),
            models.UniqueConstraint(fields=["project", "name"], name="environment_name_unique_in_project"),
            models.UniqueConstraint(fields=["server", "subdomain"], name="environment_subdomain_unique_on_server"),
            models.UniqueConstraint(
                fields=["server", "database"],
                condition=Q(shares_data=False),
                name="environment_database_unique_on_server",
            ),
            models.CheckConstraint(
                condition=Q(shares_data=False) | Q(second_of__isnull=False),
                name="environment_shares_data_of_the_first",
            ),
            models.CheckConstraint(
                condition=Q(branch="")
                | ~(Q(branch__startswith="-") | Q(branch__contains="..") | Q(branch__contains=" ")),
                name="environment_branch_is_one_of_gits",
            ),
            *sane_overrides("environment"),
        ]
        permissions = [("view_odoo_password", "Can see the password of Odoo's administrator")]

    def __str__(self) -> str:
        return f"{self.project.name} / {self.name}"

    @property
    def path(self) -> str:
        """How the command line names it: `acme/production`."""
        return f"{self.project.slug}/{self.slug}"

    @property
    def inherits_from(self) -> "Project | Environment":
        return self.second_of or self.project

    @property
    def beside(self) -> "Environment | None":
        """Its second version."""
        found: Environment | None = getattr(self, "second", None)
        return found

    @property
    def role(self) -> str:
        """PostgreSQL's, as which Odoo connects; a second version's copy is read and written by the first one's."""
        return self.second_of.database if self.second_of else self.database

    @property
    def busy(self) -> bool:
        return bool(self.busy_until and timezone.now() < self.busy_until) and not is_dead(self.busy_by)

    @property
    def hostname(self) -> str:
        """The generated name: always served, and by which oCore itself asks."""
        return f"{self.subdomain}.{self.server.base_domain}"

    @property
    def primary_domain(self) -> Domain | None:
        return next((domain for domain in self.domains.all() if domain.primary), None)

    @property
    def address(self) -> str:
        """The name by which people know it."""
        domain = self.primary_domain
        return domain.name if domain else self.hostname

    @property
    def url(self) -> str:
        return self.server.origin(self.address)

    @property
    def volume(self) -> str:
        key = self.second_of.key if self.second_of and self.shares_data else self.key
        return f"{settings.OCORE_NAMESPACE}-{key}"

    @property
    def base_image(self) -> str:
        """The Odoo image that it is built on, template filled in."""
        template = inheritance.resolve(self, "odoo_image").value or settings.OCORE_ODOO_IMAGE
        return str(template).replace("{version}", str(inheritance.resolve(self, "odoo_version").value))

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.key:
            self._choose_names()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        super().clean()
        if self.pk:
            before = Environment.objects.get(pk=self.pk)
            fixed = ("server_id", "slug", "project_id")
            if self.key and any(getattr(before, name) != getattr(self, name) for name in fixed):
                raise ValidationError("Project, server and slug of an environment are fixed once it exists.")
        sizes.check(self)

    def _choose_names(self) -> None:
        """Names on the server: fixed for good, and free of clashes such as a-b/c against a/b-c."""
        others = Environment.objects.all()
        here = others.filter(server=self.server)
        wanted = f"{self.project.slug}-{self.slug}"
        self.key = _free(wanted, others.values_list("key", flat=True), self._longest("key"))
        name = f"{self.slug}-{self.project.slug}"
        base = f".{self.server.base_domain}"
        own = Domain.objects.filter(server=self.server, name__endswith=base).values_list("name", flat=True)
        taken = [*here.values_list("subdomain", flat=True), *(one.removesuffix(base) for one in own)]
        self.subdomain = _free(name, taken, self._longest("subdomain"))
        if self.second_of and self.shares_data:
            self.database = self.second_of.database
            return
        name = re.sub(r"[^a-z0-9]+", "_", wanted)
        self.database = _free(name, here.values_list("database", flat=True), self._longest("database"), "_")

    def _longest(self, name: str) -> int:
        field: Any = self._meta.get_field(name)
        return int(field.max_length)


def _free(wanted: str, taken: Any, longest: int, separator: str = "-") -> str:
    """The name, numbered if it is taken, and shortened so that both fit; it never ends in the separator."""
    names, count, name = set(taken), 1, wanted[:longest].rstrip(separator)
    while name in names:
        count += 1
        end = f"{separator}{count}"
        name = wanted[: longest - len(end)].rstrip(separator) + end
    return name
