"""Where a repository is: the URLs that oCore accepts, taken apart.

An allow-list, because what git itself accepts includes running programs (`ext::`), options (`ssh://-oProxyCommand=`)
and any folder of the portal's machine.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError

MAX_LENGTH = 500
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_PATH = r"[A-Za-z0-9._~+/-]+"
_HTTPS = re.compile(
    rf"https://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?/(?P<path>(?:[A-Za-z0-9._~+/-]|%[0-9A-Fa-f]{{2}})+)"
)
_SSH = re.compile(rf"ssh://(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?/(?P<path>{_PATH})")
_SCP = re.compile(rf"(?P<user>{_USER})@(?P<host>{_HOST}):(?P<path>{_PATH})")
_FILE = re.compile(r"file://(?P<path>/[A-Za-z0-9._~+/-]+)")
FORMS = "Write https://host/path, ssh://user@host/path or git@host:path."


@dataclass(frozen=True)
class Address:
    """A repository's URL, known to be one that git may be given."""

    url: str
    scheme: str
    """`https`, `ssh` (also for `git@host:path`) or `file`."""
    host: str = ""
    user: str = ""
    port: int | None = None
    path: str = ""

    @property
    def origin(self) -> str:
        """Who gets the credentials: scheme, host and port."""
        return f"{self.scheme}://{self.host.lower()}{f':{self.port}' if self.port else ''}"

    def __str__(self) -> str:
        return self.url


def parse(url: str) -> Address:
    """Raises `ValidationError` for whatever is not of the forms above; a `file://` one is looked up on the disk."""
    if len(url) > MAX_LENGTH:
        raise ValidationError(f"The repository's address has more than {MAX_LENGTH} characters.")
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "file":
        return _parse_file(url)
    if separator and scheme not in ("https", "ssh"):
        raise ValidationError(f"Repositories are reached by https or ssh, not by “{_shown(scheme)}”. {FORMS}")
    authority = rest.split("/", 1)[0]
    user = authority.rpartition("@")[0]
    if separator and user and (scheme == "https" or ":" in user):
        raise ValidationError("Leave user name and password out of the address: they have fields of their own.")
    match = (_HTTPS if scheme == "https" else _SSH).fullmatch(url) if separator else _SCP.fullmatch(url)
    if not match:
        raise ValidationError(f"“{_shown(url)}” is not the address of a repository. {FORMS}")
    parts = match.groupdict()
    port = int(parts["port"]) if parts.get("port") else None
    if port is not None and not 1 <= port <= 65535:
        raise ValidationError(f"{port} is not a port.")
    _check_path(parts["path"], scheme if separator else "ssh")
    return Address(url, scheme if separator else "ssh", parts["host"], parts.get("user") or "", port, parts["path"])


def join(parent: Address, url: str) -> Address:
    """The address of a submodule, whose `url` may be relative to its parent's as git understands it."""
    if not url.startswith(("./", "../")):
        return parse(url)
    head, separator, path = _split(parent)
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            path, url = path.rstrip("/").rpartition("/")[0], url[3:]
            if not path and parent.scheme != "file" and url.startswith("../"):
                raise ValidationError("The relative address leads out of the host.")
        else:
            url = url[2:]
    return parse(f"{head}{separator}{path}/{url}" if path or separator != ":" else f"{head}{separator}{url}")


def _split(address: Address) -> tuple[str, str, str]:
    """What stays, what separates, and the path that a relative address walks on."""
    if address.scheme == "file":
        return "file://", "", address.path
    if "://" not in address.url:
        head, _, path = address.url.partition(":")
        return head, ":", path
    head = address.url[: len(address.url) - len(address.path) - 1]
    return head, "", f"/{address.path}"


def _parse_file(url: str) -> Address:
    match = _FILE.fullmatch(url)
    if not match:
        raise ValidationError(f"“{_shown(url)}” is not the address of a folder. Write file:///folder/repository.")
    _check_path(match["path"], "file")
    given = Path(match["path"])
    allowed = [Path(folder).resolve() for folder in settings.OCORE_FILE_REPOSITORIES]
    resolved = given.resolve()
    if not any(resolved != folder and resolved.is_relative_to(folder) for folder in allowed):
        raise ValidationError(
            f"“{given}” is not in a folder from which repositories are accepted. "
            "The operator of this portal names those in OCORE_FILE_REPOSITORIES."
        )
    if not _FILE.fullmatch(f"file://{resolved}"):
        raise ValidationError(f"“{given}” leads to a folder whose name git would misread; rename it.")
    return Address(f"file://{resolved}", "file", path=str(resolved))


def _check_path(path: str, scheme: str) -> None:
    segments = path.rstrip("/").split("/")
    if not path.strip("/") or ".." in segments or "." in segments:
        raise ValidationError("The address must lead to a repository without “.” or “..” on its way.")
    if path.startswith("-") or (scheme != "https" and any(segment.startswith("-") for segment in segments[:1])):
        raise ValidationError("The path of a repository must not begin with a dash.")
    if re.search(r"%(?:[01][0-9a-fA-F]|7[fF]|2[eEfF]|5[cC])", path):
        raise ValidationError("The address holds escaped characters that no repository's name needs.")


def _shown(text: str) -> str:
    """Safe to repeat to a person: without what may be a password before an @, and not too long."""
    return re.sub(r"(?<=//)[^/@]*@|[\x00-\x1f\x7f]", "", text)[:100]
