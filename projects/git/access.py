"""What oCore shows a git host to be let in, and by what it knows that host; and the memory it is handed over in."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from . import errors
from .address import Address
from .host_keys import shipped_lines

CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def secrets_of(token: str, *keys: str) -> list[str]:
    """A token, and the lines of keys."""
    lines = (line for key in keys for line in key.splitlines() if not line.startswith("-----"))
    return [one for one in (token, *lines) if one]


@dataclass(frozen=True)
class Access:
    """Credentials for one origin. Whoever asks elsewhere gets `elsewhere`."""

    username: str = ""
    token: str = field(default="", repr=False)
    """For https."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Private halves for ssh in OpenSSH's form, tried in this order."""
    accounts_own: bool = True
    """Whether ssh may use what the portal's account has: its agent, the keys in its `.ssh`."""
    known_hosts: Callable[[], str] = shipped_lines
    """The host keys that are accepted or revoked, as ssh reads them; asked before each connection."""

    def __post_init__(self) -> None:
        if CONTROLS.search(self.username + self.token):
            raise errors.RepositoryRefused(
                "The user name or access token contains a line break or another control character.",
                advice="Enter it again, without white space around it.",
            )

    @property
    def secrets(self) -> list[str]:
        """What no text may show; of a key its lines, as texts come by lines."""
        return secrets_of(self.token, *self.keys)

    @property
    def elsewhere(self) -> "Access":
        """Known hosts only. Who has keys of its own is nobody else anywhere: not the account, by its agent."""
        return replace(self, username="", token="", keys=(), accounts_own=self.accounts_own and not self.keys)

    def at(self, address: Address, origin: str) -> "Access":
        return self if address.origin == origin else self.elsewhere


@contextlib.contextmanager
def handed_over(*contents: str) -> Iterator[tuple[str, ...]]:
    """Paths of files that have these contents and only live in memory, as long as this context: this process holds
    them, so they are gone with it, however it ends, and no disk ever has them. Only this user can open them."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(_in_memory(content)) for content in contents)


@contextlib.contextmanager
def _in_memory(content: str) -> Iterator[str]:
    descriptor = os.memfd_create("ocore", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        with open(descriptor, "w", closefd=False) as file:
            file.write(content)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)
