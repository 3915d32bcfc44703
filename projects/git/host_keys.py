"""Host keys of ssh: read from what ssh keeps or a host offers, named by fingerprint, looked up by host."""

import base64
import binascii
import hashlib
import hmac
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import HostKeyUnknown

SHIPPED = Path(__file__).with_name("shipped_known_hosts")
SCAN_SECONDS = 5
"""Without an answer of the host."""
_SCAN_DEADLINE = 15
_TYPES = "ed25519,ecdsa,rsa"
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_PLACE = re.compile(rf"(?P<host>{_HOST.pattern})|\[(?P<bracketed>{_HOST.pattern})\]:(?P<port>[0-9]{{1,5}})")
_WORDS = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}


@dataclass(frozen=True)
class HostKey:
    """One public key of a host. `host` as ssh writes it, `git.example.com` or `[git.example.com]:2222`; or hashed."""

    host: str
    type: str
    key: str
    """base64, as it stands in `known_hosts`."""
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as ssh and the hosts' own pages have it."""
        digest = hashlib.sha256(base64.b64decode(self.key)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def kind(self) -> str:
        """The type in ssh's own short word, such as ED25519."""
        return _WORDS.get(self.type, "ECDSA" if self.type.startswith("ecdsa-") else self.type)

    @property
    def line(self) -> str:
        return f"{'@revoked ' if self.revoked else ''}{self.host} {self.type} {self.key}"

    def is_of(self, host: str) -> bool:
        """Whether ssh means this one when it looks for `host` (in small letters, with port as above)."""
        return any(_matches(pattern, host) for pattern in self.host.split(","))


def place(host: str, port: int | None = None) -> str:
    """How ssh writes a host and port where it keeps keys."""
    return host.lower() if port in (None, 22) else f"[{host.lower()}]:{port}"


def parse_place(text: str) -> tuple[str, int] | None:
    """Host and port of `git.example.com`, `[git.example.com]:2222` or, as people write it, `git.example.com:2222`."""
    name, colon, number = text.strip().lower().rpartition(":")
    written = (
        f"[{name}]:{number}" if colon and number.isdecimal() and not name.startswith("[") else text.strip().lower()
    )
    match = _PLACE.fullmatch(written)
    if not match:
        return None
    port = int(match["port"] or 22)
    return (match["host"] or match["bracketed"], port) if 1 <= port <= 65535 else None


def parse(text: str) -> list[HostKey]:
    """The keys in a `known_hosts` file or the output of `ssh-keyscan`; lines that hold none are left out."""
    return [found for line in text.splitlines() if (found := _parse_line(line))]


@cache
def shipped() -> tuple[HostKey, ...]:
    return tuple(parse(SHIPPED.read_text()))


def shipped_lines() -> str:
    return lines(shipped())


def lines(keys: Iterable[HostKey]) -> str:
    return "".join(f"{key.line}\n" for key in keys)


def scan(host: str, port: int | None = None) -> list[HostKey]:
    """What the host offers now, its best key first. Proves nothing: whoever is in between can offer as well. Empty
    when it doesn't answer in `SCAN_SECONDS`, or there is no ssh-keyscan on this machine."""
    command = ["ssh-keyscan", "-T", str(SCAN_SECONDS), "-p", str(port or 22), "-t", _TYPES, "--", host.lower()]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SCAN_DEADLINE, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return []
    here = place(host, port)
    keys = {key.fingerprint: key for key in parse(done.stdout.decode(errors="replace")) if key.is_of(here)}
    order = ("ED25519", "ECDSA", "RSA")
    return sorted(keys.values(), key=lambda key: order.index(key.kind) if key.kind in order else len(order))


def with_offer(error: HostKeyUnknown, host: str, port: int | None) -> HostKeyUnknown:
    """The same error, saying what the host offers, to be compared with what it publishes."""
    offered = scan(host, port)
    if not offered:
        return error
    words = ", ".join(f"{key.fingerprint} ({key.kind})" for key in offered)
    return HostKeyUnknown(f"{error.message} It offers {words}.", detail=error.detail, advice=error.advice)


def _parse_line(line: str) -> HostKey | None:
    words = line.split()
    revoked = bool(words) and words[0] == "@revoked"
    words = words[1:] if revoked else words
    if len(words) < 3 or words[0].startswith(("#", "@")):
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    size = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + size] != words[1].encode() or len(blob) <= 4 + size:
        return None
    return HostKey(words[0], words[1], words[2], revoked)


def _matches(pattern: str, host: str) -> bool:
    """Plain names, and those that ssh has hashed (`|1|salt|HMAC-SHA1 of the name`). oCore never wrote wildcards."""
    if not pattern.startswith("|1|"):
        return pattern.lower() == host
    try:
        salt, hashed = (base64.b64decode(part, validate=True) for part in pattern[3:].split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, host.encode(), "sha1").digest(), hashed)
