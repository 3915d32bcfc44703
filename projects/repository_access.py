"""What a row must have by which oCore gets into a git repository: its address, a token for https, a key for ssh."""

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from ocore.fields import EncryptedTextField
from projects import known_hosts, validators
from projects.deploy_keys import new_key, public_half
from projects.git import Access, Deadlines, Mirror, address
from projects.git.access import CONTROLS, secrets_of


class RepositoryAccess(models.Model):
    """One repository and the way into it."""

    repository_url = models.CharField(
        max_length=500,
        blank=True,
        validators=[validators.validate_repository_url],
        verbose_name="git repository",
        help_text="https:// or ssh. Empty: plain Odoo, deployed by hand.",
    )
    repository_username = models.CharField(max_length=100, blank=True, help_text="For https; many hosts ignore it.")
    repository_token = EncryptedTextField(
        blank=True, help_text="Access token for a private repository over https. Encrypted, never shown again."
    )
    deploy_key = EncryptedTextField(blank=True, editable=False)
    """The private half, in OpenSSH's form; for ssh. Only `make_deploy_key` writes it."""
    deploy_key_made_at = models.DateTimeField(null=True, blank=True, editable=False)
    previous_deploy_key = EncryptedTextField(blank=True, editable=False)
    previous_deploy_key_until = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        for name in ("repository_username", "repository_token"):
            if CONTROLS.search(getattr(self, name).strip()):
                raise ValidationError({name: "A line break or another control character is in it. Enter it again."})
        rows = type(self)._default_manager.filter(pk=self.pk) if self.repository_token else ()
        if any(
            before.repository_token == self.repository_token
            and _origin(before.repository_url) != _origin(self.repository_url)
            for before in rows
        ):
            raise ValidationError(
                {"repository_token": "It was typed for another host. Type one for this host, or empty the field."}
            )

    @property
    def secrets(self) -> list[str]:
        """What no text may show. Whatever was typed, this raises nothing: also what goes wrong by it is told."""
        token = self.repository_token
        stripped = [token.strip()] if token.strip() != token else []
        return [*secrets_of(token, self.deploy_key, self.previous_deploy_key), *filter(None, stripped)]

    @property
    def deploy_key_comment(self) -> str:
        """By which somebody at the git host recognises the key."""
        return f"{settings.OCORE_NAMESPACE}-{self._meta.model_name}-{self.pk}"

    @property
    def deploy_key_public(self) -> str:
        """The half for the git host; empty where there is no key."""
        return public_half(self.deploy_key, self.deploy_key_comment) if self.deploy_key else ""

    @property
    def previous_deploy_key_valid(self) -> bool:
        until = self.previous_deploy_key_until
        return bool(self.previous_deploy_key and until and timezone.now() < until)

    @property
    def over_ssh(self) -> bool:
        return bool(self.repository_url) and not self.repository_url.startswith(("https://", "file://"))

    def make_deploy_key(self) -> None:
        """A new pair. The older one is tried beside it for a while, until somebody has pasted the new one; made again
        within that, it is still the same older one that is likely to be pasted."""
        if not self.previous_deploy_key_valid:
            self.previous_deploy_key = self.deploy_key
            grace = timedelta(seconds=settings.OCORE_SECRET_GRACE_SECONDS)
            self.previous_deploy_key_until = timezone.now() + grace if self.deploy_key else None
        self.deploy_key, self.deploy_key_made_at = new_key(), timezone.now()
        self._save_keys()

    def remove_deploy_key(self) -> None:
        """From now on ssh uses what the portal's account has, as without a key."""
        self.deploy_key = self.previous_deploy_key = ""
        self.deploy_key_made_at = self.previous_deploy_key_until = None
        self._save_keys()

    def _save_keys(self) -> None:
        self.save(
            update_fields=["deploy_key", "deploy_key_made_at", "previous_deploy_key", "previous_deploy_key_until"]
        )

    def access(self, *, newest_key_only: bool = False) -> Access:
        """`newest_key_only` finds out whether that one is in its place."""
        previous = self.previous_deploy_key if self.previous_deploy_key_valid and not newest_key_only else ""
        return Access(
            self.repository_username.strip(),
            self.repository_token.strip(),
            tuple(key for key in (self.deploy_key, previous) if key),
            known_hosts=known_hosts.as_ssh_reads_them,
        )

    def mirror_in(self, path: Path, *, access: Access | None = None, deadlines: Deadlines | None = None) -> Mirror:
        return Mirror(self.repository_url, path, access=access or self.access(), deadlines=deadlines)


def _origin(url: str) -> str:
    """Who gets the credentials; of what is no address, nobody."""
    try:
        return address.parse(url).origin
    except ValidationError:
        return ""
