"""The client's own host names of an environment."""

import ipaddress
from typing import Any

import idna
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import models, transaction
from django.db.models import Prefetch, Q

from ocore.fields import EncryptedTextField
from projects import certificates, validators

_NOT_PUBLIC = "alt arpa corp example home internal intranet invalid lan local localhost onion private test"
NOT_PUBLIC = frozenset(_NOT_PUBLIC.split())
"""Last labels below which no public authority gives certificates (RFC 2606, 6761, 6762, 8375, and ICANN's internal)."""


def normalised(name: str) -> str:
    """A host name as it is sent: small letters, punycode, no dot at its end. Raises `ValidationError`."""
    text = name.strip().rstrip(".").lower()
    if "*" in text:
        raise ValidationError("A wildcard cannot be served: write each host name by itself.")
    try:
        text = idna.encode(text, uts46=True).decode() if not text.isascii() else text
    except idna.IDNAError:
        raise ValidationError(f"“{validators.printable(name)}” is not a host name.") from None
    validators.validate_domain(text)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not text.rpartition(".")[2].isdecimal():
            return text
    raise ValidationError("That is an IP address; a host name is wanted.")


def is_public(name: str) -> bool:
    """Whether a public authority may give a certificate for it; whether it will, only asking shows."""
    return "." in name and name.rpartition(".")[2] not in NOT_PUBLIC


class Domain(models.Model):
    """A host name under which clients reach an environment. One is primary, the others lead to it."""

    class Source(models.TextChoices):
        AUTO = "auto", "Automatic: by ACME where the name is public, else of the edge's own authority"
        OWN = "own", "Of the edge's own authority"
        UPLOADED = "uploaded", "Uploaded: the chain and key below"

    environment = models.ForeignKey("projects.Environment", on_delete=models.CASCADE, related_name="domains")
    server = models.ForeignKey("projects.Server", on_delete=models.CASCADE, related_name="domains", editable=False)
    """The environment's: a name leads to one environment per server."""
    name = models.CharField(
        max_length=253,
        verbose_name="host name",
        help_text="Such as shop.example.com. Its DNS must lead to the server's edge. No wildcard.",
    )
    primary = models.BooleanField(
        default=False, help_text="The others lead to it (308), and links use it. The first one is it by itself."
    )
    source = models.CharField(
        max_length=10,
        choices=Source.choices,
        default=Source.AUTO,
        verbose_name="certificate",
        help_text="Where the server has an HTTPS port.",
    )
    chain = models.TextField(
        blank=True,
        verbose_name="certificate chain",
        help_text="PEM: the host's own certificate first, then those that lead to the authority.",
    )
    private_key = EncryptedTextField(blank=True, help_text="PEM, without a password. Encrypted, and never shown again.")

    class Meta:
        ordering = ["environment", "-primary", "name"]
        constraints = [
            models.UniqueConstraint(fields=["server", "name"], name="domain_unique_on_server"),
            models.UniqueConstraint(fields=["environment"], condition=Q(primary=True), name="domain_one_primary"),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """The one that becomes primary takes that from the one that was; an environment's first one becomes it."""
        self.server_id = self.environment.server_id
        with transaction.atomic():
            others = Domain.objects.filter(environment=self.environment_id).exclude(pk=self.pk)
            if self.pk is None and not others.exists():
                self.primary = True
            if self.primary:
                others.filter(primary=True).update(primary=False)
            super().save(*args, **kwargs)

    def clean(self) -> None:
        super().clean()
        try:
            self.name = normalised(self.name)
        except ValidationError as error:
            raise ValidationError({"name": error.messages}) from None
        self.chain = self.chain.replace("\r\n", "\n").strip()
        self.private_key = (self.private_key or "").replace("\r\n", "\n").strip()
        server = getattr(self._environment(), "server", None)
        if server is not None:
            self._check_free(server)
        if self.is_uploaded:
            if not self.chain or not self.private_key:
                raise ValidationError({"source": "An uploaded certificate needs its chain and its key."})
            certificates.check(self.chain, self.private_key, self.name)

    def validate_constraints(self, exclude: Any = None) -> None:
        """That there is one primary is not for the form to refuse: `save` sees to it."""
        super().validate_constraints(exclude={*(exclude or ()), "environment"})

    @property
    def is_uploaded(self) -> bool:
        return self.source == self.Source.UPLOADED

    def _environment(self) -> Any:
        """In a form of a new environment it has no key yet."""
        try:
            return self.environment
        except ObjectDoesNotExist:
            return None

    def _check_free(self, server: Any) -> None:
        taken = Domain.objects.filter(server=server, name=self.name).exclude(pk=self.pk).select_related("environment")
        for other in taken:
            raise ValidationError({"name": f"{self.name} leads to {other.environment} on this server already."})
        base = f".{server.base_domain}"
        if self.name.endswith(base) and server.environments.filter(subdomain=self.name.removesuffix(base)).exists():
            raise ValidationError({"name": f"{self.name} is a name that oCore has made for an environment here."})


def of_environments(path: str = "domains") -> Any:
    """For lists that show addresses: without what is large or secret."""
    return Prefetch(path, Domain.objects.defer("chain", "private_key"))
