"""Filestores of Odoo on a server's volumes: their snapshots are hard links, since Odoo never edits a file of its own.

A volume holds `filestore/<database>/` and `sessions/` as Odoo keeps them, and `snapshots/<snapshot>/` beside. All is
done by short-lived containers without a network that see nothing but that volume; their scripts are constant and take
names as positional parameters. What is being made or removed has a name that begins with a dot, and becomes or ceases
to be the real thing by a rename: whatever instant a script is killed at, asking again finishes the work.
"""

import re
import secrets
from typing import Protocol

from django.conf import settings

from instances.runtimes.base import HOLDER_LABEL, NAMESPACE_LABEL, Containers, ContainerSpec, FilestoreFacts, ServerSpec
from ocore.errors import ExpectedError
from ocore.machine.processes import own_name

MOUNT = "/var/lib/odoo"
SOURCE = "/source"
"""Where another environment's volume is seen."""
TIMEOUT = 3600.0
"""Seconds for linking, listing or removing millions of files."""
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
"""Root's, to link and remove files of Odoo's user and to keep their owner."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
NO_SNAPSHOT = 44
VOLUME_LABEL = "io.ocore.volume"
"""On a helper's container: the volume that it works on."""

# A new folder belongs to who owns the volume: Odoo's user.
_BEGIN = """
set -eu
cd "$1"
own() { chown "$(stat -c %u:%g .)" "$@"; }
mkdir -p filestore
own filestore
mkdir -p -m 700 snapshots
"""
_FACTS = """
facts() {
  : > /tmp/found
  if [ -d "$1" ]; then find "$1" -type f -printf '%P\\t%s\\n' > /tmp/found; fi
  LC_ALL=C sort /tmp/found > /tmp/listing
  sum=$(sha256sum < /tmp/listing)
  awk -F '\\t' -v sum="${sum%% *}" '{ size += $NF } END { printf "facts %d %.0f %s\\n", NR, size, sum }' /tmp/listing
}
"""
_COPY = """
copy() {
  rm -rf "$2"
  if [ -d "$1" ]; then cp -al "$1" "$2"; else mkdir "$2"; own "$2"; fi
}
swap() {
  rm -rf "$3"
  if [ -e "$2" ]; then mv "$2" "$3"; fi
  mv "$1" "$2"
  rm -rf "$3"
}
"""
SNAPSHOT = f"""{_BEGIN}{_FACTS}{_COPY}
copy "filestore/$2" "snapshots/.$3.new"
swap "snapshots/.$3.new" "snapshots/$3" "snapshots/.$3.old"
facts "snapshots/$3"
"""
RESTORE = f"""{_BEGIN}{_FACTS}{_COPY}
[ -d "snapshots/$3" ] || exit {NO_SNAPSHOT}
copy "snapshots/$3" "filestore/.$2.new"
swap "filestore/.$2.new" "filestore/$2" "filestore/.$2.old"
facts "filestore/$2"
"""
FACTS = f"""{_BEGIN}{_FACTS}
if [ -n "$3" ]; then
  [ -d "snapshots/$3" ] || exit {NO_SNAPSHOT}
  facts "snapshots/$3"
else
  facts "filestore/$2"
fi
"""
DISCARD = """
set -eu
cd "$1"
rm -rf "snapshots/.$2.old" "snapshots/.$2.new"
if [ -e "snapshots/$2" ]; then mv "snapshots/$2" "snapshots/.$2.old"; fi
rm -rf "snapshots/.$2.old"
"""
CARRY = f"""{_BEGIN}{_FACTS}{_COPY}
[ -d "{SOURCE}/snapshots/$2" ] || exit {NO_SNAPSHOT}
rm -rf "snapshots/.$2.new"
cp -a "{SOURCE}/snapshots/$2" "snapshots/.$2.new"
swap "snapshots/.$2.new" "snapshots/$2" "snapshots/.$2.old"
facts "snapshots/$2"
"""
# Snapshots are out of Odoo's reach. Images differ in Odoo's uid: then the volume's files follow the image, once.
ENSURE = """
set -eu
cd "$1"
owner=$(id -u odoo):$(id -g odoo)
mkdir -p filestore sessions
mkdir -p -m 700 snapshots
if [ "$(stat -c %u:%g .)$(stat -c %u:%g filestore)" != "$owner$owner" ]; then
  find filestore sessions snapshots -mindepth 1 -exec chown -h "$owner" {} +
  chown "$owner" filestore sessions
  chown "$owner" .
fi
"""


