"""The PostgreSQL of a server: roles, and databases that are created, cloned, renamed, dropped and dumped.

One mechanism for both kinds of cluster: psql and pg_dump, run inside a container that reaches it. Ours is that
container itself, whose root needs no password on its socket; an external one is reached from a small container beside
Odoo's. Each verb is one call of a constant script: see `database_scripts`.
"""

import builtins
import contextlib
import csv
import hashlib
import io
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from django.conf import settings

from instances import database_containers, database_scripts
from instances.runtimes.base import (
    NAMESPACE_LABEL,
    Containers,
    ContainerSpec,
    DatabaseError,
    DumpFacts,
    Exit,
    Images,
    Log,
    Rows,
    ServerSpec,
    ServerUnreachable,
    aside_name,
)
from ocore import waiting
from ocore.errors import ExpectedError

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
RESERVED = {"postgres", "template0", "template1"}
FILE_COPY_FROM_BYTES = 256 * 1024**2
"""Below, writing a copy through the log is faster than the two checkpoints of copying files."""
READY_SECONDS = 90
QUICK = 120.0
"""Seconds for what takes milliseconds; PostgreSQL itself waits up to 20 for sessions to end."""
LONG = 4 * 3600.0
SILENCE = 600.0
"""Seconds that pg_dump may say nothing: it is building one large, compressed piece at most."""
SETTLING = 0.2
OLDEST_EXTERNAL = 130000
OLDEST_MANAGED = 160000
PIECE = 30_000
"""Characters of SQL in one environment variable: Linux takes 128 KB, a character is up to 4 bytes."""

_VERDICTS = {
    "missing": ("there is no such database on the server", "Check what happened to it; a deployment creates it anew."),
    "half": ("its copy was interrupted and is not complete", "Take it back to another state, or drop it."),
    "foreign": ("it does not carry this installation's label", "It is somebody else's and stays untouched."),
    "taken": ("the name is taken by another", "Rename or remove the other one by hand, or choose another name."),
    "owner": ("its owner is not a role of this installation", "Create the role first."),
    "other": ("it is there already and belongs to another role", "Drop it first, or keep its owner."),
    "busy": ("new sessions keep connecting to it", "Find out who connects past the edge, stop that and try again."),
    "refused": ("PostgreSQL refused", "Read what it said."),
}


class StreamingContainers(Containers, Protocol):
    def exec_stream(
        self,
        name: str,
        argv: Sequence[str],
        stdout: Callable[[bytes], object],
        stderr: Callable[[bytes], object],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
        silence: float | None = None,
    ) -> int:
        """As `exec`, with its output to the sinks as it comes; what they raise ends it. The exit code."""


