"""What a row must have by which oCore gets into a git repository: its address, a token for https, a key for ssh."""

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone

from ocore.fields import EncryptedTextField
from projects import known_hosts, validators
from projects.deploy_keys import new_key, public_half
from projects.git import Access, Deadlines, Mirror


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
        """A new pair. An older one is tried beside it for a while, until somebody has pasted the new one."""
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