class FilestoreError(ExpectedError):
    """A filestore's volume did not let us do what was asked; `detail` is what the command said."""

    default_advice = "Check the server's disk and the volume; then try again."


class StoringContainers(Containers, Protocol):
    def ensure_volume(self, name: str) -> None: ...

    def find_volume(self, name: str) -> dict[str, str] | None: ...

    def list_volumes(self) -> list[str]: ...

    def remove_volume(self, name: str) -> None: ...


class VolumeFilestores:
    def __init__(self, spec: ServerSpec, containers: StoringContainers) -> None:
        self._spec = spec
        self._containers = containers

    def ensure(self, volume: str, image: str) -> None:
        """The volume is there and belongs to the user `odoo` of the image."""
        self._run("prepare the filestore", ENSURE, volume, image=image)

    def remove(self, volume: str) -> None:
        """Gone, with the containers of ours that a killed worker has left at it: the engine would not let it go."""
        self.end_work(volume)
        self._containers.remove_volume(volume)

    def end_work(self, volume: str) -> None:
        """Its helpers' containers go, running or not."""
        for left in self._containers.list({VOLUME_LABEL: _checked(volume)}):
            self._containers.remove(left.name)

    def snapshot(self, volume: str, database: str, snapshot: str) -> FilestoreFacts:
        """Taken anew when it is there already, so that it is never older than the database's."""
        return _facts(self._run(f"take the snapshot {snapshot}", SNAPSHOT, volume, database, snapshot))

    def restore(self, volume: str, database: str, snapshot: str) -> FilestoreFacts:
        return _facts(self._run(f"put back the snapshot {snapshot}", RESTORE, volume, database, snapshot))

    def carry(self, source: str, target: str, snapshot: str) -> FilestoreFacts:
        return _facts(self._run(f"copy the snapshot {snapshot}", CARRY, target, snapshot, beside=source))

    def facts(self, volume: str, database: str, snapshot: str = "") -> FilestoreFacts:
        return _facts(self._run("list the files", FACTS, volume, database, snapshot))

    def volumes(self) -> list[str]:
        return self._containers.list_volumes()

    def discard(self, volume: str, snapshot: str) -> None:
        _checked(snapshot)
        if self._containers.find_volume(_checked(volume)) is None:
            return  # to look into it would make it anew
        self._run(f"remove the snapshot {snapshot}", DISCARD, volume, snapshot)

    def _run(self, what: str, script: str, volume: str, *names: str, image: str = "", beside: str = "") -> str:
        for name in filter(None, (volume, beside, *names)):
            _checked(name)
        spec = ContainerSpec(
            name=f"{volume}-files-{secrets.token_hex(4)}",
            image=image or settings.OCORE_POSTGRES_IMAGE,
            entrypoint=["sh", "-c", script, "sh", MOUNT, *names],
            user="0:0",
            volumes={volume: MOUNT} | ({beside: SOURCE} if beside else {}),
            labels={NAMESPACE_LABEL: self._spec.namespace, VOLUME_LABEL: volume, HOLDER_LABEL: own_name()},
            memory_bytes=512 * 1024**2,
            pids=64,
            capabilities=CAPABILITIES,
        )
        done = self._containers.run(spec, lambda _: None, timeout=TIMEOUT, silence=TIMEOUT)
        if done.ok:
            return done.output
        where = f"in the volume {volume} on {self._spec.name}"
        if done.code == NO_SNAPSHOT:
            raise FilestoreError(
                f"Could not {what} {where}: there is no such snapshot.", advice="Choose another snapshot."
            )
        raise FilestoreError(f"Could not {what} {where}.", detail=done.output.strip())


def _checked(name: str) -> str:
    """A name that is one part of a path and cannot be taken for an option or for something half-made."""
    if not NAME.fullmatch(name):
        raise FilestoreError(f"“{name}” is not a name for a volume, a filestore or a snapshot.")
    return name


def _facts(output: str) -> FilestoreFacts:
    word, files, size, digest = output.splitlines()[-1].split()
    if word != "facts":
        raise FilestoreError("The listing of a filestore cannot be read.", detail=output)
    return FilestoreFacts(files=int(files), size_bytes=int(size), sha256=digest)
