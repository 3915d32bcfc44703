"""What an environment and its project may say of how clients come in: looked up by the edge, no deployment needed."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

import bcrypt
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from ocore.fields import EncryptedMappingField, MemoryField, NameListField

ROUNDS = 10
"""2^10, about 60 ms; the edge keeps in mind what it has compared already."""
LONGEST_PASSWORD = 72
"""Bytes: bcrypt looks at no more."""
LARGEST_BODY = 4 * 1024**3
_HASH = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
TWO_YEARS = 2 * 365 * 24 * 3600


class SearchEngines(models.TextChoices):
    AUTO = "auto", "Auto: kept out unless it is production"
    ALLOW = "allow", "Allowed"
    HIDE = "hide", "Kept out"


class PasswordsField(EncryptedMappingField):
    """User names to passwords, of which only the bcrypt hash is kept; one that is a bcrypt hash stays as it is."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = hashed(getattr(model_instance, self.attname))
        setattr(model_instance, self.attname, value)
        return value

    def get_prep_value(self, value: Any) -> Any:
        return super().get_prep_value(hashed(value))


def hashed(passwords: Mapping[str, str | None] | None) -> dict[str, str | None] | None:
    if passwords is None:
        return None
    return {name: text if text is None or _HASH.fullmatch(text) else _hash(text) for name, text in passwords.items()}


def _hash(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(ROUNDS)).decode()


def validate_passwords(passwords: Mapping[str, str | None] | None, field: str = "basic_auth") -> None:
    for name, text in (passwords or {}).items():
        if text is not None and not text:
            raise ValidationError({field: f"“{name}” has no password."})
        if text is not None and (len(text.encode()) > LONGEST_PASSWORD or "\x00" in text):
            raise ValidationError({field: f"The password of “{name}” is longer than {LONGEST_PASSWORD} bytes."})


def validate_networks(networks: Iterable[str] | None, field: str) -> None:
    """IP addresses and networks (CIDR)."""
    for text in networks or ():
        try:
            if "%" in text:
                raise ValueError("a zone")
            ipaddress.ip_network(text)
        except ValueError:
            raise ValidationError(
                {field: f"“{text[:60]}” is neither an address nor a network. Write 203.0.113.7 or 198.51.100.0/24."}
            ) from None


class EdgeOverrides(models.Model):
    """Inherited like all settings (`projects.inheritance`), but in force as soon as the edge has been told."""

    allowed_addresses = NameListField(
        null=True,
        blank=True,
        help_text="Addresses and networks (CIDR) that may come in; others get 403. none is everybody.",
    )
    basic_auth = PasswordsField(
        null=True,
        blank=True,
        verbose_name="password prompt",
        help_text="Who is let in after a prompt of the browser, a “name = password” line each. Only a hash is kept. "
        "A name alone takes an inherited one away.",
    )
    search_engines = models.CharField(
        max_length=10,
        null=True,
        blank=True,
        choices=SearchEngines.choices,
        help_text="Whether answers ask search engines to stay away (X-Robots-Tag: noindex).",
    )
    body_limit = MemoryField(
        null=True,
        blank=True,
        validators=[MinValueValidator(64 * 1024), MaxValueValidator(LARGEST_BODY)],
        verbose_name="largest request",
        help_text="Of a request's body, uploads among them, such as 256M; larger ones get 413.",
    )
    https_only = models.BooleanField(
        null=True,
        blank=True,
        verbose_name="HTTPS only",
        help_text="Whether http:// leads to https://, where the server has an HTTPS port.",
    )
    hsts_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(TWO_YEARS)],
        verbose_name="HSTS",
        help_text="Seconds for which browsers then refuse http:// for the name by themselves; 0 is not said.",
    )
    redirect_generated_name = models.BooleanField(
        null=True,
        blank=True,
        help_text="Whether the name below the server's domain leads to the primary domain, where there is one.",
    )
    requests_per_second = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(100_000)],
        help_text="Of one client's address, on average over ten seconds; more gets 429. 0 for no limit.",
    )
    request_burst = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="Of one client's address within one second.",
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        validate_networks(self.allowed_addresses, "allowed_addresses")
        validate_passwords(self.basic_auth)
