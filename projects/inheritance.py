"""Who set a value: project -> environment -> instance, and oCore's defaults at the end.

`None` inherits; every other value counts, also `False`, `0` and an empty list. Mappings are inherited entry by entry,
and an entry whose value is `None` takes an inherited one away. To add a setting, add a field to one of
the classes of overrides and its default to `settings.OCORE_DEFAULTS`; a system check holds the two together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from ocore.fields import EncryptedMappingField, MappingField, MemoryField, NameListField
from ocore.forms import format_size
from projects import validators
from projects.edge_settings import EdgeOverrides


class Strategy(models.TextChoices):
    AUTO = "auto", "Auto: the gentlest that is safe for this push"
    BLUE_GREEN = "blue_green", "Blue-green: the new version starts beside the old one, where no module is updated"
    ROLLING = "rolling", "Rolling: one instance after the other, where no module is updated and there are several"
    RECREATE = "recreate", "Recreate: always replace what runs; requests wait at the edge meanwhile"


class UpdatePolicy(models.TextChoices):
    CHANGED = "changed", "Changed: modules whose files changed"
    VERSION = "version", "Version: modules whose manifest version rose"
    ALL = "all", "All: every module, each time"
    NONE = "none", "None: never update by itself"


class InstanceOverrides(models.Model):
    """What an instance, and everything above it, may set."""

    workers = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MaxValueValidator(64)], help_text="HTTP worker processes; 0 is threaded."
    )
    cron_threads = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(16)],
        help_text="Threads for scheduled actions; 0 for none.",
    )
    memory_limit = MemoryField(
        null=True,
        blank=True,
        validators=[MinValueValidator(256 * 1024**2)],
        help_text="Memory of the container, such as 2G.",
    )
    cpu_limit = models.FloatField(
        null=True,
        blank=True,
        verbose_name="CPU limit",
        validators=[validators.validate_cpus],
        help_text="Processors that the container may use, such as 1.5; 0 for all of the server's.",
    )
    limit_memory_soft = MemoryField(
        null=True, blank=True, help_text="Odoo: a worker above this ends after its request. Per worker."
    )
    limit_memory_hard = MemoryField(null=True, blank=True, help_text="Odoo: a worker above this is ended at once.")
    limit_time_cpu = models.PositiveIntegerField(null=True, blank=True, help_text="CPU seconds per request.")
    limit_time_real = models.PositiveIntegerField(null=True, blank=True, help_text="Seconds per request.")
    custom_modules = NameListField(
        null=True,
        blank=True,
        help_text="Which of the repository's addons to install. * is all that are installable at the first deployment; "
        "none is none.",
    )
    odoo_conf = MappingField(
        null=True,
        blank=True,
        verbose_name="odoo.conf options",
        help_text="Further options of odoo.conf, a “name = value” line each. A name alone takes an inherited one away.",
    )
    environment_variables = MappingField(
        null=True, blank=True, help_text="Of the container, a “NAME = value” line each."
    )
    secret_variables = EncryptedMappingField(
        null=True, blank=True, help_text="As above, but encrypted, and never shown again."
    )
    health_path = models.CharField(
        max_length=200,
        null=True,
        blank=True,
        validators=[validators.validate_path],
        help_text="Must answer 200 before a deployment goes live.",
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        validators.validate_odoo_options(self.odoo_conf)
        validators.validate_variables(self.environment_variables, "environment_variables")
        validators.validate_variables(self.secret_variables, "secret_variables")


class EnvironmentOverrides(EdgeOverrides, InstanceOverrides):
    """What an environment and its project may set besides."""

    odoo_version = models.CharField(
        max_length=20, null=True, blank=True, validators=[validators.validate_odoo_version], help_text="Such as 19.0."
    )
    odoo_image = models.CharField(
        max_length=255,
        null=True,
        blank=True,
        validators=[validators.validate_image],
        verbose_name="Odoo image",
        help_text="Base image instead of oCore's own choice; {version} stands for the Odoo version.",
    )
    auto_deploy = models.BooleanField(
        null=True, blank=True, help_text="Whether a push to the branch deploys by itself."
    )
    skip_words = models.BooleanField(
        null=True,
        blank=True,
        help_text="Whether a push is left out whose head commit says so, such as [skip deploy] or [skip ci]. Never in "
        "production.",
    )
    deploy_paths = NameListField(
        null=True,
        blank=True,
        verbose_name="deploy only for paths",
        help_text="A push deploys only if it changes one of these: addons (any addon's files, requirements.txt, "
        "apt.txt), or patterns such as crm/** or *.txt. none: any change deploys.",
    )
    strategy = models.CharField(
        max_length=20, null=True, blank=True, choices=Strategy.choices, verbose_name="deployment strategy"
    )
    update_policy = models.CharField(
        max_length=20,
        null=True,
        blank=True,
        choices=UpdatePolicy.choices,
        help_text="Which installed modules a deployment updates in the database.",
    )
    pip_packages = NameListField(
        null=True, blank=True, help_text="Python packages to install besides the repository's requirements.txt."
    )
    health_deadline = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(5), MaxValueValidator(3600)],
        help_text="Seconds after which a new version that isn't healthy is taken back.",
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        validators.validate_modules(self.custom_modules)
        validators.validate_pip_packages(self.pip_packages)
        validators.validate_paths(self.deploy_paths)


def names(overrides: type[models.Model]) -> list[str]:
    return [model_field.name for model_field in overrides._meta.local_fields]


INSTANCE_SETTINGS: tuple[str, ...] = tuple(names(InstanceOverrides))
SETTINGS: tuple[str, ...] = tuple(names(EnvironmentOverrides))
EDGE_SETTINGS: tuple[str, ...] = tuple(names(EdgeOverrides))
"""In force as soon as the edge has been told: no deployment freezes them."""
SECRET_SETTINGS = frozenset({"secret_variables", "basic_auth"})
FIXED_IN_PRODUCTION: dict[str, Any] = {"skip_words": False}
"""What nobody sets: production's rules for safety."""


