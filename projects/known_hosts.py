"""The ssh keys of git hosts: those that come with oCore, those that a person has accepted, those that are revoked."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from django.db import models, transaction

from ocore.errors import ExpectedError
from projects.git import host_keys
from projects.git.environment import seen_first
from projects.git.host_keys import HostKey


class HostKeyNotOffered(ExpectedError):
    """What was to be accepted or revoked isn't there."""

    default_advice = "Look again at what the host offers, and at what is known of it."


class KnownHost(models.Model):
    """What a person has decided about one key of one host."""

    class State(models.TextChoices):
        ACCEPTED = "accepted", "Accepted"
        REVOKED = "revoked", "Revoked"

    host = models.CharField(max_length=270, help_text="As ssh writes it: git.example.com, [git.example.com]:2222.")
    key_type = models.CharField(max_length=50, verbose_name="type")
    key = models.TextField()
    fingerprint = models.CharField(max_length=60)
    state = models.CharField(max_length=10, choices=State.choices)
    decided_by = models.CharField(max_length=200)
    decided_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["host", "key_type"]
        verbose_name = "SSH host key"
        constraints = [models.UniqueConstraint(fields=["host", "fingerprint"], name="known_host_decided_once")]
        permissions = [("manage_known_hosts", "Can look up, accept and revoke ssh host keys of git hosts")]

    def __str__(self) -> str:
        return f"{self.host} {self.fingerprint}"

    @property
    def host_key(self) -> HostKey:
        return HostKey(self.host, self.key_type, self.key, self.state == self.State.REVOKED)


@dataclass(frozen=True)
class Known:
    """A key of a host that is accepted or revoked, and where that comes from."""

    key: HostKey
    source: str


@dataclass(frozen=True)
class Offered:
    """A key that a host shows now, and what that means."""

    key: HostKey
    state: str
    """`known`, `new`, `revoked`, or `changed`: another of its type is accepted, or the host shows no accepted one."""


def as_ssh_reads_them() -> str:
    """Of all hosts. What is revoked is so for each file that ssh reads, also the one of earlier versions."""
    rows = [row.host_key for row in KnownHost.objects.all()]
    revoked = {(key.host, key.fingerprint) for key in rows if key.revoked}
    shipped = [key for key in host_keys.shipped() if (key.host, key.fingerprint) not in revoked]
    return host_keys.lines([*shipped, *rows])


def known(host: str) -> list[Known]:
    """What is known of `host` (as ssh writes it) on this machine; what a person decided first."""
    found: dict[str, Known] = {}
    for row in KnownHost.objects.filter(host=host):
        found[row.fingerprint] = Known(row.host_key, f"by {row.decided_by} at {row.decided_at:%Y-%m-%d %H:%M} UTC")
    for source, keys in (
        ("comes with oCore", host_keys.shipped()),
        ("accepted at first sight, by an earlier oCore", seen_first()),
    ):
        for key in keys:
            if key.is_of(host):
                found.setdefault(key.fingerprint, Known(replace(key, host=host), source))
    return list(found.values())


def offered(host: str, port: int | None) -> list[Offered]:
    """Asks the host, for a few seconds. Empty: it doesn't answer."""
    here, keys = known(host_keys.place(host, port)), host_keys.scan(host, port)
    accepted = {one.key.fingerprint: one.key.type for one in here if not one.key.revoked}
    another = bool(accepted) and not any(key.fingerprint in accepted for key in keys)
    return [Offered(key, _state(key, here, another or key.type in accepted.values())) for key in keys]


def accept(host: str, port: int | None, fingerprints: Iterable[str], by: str) -> list[KnownHost]:
    """Accept those of the keys that the host offers at this moment. Each revokes what was accepted of its type until
    now: that was changed, or is somebody in between. Raises `HostKeyNotOffered`, and then nothing is accepted."""
    wanted = set(fingerprints)
    keys = [one.key for one in offered(host, port) if one.key.fingerprint in wanted]
    missing = wanted - {key.fingerprint for key in keys}
    if missing or not keys:
        raise HostKeyNotOffered(f"{host} does not offer {' or '.join(sorted(missing)) or 'any key'} now.")
    here = host_keys.place(host, port)
    types = {key.type for key in keys}
    with transaction.atomic():
        for one in known(here):
            if one.key.type in types and one.key.fingerprint not in wanted and not one.key.revoked:
                _decide(one.key, here, KnownHost.State.REVOKED, by)
        return [_decide(key, here, KnownHost.State.ACCEPTED, by) for key in keys]


def revoke(host: str, port: int | None, fingerprint: str, by: str) -> KnownHost:
    """From now on a host that shows this key is refused. Raises `HostKeyNotOffered` if it isn't known."""
    here = host_keys.place(host, port)
    for one in known(here):
        if one.key.fingerprint == fingerprint:
            return _decide(one.key, here, KnownHost.State.REVOKED, by)
    raise HostKeyNotOffered(f"No key {fingerprint} of {here} is known.")


def _state(key: HostKey, here: list[Known], replaces: bool) -> str:
    for one in here:
        if one.key.fingerprint == key.fingerprint:
            return "revoked" if one.key.revoked else "known"
    return "changed" if replaces else "new"


def _decide(key: HostKey, host: str, state: str, by: str) -> KnownHost:
    row, _ = KnownHost.objects.update_or_create(
        host=host,
        fingerprint=key.fingerprint,
        defaults={"key_type": key.type, "key": key.key, "state": state, "decided_by": by},
    )
    return row
