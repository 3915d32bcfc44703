"""What is true of an environment, seen from outside: by Docker, psql, the edge and the writer's ledger. None of oCore's
rows is asked here, except for the names of what it says it keeps."""

import ast
import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import docker

from instances.runtimes.base import NAMESPACE_LABEL

LOGIN = "/web/login"
PSQL_SECONDS = 15.0
WHOLE = "and-that-is-all"
"""Ends an answer: docker-py loses what a fast process says together with the headers."""


class Broken(AssertionError):
    """Something that must always hold doesn't."""


@dataclass(frozen=True)
class Seen:
    """What a client and the engine's own tools see."""

    code: str = ""
    data: str = ""
    problem: str = ""


class Outside:
    def __init__(self, namespace: str, edge_port: int) -> None:
        self.namespace = namespace
        self.edge_port = edge_port
        self.api = docker.APIClient(timeout=60)
        self.api.trust_env = False

    def look(self, host: str, path: str = "/chaos/state", timeout: float = 15) -> Seen:
        request = urllib.request.Request(f"http://127.0.0.1:{self.edge_port}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                if path == LOGIN:
                    return Seen() if b"oe_login_form" in answer.read() else Seen(problem="no login form")
                facts = json.load(answer)
        except (urllib.error.URLError, OSError, ValueError) as error:
            return Seen(problem=str(error))
        return Seen(facts["code"], facts["data"])

    def wait_for(self, host: str, seconds: float, path: str = "/chaos/state") -> Seen:
        deadline = time.monotonic() + seconds
        while (seen := self.look(host, path)).problem and time.monotonic() < deadline:
            time.sleep(0.1)
        return seen

    def psql(self, database: str, sql: str) -> list[str]:
        """What PostgreSQL says once it answers: it may just be recovering."""
        deadline = time.monotonic() + PSQL_SECONDS
        while True:
            try:
                return self._psql(database, sql)
            except Broken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def _psql(self, database: str, sql: str) -> list[str]:
        script = f'$(ls /usr/lib/postgresql/*/bin/psql | tail -1) -XAtq -d "$0" -c "$1" && echo {WHOLE}'
        argv = ["sh", "-c", script, database, sql]
        identity = self.api.exec_create(f"{self.namespace}-postgres", argv)["Id"]
        said = self.api.exec_start(identity).decode()
        if self.api.exec_inspect(identity)["ExitCode"]:
            raise Broken(f"psql on {database}: {said}")
        *lines, last = said.splitlines() or [""]
        if last != WHOLE:
            raise Broken(f"psql on {database}: the client library lost the end of its answer")
        return lines

    def databases(self) -> set[str]:
        return set(self.psql("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate")) - {"postgres"}

    def sessions(self) -> list[str]:
        """What still works in PostgreSQL besides Odoo's own and ours."""
        return self.psql(
            "postgres",
            "SELECT concat_ws(' ', datname, application_name, left(query, 80)) FROM pg_stat_activity "
            "WHERE usename = 'postgres' AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )

    def notes(self, database: str) -> set[str]:
        return set(self.psql(database, "SELECT title FROM acme_note"))

    def migrations(self, database: str) -> list[str]:
        return self.psql(database, "SELECT version FROM acme_migration")

    def containers(self) -> dict[str, str]:
        """Name -> state, of all that carries the namespace's label."""
        found = self.api.containers(all=True, filters={"label": [f"{NAMESPACE_LABEL}={self.namespace}"]})
        return {one["Names"][0].lstrip("/"): one["State"] for one in found}

    def kill(self, *names: str) -> None:
        """-9 for what runs in these containers."""
        for pid in self.pids(*names):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self, *names: str) -> list[int]:
        """Of what runs in these containers, in all where none are named."""
        # A connection of its own: a child must not use its parent's.
        api = docker.APIClient(timeout=60)
        labelled = {"label": [f"{NAMESPACE_LABEL}={self.namespace}"]}
        found = [api.inspect_container(one) for one in names or [one["Id"] for one in api.containers(filters=labelled)]]
        return [one["State"]["Pid"] for one in found if _runs_in(one["Id"], one["State"]["Pid"])]

    def started(self) -> dict[str, str]:
        """When each container's process was started, by its name."""
        return {name: self.api.inspect_container(name)["State"]["StartedAt"] for name in self.containers()}

    def volumes(self) -> set[str]:
        filters = {"label": [f"{NAMESPACE_LABEL}={self.namespace}"]}
        return {one["Name"] for one in self.api.volumes(filters=filters)["Volumes"] or []}

    def networks(self) -> set[str]:
        filters = {"label": [f"{NAMESPACE_LABEL}={self.namespace}"]}
        return {one["Name"] for one in self.api.networks(filters=filters)}

    def files(self, volume: str) -> list[str]:
        """Paths in Odoo's data folder, the snapshots among them; listed by a container of our own where the engine's
        disk can't be read."""
        root = Path(self.api.inspect_volume(volume)["Mountpoint"])
        if os.access(root, os.R_OK | os.X_OK):
            return [str(path.relative_to(root)) for path in root.rglob("*")]
        host = self.api.create_host_config(binds={volume: {"bind": "/data", "mode": "ro"}}, network_mode="none")
        made = self.api.create_container(
            "odoo:19.0", ["find", "/data", "-mindepth", "1"], user="0:0", host_config=host, volumes=["/data"]
        )["Id"]
        try:
            self.api.start(made)
            self.api.wait(made)
            said = self.api.logs(made).decode()
        finally:
            self.api.remove_container(made, force=True)
        return [line.removeprefix("/data/") for line in said.splitlines()]

    def manifest(self, container: str) -> str:
        """The version in the manifest of the addon that a container has."""
        path = "/opt/ocore/addons/acme_notes/__manifest__.py"
        identity = self.api.exec_create(container, ["cat", path])["Id"]
        return str(ast.literal_eval(self.api.exec_start(identity).decode())["version"])

    def door_is_open(self, alias: str) -> bool:
        identity = self.api.exec_create(f"{self.namespace}-edge", ["test", "-L", f"/data/doors/{alias}"])["Id"]
        self.api.exec_start(identity)
        return not self.api.exec_inspect(identity)["ExitCode"]


def _runs_in(container: str, pid: int) -> bool:
    """An engine that was away while a container ended may name a pid that is somebody else's by now."""
    try:
        return bool(pid) and container in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def ledger(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def missing(accepted: Iterable[str], found: set[str]) -> list[str]:
    return [title for title in accepted if title not in found]
