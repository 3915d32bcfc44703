"""What the edge looks at per request besides its configuration: notices of maintenance, testers' passes, which
environments were switched to their second version, estimates.

All notices and passes of a server are one folder, swapped as a whole by a symbolic link: no request sees half of a
change, and what should not be there any more is gone with the old folder.
"""

import base64
import hashlib
import html
import io
import json
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from instances.edge_config import KEY, STATE
from instances.edge_maintenance import ESTIMATES, NOTICES
from instances.edge_split import SWITCHED
from instances.runtimes.base import EdgeError, Notice, Pass

TOKEN = re.compile(r"[0-9a-f]{64}")
MOST_BYTES = 120_000
"""Linux takes no longer single string in a process's environment."""

# $1 names the content. A folder that is not the current one goes after a minute: another process may be filling it.
TELL = f"""
set -eu
cd {STATE}
case "$(busybox readlink {NOTICES} || true)" in "{NOTICES}-$1."*) echo same; exit;; esac
umask 077
new="{NOTICES}-$1.$$"
rm -rf "$new"
mkdir "$new"
printf %s "$OCORE_NOTICES" | busybox base64 -d | busybox tar -xzf - -C "$new"
ln -sfn "$new" "{NOTICES}.$$"
busybox mv -T "{NOTICES}.$$" {NOTICES}
for old in {NOTICES}-*; do
    if [ "$old" != "$(busybox readlink {NOTICES})" ]; then
        busybox find "$old" -maxdepth 0 -mmin +1 -exec rm -rf '{{}}' ';'
    fi
done
echo told
"""
# $1 the environment, $2 seconds from now.
EXPECT = f"""
set -eu
cd {STATE}
mkdir -p {ESTIMATES}
seconds=$2
if [ "$seconds" -gt 0 ]; then seconds=$(( $(date +%s) + seconds )); fi
echo "$seconds" > "{ESTIMATES}/.$1.$$"
busybox mv -T "{ESTIMATES}/.$1.$$" "{ESTIMATES}/$1"
"""


@dataclass(frozen=True)
class Packed:
    digest: str
    content: str
    """A compressed archive in base64."""


def pack(notices: Iterable[Notice], passes: Iterable[Pass], switched: Iterable[str] = ()) -> Packed:
    """The same for the same in any order. `EdgeError` on names that are none, or on too many."""
    files = {f"maintenance/{_key(one.key)}.json": _notice(one) for one in notices}
    files |= {f"{SWITCHED}/{_key(key)}": b"" for key in switched}
    for one in passes:
        if not TOKEN.fullmatch(one.token):
            raise EdgeError(f"That is no tester's pass to {one.key}.")
        expires = format_datetime(one.expires_at.astimezone(UTC), usegmt=True)
        files[f"passes/{_key(one.key)}/{one.token}"] = expires.encode()
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:32]
    content = base64.b64encode(_archive(files)).decode()
    if len(content) > MOST_BYTES:
        raise EdgeError(
            f"{len(files)} notices and testers' links are more than the edge can be told at once.",
            advice="Revoke testers' links that are not needed any more.",
        )
    return Packed(digest, content)


def _key(key: str) -> str:
    if not KEY.fullmatch(key):
        raise EdgeError(f"“{key}” cannot name an environment.", advice="Use letters, digits and dashes.")
    return key


def _notice(one: Notice) -> bytes:
    until = one.until.astimezone(UTC) if one.until else None
    said = {
        "text": one.text,
        "html": html.escape(one.text).replace("\n", "<br>"),
        "until": int(until.timestamp()) if until else 0,
        "until_html": _told(until) if until else "",
        "until_iso": until.isoformat() if until else None,
    }
    return json.dumps(said).encode()


def _told(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
