"""What a commit says of its submodules: `.gitmodules` as data. `git submodule` itself is never run."""

import contextlib
import ipaddress
import socket
from collections.abc import Mapping

from django.core.exceptions import ValidationError

from .address import Address, join
from .errors import UnsafeRepository
from .tree import shown


def urls_by_path(listing: bytes) -> dict[str, str]:
    """From `git config --list -z` of a `.gitmodules`: the path of each submodule, and its URL as written there."""
    names: dict[str, dict[str, str]] = {}
    for entry in listing.decode("utf-8", "surrogateescape").split("\x00"):
        key, _, value = entry.partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule" and variable in ("path", "url"):
            names.setdefault(name, {})[variable] = value
    return {entry["path"]: entry["url"] for entry in names.values() if entry.keys() >= {"path", "url"}}


def address_of(path: str, urls: Mapping[str, str], parent: Address) -> Address:
    """Where the submodule at `path` is fetched from. Raises `UnsafeRepository` with what is wrong with it."""
    if path not in urls:
        raise UnsafeRepository(
            f"“{shown(path)}” is a submodule, but .gitmodules doesn't say where it comes from.",
            advice="Add it with “git submodule add”, or remove it with “git rm --cached”, and push again.",
        )
    try:
        address = join(parent, urls[path])
    except ValidationError as error:
        raise UnsafeRepository(
            f"The submodule “{shown(path)}” has an address that oCore doesn't fetch from: “{shown(urls[path])}”.",
            detail=" ".join(error.messages),
            advice="Give it an https or ssh address in .gitmodules and push again.",
        ) from None
    if address.scheme == "file" and parent.scheme != "file":
        raise UnsafeRepository(f"The submodule “{shown(path)}” is a folder of this machine, which isn't fetched.")
    if address.origin != parent.origin and is_this_machine(address.host):
        raise UnsafeRepository(
            f"The submodule “{shown(path)}” is on “{address.host}”, which is this machine or its link.",
            advice="A submodule on another host than its repository must be on one that others reach too.",
        )
    return address


def is_this_machine(host: str) -> bool:
    """Whether the name leads to a loopback or link-local address (cloud metadata); an unknown name doesn't."""
    found: list[str] = []
    with contextlib.suppress(OSError, UnicodeError):
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    given = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
    addresses = [getattr(address, "ipv4_mapped", None) or address for address in given]
    return any(address.is_loopback or address.is_link_local or address.is_unspecified for address in addresses)
