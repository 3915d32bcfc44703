"""The environment in which git and its ssh run: nothing of the machine's configuration but its way to the network,
no prompt, no protocol but the address's; and the credentials, for as long as the command runs.

A token reaches git by `GIT_ASKPASS`: a script that answers for one origin only. A deploy key and the known host keys
are files in memory, of which ssh gets the path. None of them is in an argument, an address or a file on a disk.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from .access import Access, handed_over
from .address import Address
from .host_keys import HostKey, parse

ASKPASS = Path(__file__).with_name("askpass.sh")
_PASSED_ON = (
    "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
    "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)  # fmt: skip
_SSH = (
    'ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o "UserKnownHostsFile=$OCORE_GIT_KNOWN_HOSTS" '
    "-o UpdateHostKeys=no -o CheckHostIP=no -o VerifyHostKeyDNS=no "
    "-o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o ControlMaster=no -o ControlPath=none "
    "-o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no"
)
_NO_CONFIGURATION = " -F /dev/null"
"""Of the account or the machine: a key that it names for the host would be tried besides."""
_ONLY = " -o IdentitiesOnly=yes -o IdentityAgent=none -o AddKeysToAgent=no -o PreferredAuthentications=publickey"
_NOBODY = " -o IdentityAgent=none -o PubkeyAuthentication=no"


@contextlib.contextmanager
def environment(
    address: Address, access: Access | None, git_dir: Path | None, silence: float
) -> Iterator[dict[str, str]]:
    """For one command, and no longer. Without `access` for what only concerns our own mirror: it has no credentials."""
    with contextlib.ExitStack() as stack:
        yield (
            {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            | _configuration(silence)
            | _surroundings(address, git_dir)
            | (_for_https(address, access) if access and address.scheme == "https" else {})
            | (stack.enter_context(_for_ssh(access)) if access and address.scheme == "ssh" else {})
        )


def known_at_first_sight() -> Path:
    """Where earlier versions had ssh keep the host keys that it saw first. Still believed, never written."""
    return folder() / "known_hosts"


def seen_first() -> list[HostKey]:
    path = known_at_first_sight()
    return parse(path.read_text(errors="replace")) if path.exists() else []


def folder() -> Path:
    """What git needs of a home: empty, and ours."""
    path = Path(settings.STATE_DIR) / "git"
    (path / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _for_https(address: Address, access: Access) -> dict[str, str]:
    if not access.token:
        return {}
    return {
        "GIT_ASKPASS": str(ASKPASS),
        "OCORE_GIT_HOST": address.host + (f":{address.port}" if address.port else ""),
        "OCORE_GIT_USERNAME": access.username or "x-access-token",
        "OCORE_GIT_TOKEN": access.token,
    }


@contextlib.contextmanager
def _for_ssh(access: Access) -> Iterator[dict[str, str]]:
    with handed_over(access.known_hosts(), *access.keys) as (known, *keys):
        places = [known, *([str(earlier)] if (earlier := known_at_first_sight()).exists() else [])]
        made = {
            "GIT_SSH_COMMAND": _SSH,
            "GIT_SSH_VARIANT": "ssh",
            "OCORE_GIT_KNOWN_HOSTS": " ".join(f'"{place}"' for place in places),
        }
        if access.accounts_own and not keys:
            yield made | {name: os.environ[name] for name in ("SSH_AUTH_SOCK",) if name in os.environ}
            return
        identities = "".join(f" -o IdentityFile={key}" for key in keys)
        own = f"{_ONLY}{identities}" if keys else _NOBODY
        yield made | {"GIT_SSH_COMMAND": f"{_SSH}{_NO_CONFIGURATION}{own}"}


def _configuration(silence: float) -> dict[str, str]:
    """git's, given by the environment: no file has a say."""
    configuration = {
        "protocol.ext.allow": "never",
        "core.hooksPath": "/dev/null",
        "core.fsmonitor": "false",
        "core.attributesFile": "/dev/null",
        "core.symlinks": "false",
        "core.quotePath": "false",
        "gc.auto": "0",
        "maintenance.auto": "false",
        "fetch.recurseSubmodules": "false",
        "fetch.unpackLimit": "1",
        "http.followRedirects": "false",
        "http.lowSpeedLimit": "1",
        "http.lowSpeedTime": str(int(silence) or 1),
        "log.showSignature": "false",
        "log.mailmap": "false",
    }
    made = {"GIT_CONFIG_COUNT": str(len(configuration))}
    for number, (name, value) in enumerate(configuration.items()):
        made |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return made


def _surroundings(address: Address, git_dir: Path | None) -> dict[str, str]:
    home = folder()
    return {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(_trusting_config(home)) if address.scheme == "file" else "/dev/null",
        "GIT_ALLOW_PROTOCOL": address.scheme,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_SSH_COMMAND": "/bin/false",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_DIR": str(git_dir) if git_dir else "/dev/null",
        "HOME": str(home / "home"),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


def _trusting_config(home: Path) -> Path:
    """For `file://` only, whose folders the operator has named: git otherwise refuses what other users own, and the
    program that serves the folder reads this from no other place."""
    path = home / "file-repositories.config"
    content = "[safe]\n\tdirectory = *\n"
    if not path.exists() or path.read_text() != content:
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(content)
        fresh.replace(path)
    return path
