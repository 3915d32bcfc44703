"""Servers: Docker hosts, where environments live."""

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from ocore.fields import EncryptedTextField, NameListField
from projects import validators
from projects.edge_settings import validate_networks

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
MOST_AT_ONCE = 100
"""Deployments on one server: more than that is a slip of the finger."""


class Server(models.Model):
    """A Docker host; where environments live."""

    class Kind(models.TextChoices):
        DOCKER = "docker", "Docker Engine"
        SIMULATED = "simulated", "Simulated: nothing really runs"

    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=40, unique=True, validators=[validators.validate_slug])
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.DOCKER)
    endpoint = models.CharField(
        max_length=255,
        blank=True,
        validators=[validators.validate_endpoint],
        help_text="As DOCKER_HOST: unix:///var/run/docker.sock or tcp://host:2376. Empty: this machine's engine.",
    )
    base_domain = models.CharField(
        max_length=200,
        default="localhost",
        validators=[validators.validate_domain],
        help_text="Environments are reached as <environment>-<project>.<this>.",
    )
    edge_host = models.CharField(
        max_length=200, default="127.0.0.1", help_text="Address under which oCore itself reaches the server's edge."
    )
    edge_port = models.PositiveIntegerField(
        default=8080,
        validators=[MinValueValidator(1), MaxValueValidator(65535)],
        help_text="Port that the server's edge (Caddy) listens on.",
    )
    https_port = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(65535)],
        verbose_name="HTTPS port",
        help_text="Port on which the edge also serves https, usually 443. Empty: http only.",
    )
    acme_directory = models.CharField(
        max_length=255,
        blank=True,
        default=LETS_ENCRYPT,
        validators=[validators.validate_https_url],
        verbose_name="ACME directory",
        help_text="Where the edge gets certificates for public names. Empty: all are of the edge's own authority.",
    )
    acme_email = models.EmailField(
        blank=True, verbose_name="ACME contact", help_text="Given to that authority, which may write to it."
    )
    trusted_proxies = NameListField(
        default=list,
        blank=True,
        help_text="Addresses or networks (CIDR) of proxies of yours in front of the edge. What they say of a client's "
        "address (X-Forwarded-For) and of https (X-Forwarded-Proto) is believed; of others it is not. Empty: none.",
    )
    behind_tls_proxy = models.BooleanField(
        default=False,
        verbose_name="TLS ends before the edge",
        help_text="A proxy in front of the edge serves https on port 443: links are https:// without a port.",
    )
    postgres_dsn = EncryptedTextField(
        blank=True,
        validators=[validators.validate_dsn],
        verbose_name="PostgreSQL DSN",
        help_text="An external PostgreSQL whose user may create roles and databases. Empty: a container on the server.",
    )
    concurrent_deployments = models.PositiveSmallIntegerField(
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_AT_ONCE)],
        help_text="How many deployments run here at once; the others wait in line.",
    )
    concurrent_builds = models.PositiveSmallIntegerField(
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_AT_ONCE)],
        help_text="How many of these may be building their image; builds take most of a server's processors and disk.",
    )
    edge_due_at = models.DateTimeField(null=True, blank=True, editable=False)
    """Since when its edge is to be told something new; empty: it has been."""
    edge_problem = models.TextField(blank=True, editable=False)
    """Why it could not be told."""
    reloading_until = models.DateTimeField(null=True, blank=True, editable=False)
    reloading_by = models.CharField(max_length=200, blank=True, editable=False)
    """The process that reloads the edge (`processes.own_name`)."""
    facts = models.JSONField(default=dict, blank=True, editable=False)
    seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    problem = models.TextField(blank=True, editable=False)
    stopped_at = models.DateTimeField(null=True, blank=True, editable=False)
    """`make down` stopped all of ours there: nothing is brought back before `make up`."""

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "edge_port"],
                condition=Q(kind="docker"),
                name="server_edge_port_unique",
                violation_error_message="A server with this endpoint and edge port already exists.",
            ),
            models.UniqueConstraint(
                fields=["endpoint", "https_port"],
                condition=Q(kind="docker"),
                name="server_https_port_unique",
                violation_error_message="A server with this endpoint and HTTPS port already exists.",
            ),
            models.CheckConstraint(
                condition=Q(https_port=None) | ~Q(https_port=models.F("edge_port")),
                name="server_ports_differ",
                violation_error_message="http and https need a port each.",
            ),
            models.CheckConstraint(
                condition=Q(concurrent_deployments__gte=1, concurrent_builds__gte=1),
                name="server_may_deploy_something",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} (simulated)" if self.simulated else self.name

    @property
    def simulated(self) -> bool:
        return self.kind == self.Kind.SIMULATED

    def clean(self) -> None:
        super().clean()
        self.trusted_proxies = self.trusted_proxies or []
        validate_networks(self.trusted_proxies, "trusted_proxies")
        if self.pk:
            self._check_base_domain()

    def _check_base_domain(self) -> None:
        """No client's own name becomes one that oCore has made."""
        generated = {f"{name}.{self.base_domain}" for name in self.environments.values_list("subdomain", flat=True)}
        for domain in self.domains.filter(name__in=generated).select_related("environment__project"):
            message = f"{domain} would be a generated name then, and is {domain.environment}'s own."
            raise ValidationError({"base_domain": message})

    def origin(self, host: str) -> str:
        """How clients write it: scheme, host, and the port where it isn't the usual one."""
        if self.behind_tls_proxy:
            return f"https://{host}"
        scheme, port, usual = ("https", self.https_port, 443) if self.https_port else ("http", self.edge_port, 80)
        return f"{scheme}://{host}" if port == usual else f"{scheme}://{host}:{port}"