class PostgresCluster:
    def __init__(self, spec: ServerSpec, containers: StreamingContainers, images: Images, network: str) -> None:
        self._server = spec.name
        self._namespace = spec.namespace
        self._containers = containers
        self._images = images
        self._network = network
        self._external = database_containers.connection(spec) if spec.postgres_dsn else {}
        self.container = f"{spec.namespace}-pgtools" if self._external else f"{spec.namespace}-postgres"
        self.host = self._external.get("host") or f"{spec.namespace}-postgres"
        self.port = int(self._external.get("port") or 5432)

    def prepare(self, log: Log) -> None:
        """PostgreSQL runs and answers to us with the rights that we need."""
        wanted = self._container_spec(self._images.ensure_base(settings.OCORE_POSTGRES_IMAGE, log).reference)
        found = self._containers.find(wanted.name)
        label = database_containers.CONFIGURATION_LABEL
        if found and self._external and found.labels.get(label) != wanted.labels[label]:
            self._containers.remove(wanted.name)
            found = None
        if found is None or not found.running:
            log(f"Starting {wanted.name}\n")
            self._containers.create(wanted)
            self._containers.start(wanted.name)
        version, able = self._wait_until_ready()
        oldest = OLDEST_EXTERNAL if self._external else OLDEST_MANAGED
        if version < oldest:
            raise DatabaseError(
                f"PostgreSQL {version // 10000} of {self._server} is too old.",
                advice=f"Use PostgreSQL {oldest // 10000} or newer.",
            )
        if not able:
            raise DatabaseError(
                f"The role with which oCore connects to the PostgreSQL of {self._server} may not create databases.",
                advice="Give it CREATEDB and CREATEROLE, or name a superuser in the server's PostgreSQL DSN.",
            )

    def create_role(self, role: str, password: str) -> None:
        if not password.isascii() or not password.isprintable() or not password:
            raise DatabaseError(f"The password for the role {role} is not made of printable ASCII characters.")
        verifier = database_containers.scram_verifier(password, secrets.token_bytes(16))
        self._verb(f"create the role {role}", database_scripts.CREATE_ROLE, {"role": role}, {"OCORE_SECRET": verifier})

    def drop_role(self, role: str) -> None:
        self._verb(f"drop the role {role}", database_scripts.DROP_ROLE, {"role": role})

    def exists(self, database: str) -> bool:
        return bool(self._rows(f"look for {database}", database_scripts.EXISTS, {"target": database}))

    def create(self, database: str, owner: str, template: str = "", template_owner: str = "") -> None:
        what = f"create {database}"
        names = {"target": database, "owner": owner}
        if not template:
            self._verb(what, database_scripts.CREATE, names)
            return
        names |= {"source": template, "template_owner": template_owner or owner}
        # Two at once both pass the template's row through another owner; one of them is told to begin anew.
        for attempt in range(5):
            try:
                self._verb(f"{what} from {template}", database_scripts.CREATE_FROM_TEMPLATE, names, timeout=LONG)
            except DatabaseError as error:
                if attempt == 4 or "concurrently" not in error.detail:
                    raise
                waiting.pause(0.1 * 2**attempt)
            else:
                return

    def clone(self, source: str, target: str) -> None:
        if source == target:
            raise DatabaseError(f"{source} cannot be copied onto itself.")
        names = {"source": source, "target": target}
        self._verb(f"copy {source} to {target}", database_scripts.CLONE, names, timeout=LONG)

    def rename(self, source: str, target: str) -> None:
        names = {"source": source, "target": target}
        self._verb(f"rename {source} to {target}", database_scripts.RENAME, names)

    def put_back(self, source: str, target: str) -> None:
        names = {"source": source, "target": target, "aside": aside_name(target)}
        self._verb(f"put {source} back as {target}", database_scripts.PUT_BACK, names)

    def drop(self, database: str) -> None:
        self._verb(f"drop {database}", database_scripts.DROP, {"target": database})

    def size(self, database: str) -> int:
        return int(self._rows(f"measure {database}", database_scripts.SIZE, {"target": database})[0][0])

    def list(self) -> builtins.list[str]:
        return [name for (name,) in self._rows("list the databases", database_scripts.LIST)]

    def sizes(self) -> dict[str, int]:
        return {name: int(size) for name, size in self._rows("measure the databases", database_scripts.SIZES)}

    def query(self, database: str, sql: str) -> Rows:
        """In a session of the database's owner, never with more rights."""
        pieces = [sql[start : start + PIECE] for start in range(0, len(sql), PIECE)]
        return self._verb(
            f"query {database}",
            database_scripts.as_owner(len(pieces)),
            {"target": database},
            {f"OCORE_SQL_{number}": piece for number, piece in enumerate(pieces)},
        )

    def end_work(self, database: str) -> None:
        """Sessions carry the name of the database that they work on: these are put out, until none is left."""
        deadline = time.monotonic() + QUICK
        unseen = 0
        while unseen < 2:  # what was only just sent by one who died may connect a moment later
            found = self._psql(f"end what works on {database}", database_scripts.END_WORK, {"work": _work(database)})
            unseen = 0 if found else unseen + 1
            if found and time.monotonic() > deadline:
                raise DatabaseError(f"What works on {database} on {self._server} does not end.")
            time.sleep(SETTLING)

    def dump(self, database: str, target: Path, log: Log) -> DumpFacts:
        session = f"ocore-dump-{secrets.token_hex(8)}"
        argv = ["sh", "-c", database_scripts.RUN_DUMP, "pg_dump", _checked(database)]
        partial = target.with_name(target.name + ".partial")
        digest = hashlib.sha256()
        started = told = time.monotonic()
        size = 0

        def sink(data: bytes) -> None:
            nonlocal size, told
            file.write(data)
            digest.update(data)
            size += len(data)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                log(f"Dumping {database}: {size / 1e6:.0f} MB so far\n")

        said = bytearray()
        ended = False
        try:
            with partial.open("wb") as file:
                code = self._containers.exec_stream(
                    self.container,
                    argv,
                    sink,
                    said.extend,
                    environment={"PGAPPNAME": session},
                    timeout=LONG,
                    silence=SILENCE,
                )
                ended = True
                if code != 0:
                    raise DatabaseError(
                        f"Could not dump {database} on {self._server}.",
                        detail=said.decode("utf-8", "replace").strip(),
                        advice="Read what pg_dump said; the database itself is as it was.",
                    )
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
            if not ended:
                self._end(session)
        _sync_folder(target.parent)
        log(f"Dumped {database}: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
        return DumpFacts(sha256=digest.hexdigest(), size_bytes=size)

    def _container_spec(self, image: str) -> ContainerSpec:
        if self._external:
            return database_containers.tools(self._namespace, image, self._network, self._external)
        return database_containers.cluster(self._namespace, image, self._network)

    def _wait_until_ready(self) -> tuple[int, bool]:
        deadline = time.monotonic() + READY_SECONDS
        pause = 0.1
        while True:
            # Right after the start the engine may not let anyone in yet: `find` first, so that exec isn't refused.
            found = self._containers.find(self.container)
            script = database_scripts.READY if self._external else database_scripts.READY_AND_CLOSED
            answer = self._run(script, {}, {}, QUICK) if found and found.running else None
            if answer and answer.ok:
                ((version, able),) = _parse(answer.output)
                return int(version), able == "t"
            if time.monotonic() > deadline or (self._external and answer):
                detail = answer.output if answer and self._external else self._containers.logs(self.container, 30)
                raise DatabaseError(
                    f"The PostgreSQL of {self._server} does not answer.",
                    detail=detail,
                    advice="Check the server's PostgreSQL DSN and that its host lets this server in."
                    if self._external
                    else f"Read the log of the container {self.container} on the server.",
                )
            waiting.pause(pause)
            pause = min(pause * 1.5, 1.0)

    def _verb(
        self,
        what: str,
        script: str,
        names: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        timeout: float = QUICK,
    ) -> Rows:
        """The rows after the verdict; a verdict other than `done` is raised."""
        [verdict], *rows = self._rows(what, script, names, environment, timeout)
        if verdict == "done":
            return rows
        reason, advice = _VERDICTS[verdict]
        raise DatabaseError(
            f"Could not {what} on {self._server}: {reason}.",
            detail="\n".join(",".join(row) for row in rows),
            advice=advice,
        )

    def _rows(
        self,
        what: str,
        script: str,
        names: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = QUICK,
    ) -> Rows:
        checked = {key: _checked(name) for key, name in (names or {}).items()}
        return _parse(self._psql(what, script, checked, environment, timeout))

    def _psql(
        self,
        what: str,
        script: str,
        variables: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = QUICK,
    ) -> str:
        answer = self._run(script, variables or {}, environment or {}, timeout)
        if answer.ok:
            return answer.output
        advice = "Check that PostgreSQL runs and can be reached from the server." if answer.code == 2 else ""
        raise DatabaseError(
            f"Could not {what} on {self._server}.", detail=answer.output.removeprefix("done\n").strip(), advice=advice
        )

    def _run(self, script: str, variables: Mapping[str, str], environment: Mapping[str, str], timeout: float) -> Exit:
        known = {
            "label": f"{NAMESPACE_LABEL}={self._namespace}",
            "big": str(FILE_COPY_FROM_BYTES),
            "peer": "false" if self._external else "true",
        }
        argv = ["sh", "-c", database_scripts.RUN_PSQL, "psql", "--dbname", "postgres"]
        argv += [f"--set={name}={value}" for name, value in (known | dict(variables)).items()]
        name, ended = _session_name(variables.get("target") or variables.get("role") or ""), False
        try:
            answer = self._containers.exec(
                self.container,
                argv,
                environment={"OCORE_SCRIPT": script, "PGAPPNAME": name, **environment},
                timeout=timeout,
            )
            ended = True
        except ServerUnreachable:
            ended = True  # nobody there to be asked to end it
            raise
        finally:
            if not ended:
                self._end(name)
        return answer

    def _end(self, session: str) -> None:
        """What was called away, or went past its deadline: it would go on in the container, and in PostgreSQL."""
        argv = ["sh", "-c", database_scripts.END, "end", session, database_scripts.TERMINATE]
        with contextlib.suppress(ExpectedError), waiting.undisturbed():
            self._containers.exec(self.container, argv, timeout=QUICK)


def _session_name(database: str) -> str:
    """Of one program and its session, by PGAPPNAME: it begins with what tells the database that it works on."""
    return f"{_work(database)}{secrets.token_hex(8)}"


def _checked(name: str) -> str:
    """A database or role of ours has a name that needs no quoting anywhere, and is none of PostgreSQL's own."""
    if not NAME.fullmatch(name) or name in RESERVED or name.startswith("pg_"):
        raise DatabaseError(
            f"“{name}” is not a name that oCore gives to a database or role.",
            advice="Use a small letter, then small letters, digits and underscores, 63 at most.",
        )
    return name


def _work(database: str) -> str:
    """How the name of a session begins that works on a database, its role or one of its snapshots; a digest, since
    PostgreSQL cuts names at 63 characters."""
    return f"ocore-{hashlib.sha256(database.partition('__s')[0].encode()).hexdigest()[:16]}-"


def _parse(output: str) -> Rows:
    # psql writes a single column that is empty as an empty line, which the reader takes for no column.
    return [row or [""] for row in csv.reader(io.StringIO(output, newline=""), strict=True)]


def _sync_folder(folder: Path) -> None:
    """So that the file's new name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