@dataclass(frozen=True)
class Origin:
    """Who set a value."""

    level: str
    """`instance`, `environment`, `project`, `default`, or what else decides it."""
    name: str = ""

    def __str__(self) -> str:
        if self.name:
            return f"{self.level} {self.name}"
        return "oCore's defaults" if self.level == "default" else self.level


DEFAULT = Origin("default")


@dataclass(frozen=True)
class Effective:
    """A setting's value as it applies, and who set it; for mappings, who set each entry."""

    name: str
    value: Any
    origin: Origin
    entries: dict[str, Origin] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return str(EnvironmentOverrides._meta.get_field(self.name).verbose_name)  # type: ignore[union-attr]

    def __str__(self) -> str:
        return f"{display(self.name, self.value)}, from {self.origin}"


def display(name: str, value: Any) -> str:
    """A setting's value in words, without secrets."""
    model_field: Any = EnvironmentOverrides._meta.get_field(name)
    if name in SECRET_SETTINGS:
        return ", ".join(sorted(value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(model_field, MemoryField):
        return format_size(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {text}" for key, text in sorted(value.items())) or "none"
    if name == "odoo_image" and value == "":
        return str(settings.OCORE_ODOO_IMAGE)
    return str(dict(model_field.choices).get(value, value)) if model_field.choices else str(value)


def chain(holder: Any) -> Iterator[tuple[Origin, Any]]:
    """The holder and what it inherits from, nearest first."""
    while holder is not None:
        yield Origin(holder.level, holder.name), holder
        holder = holder.inherits_from


def resolve(holder: Any, name: str) -> Effective:
    """The setting as it applies to a project, environment or instance."""
    if name in FIXED_IN_PRODUCTION and getattr(holder, "kind", "") == "production":
        return Effective(name, FIXED_IN_PRODUCTION[name], Origin("production's rules"))
    default = settings.OCORE_DEFAULTS[name]
    levels = [(origin, getattr(level, name, None)) for origin, level in chain(holder)]
    if isinstance(default, dict):
        return _merge(name, [*levels, (DEFAULT, default)])
    for origin, value in levels:
        if value is not None:
            return Effective(name, value, origin)
    return Effective(name, default, DEFAULT)


def _merge(name: str, levels: list[tuple[Origin, Any]]) -> Effective:
    merged: dict[str, Any] = {}
    entries: dict[str, Origin] = {}
    for origin, mapping in levels:
        for key, text in (mapping or {}).items():
            if key not in entries:
                entries[key], merged[key] = origin, text
    value = {key: text for key, text in merged.items() if text is not None}
    nearest = next((origin for origin, mapping in levels if mapping is not None), DEFAULT)
    return Effective(name, value, nearest, {key: entries[key] for key in value})


def inherited(holder: Any, name: str) -> Effective:
    """What the setting would be if the holder itself said nothing."""
    return resolve(holder.inherits_from, name)


def effective(holder: Any) -> dict[str, Effective]:
    return {name: resolve(holder, name) for name in SETTINGS}
