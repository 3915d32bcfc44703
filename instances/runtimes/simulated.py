"""A server on which nothing really runs: for the pipeline's tests, and for looking around without an engine.

Its whole state is one JSON file, so that the web process and the workers see the same server. It knows just enough of
Odoo's behaviour (databases have modules, an update changes their versions, a write changes rows) that a lost write or a
container left behind shows. Faults are injected through `FAULTS`.
"""

import ast
import builtins
import configparser
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from instances.odoo import queries
from instances.odoo.config import CONFIG_PATH
from instances.odoo.versions import series, stored_version
from instances.runtimes import base
from instances.runtimes.base import (
    Answer,
    Container,
    ContainerSpec,
    Exit,
    FilestoreFacts,
    Image,
    Log,
    Route,
    ServerSpec,
)
from ocore.locks import file_lock

CORE_MODULES = ("base", "web", "mail")
State = dict[str, Any]
DISK_FREE_BYTES = 100 * 1024**3
IMAGE_BYTES = 100 * 1024**2
"""Of an image that was built."""
DATABASE_BYTES = 1024**2


@dataclass
class Faults:
    """What goes wrong. Verbs are named as they are called: `images.build`, `containers.run`, `databases.clone`."""

    raised: dict[str, Exception | Callable[..., None]] = field(default_factory=dict)
    """Raised, or called with the verb's arguments, at the start of a verb."""
    exits: dict[str, Exit] = field(default_factory=dict)
    """By the purpose in a one-shot container's name, `update` say: how it ends, having changed nothing."""
    unhealthy: dict[str, Answer] = field(default_factory=dict)
    """By a part of a container's name: what it answers to every path."""
    calls: list[str] = field(default_factory=list)
    disk_free_bytes: int = DISK_FREE_BYTES
    memory_free_bytes: int | None = None

    def meet(self, verb: str, *arguments: Any) -> None:
        self.calls.append(" ".join([verb, *(str(one) for one in arguments if isinstance(one, str))]))
        fault = self.raised.get(verb)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            fault(*arguments)

    def clear(self) -> None:
        for kept in (self.raised, self.exits, self.unhealthy, self.calls):
            kept.clear()
        self.disk_free_bytes = DISK_FREE_BYTES
        self.memory_free_bytes = None


FAULTS = Faults()


class _Store:
    """The server's state on disk, one change at a time."""

    def __init__(self, name: str) -> None:
        folder = Path(settings.STATE_DIR) / "simulated"
        self._file = folder / f"{name}.json"
        self._lock = folder / f"{name}.lock"

    @contextmanager
    def open(self) -> Iterator[State]:
        with file_lock(self._lock):
            empty: State = {
                "images": {},
                "containers": {},
                "roles": {},
                "databases": {},
                "volumes": {},
                "open_doors": {},
                "routes": [],
                "prepared": False,
            }
            before = self._file.read_text() if self._file.exists() else ""
            state = empty | json.loads(before) if before else empty
            yield state
            after = json.dumps(state)
            if after != before:  # most only look
                self._file.write_text(after)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class _Images:
    def __init__(self, store: _Store) -> None:
        self._store = store

    def find(self, reference: str) -> Image | None:
        with self._store.open() as state:
            found = state["images"].get(reference)
        return self._as_image(reference, found) if found else None

    @staticmethod
    def _as_image(reference: str, found: State) -> Image:
        return Image(reference, found["id"], IMAGE_BYTES if found["labels"] else 0, found["labels"])

    def tidy(self) -> None:
        """A build leaves nothing here."""

    def list(self) -> builtins.list[Image]:
        with self._store.open() as state:
            items = list(state["images"].items())
        return [self._as_image(name, one) for name, one in items if base.NAMESPACE_LABEL in one["labels"]]

    def ensure_base(self, reference: str, log: Log) -> Image:
        FAULTS.meet("images.ensure_base", reference)
        with self._store.open() as state:
            if reference not in state["images"]:
                log(f"{reference} is simulated.")
                state["images"][reference] = {"id": f"sha256:{_digest(reference)}", "labels": {}, "addons": {}}
        found = self.find(reference)
        assert found  # noqa: S101 - made just now
        return found

    def build(
        self, reference: str, context: Path, labels: Mapping[str, str], log: Log, *, timeout: float, silence: float
    ) -> Image:
        FAULTS.meet("images.build", reference)
        addons = {}
        for manifest in sorted(context.glob("**/__manifest__.py")):
            content = ast.literal_eval(manifest.read_text())
            addons[manifest.parent.name] = str(content.get("version", "1.0"))
            log(f"Adding {manifest.parent.name}")
        with self._store.open() as state:
            identity = f"sha256:{_digest([reference, addons])}"
            state["images"][reference] = {"id": identity, "labels": dict(labels), "addons": addons}
        return Image(reference, identity, IMAGE_BYTES, labels)

    def remove(self, reference: str) -> None:
        FAULTS.meet("images.remove", reference)
        with self._store.open() as state:
            state["images"].pop(reference, None)


class _Containers:
    def __init__(self, store: _Store) -> None:
        self._store = store

    def find(self, name: str) -> Container | None:
        with self._store.open() as state:
            found = state["containers"].get(name)
        return self._as_container(name, found) if found else None

    @staticmethod
    def _as_container(name: str, found: State) -> Container:
        started = found.get("started_at")
        return Container(
            name,
            _digest(name)[:12],
            found["state"],
            labels=found["labels"],
            image_id=found["image"],
            started_at=datetime.fromisoformat(started) if started else None,
            restart_count=found.get("restarts", 0),
        )

    def list(self, labels: Mapping[str, str]) -> builtins.list[Container]:
        with self._store.open() as state:
            items = list(state["containers"].items())
        return [self._as_container(name, one) for name, one in items if labels.items() <= one["labels"].items()]

    def create(self, spec: ContainerSpec) -> Container:
        FAULTS.meet("containers.create", spec.name)
        with self._store.open() as state:
            state["containers"].setdefault(
                spec.name,
                {
                    "state": "created",
                    "image": spec.image,
                    "database": _database_of(spec),
                    "labels": dict(spec.labels),
                    "alias": "",
                },
            )
        found = self.find(spec.name)
        assert found  # noqa: S101 - made just now
        return found

    def _set(self, name: str, **fields: Any) -> None:
        with self._store.open() as state:
            if name not in state["containers"]:
                raise base.RunFailed(f"There is no container {name}.")
            state["containers"][name] |= fields

    def get_ready(self, name: str) -> None:
        FAULTS.meet("containers.get_ready", name)

    def start(self, name: str) -> None:
        FAULTS.meet("containers.start", name)
        self._set(name, state="running", started_at=timezone.now().isoformat(), restarts=0)

    def stop(self, name: str, seconds: int = 30) -> None:
        FAULTS.meet("containers.stop", name)
        self._set(name, state="exited")

    def remove(self, name: str, *, unless_running: bool = False) -> None:
        FAULTS.meet("containers.remove", name)
        with self._store.open() as state:
            if not (unless_running and _runs_now(state, name)):
                state["containers"].pop(name, None)

    def run(self, spec: ContainerSpec, log: Log, *, timeout: float, silence: float) -> Exit:
        FAULTS.meet("containers.run", spec.name)
        for part, ended in FAULTS.exits.items():
            if f"-{part}-" in spec.name:
                log(ended.output)
                return ended
        log("Simulated: " + " ".join(one for one in spec.command if "\n" not in one))  # without scripts
        if not _database_of(spec):
            return Exit(0, "")
        with self._store.open() as state:
            state["containers"][spec.name] = {
                "state": "running",
                "image": spec.image,
                "database": _database_of(spec),
                "labels": dict(spec.labels),
                "alias": "",
                "changes": _modules(spec.command),
            }
        with self._store.open() as state:
            if not end_of_one_shot(state, spec.name):
                return Exit(137, "Killed\n")
        finished = f"2026-01-01 00:00:00,000 1 INFO {_database_of(spec)} odoo.modules.loading: Modules loaded.\n"
        log(finished)
        return Exit(0, finished)

    def exec(
        self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Exit:
        """Only Odoo's readiness probe is ever executed in a container by the pipeline."""
        FAULTS.meet("containers.exec", name)
        found = self.find(name)
        if found is None or not found.running:
            raise base.RunFailed(f"The container {name} does not run.")
        answer = Answer(200, 'oe_login_form\n{"status": "pass"}')
        with self._store.open() as state:
            if not _runs(state, "simulated-postgres"):
                answer = Answer(500, "could not connect to server")
        for part, given in FAULTS.unhealthy.items():
            if part in name:
                answer = given
        line = "ocore-probe " + json.dumps(asdict(answer)) + "\n"
        return Exit(0, line * (sum(part.startswith("/") for part in argv) if answer.ok else 1))

    def logs(self, name: str, lines: int = 200) -> str:
        return f"Nothing really runs in {name}: this server is simulated.\n"

    def join_edge(self, name: str, alias: str) -> None:
        FAULTS.meet("containers.join_edge", name)
        self._set(name, alias=alias)

    def leave_edge(self, name: str) -> None:
        self._set(name, alias="")


def _runs(state: State, part: str) -> bool:
    """Where nobody has prepared the server yet, that doesn't matter."""
    return not state.get("prepared") or _runs_now(state, part)


def _runs_now(state: State, name: str) -> bool:
    return bool(state["containers"].get(name, {}).get("state") == "running")


def end_of_one_shot(state: State, name: str) -> bool:
    """What it does to its database, in a process of its own: also when whoever began it has died. False: it was removed
    before that."""
    container = state["containers"].pop(name, None)
    if container is None:
        return False
    database = state["databases"][container["database"]]
    versions = state["images"][container["image"]]["addons"]
    for module in container["changes"]:
        odoo = series("19.0")
        names = [*CORE_MODULES, *(versions if database["modules"] else ())] if module == "base" else [module]
        for name in names:
            if module != "base" or name in CORE_MODULES or name in database["modules"]:
                database["modules"][name] = ["installed", stored_version(versions.get(name, "1.3"), odoo)]
    database["sequence"] += 1
    return True


def _database_of(spec: ContainerSpec) -> str:
    for file in spec.files:
        if file.path == CONFIG_PATH:
            parser = configparser.RawConfigParser()
            parser.read_string(file.content.decode())
            return parser["options"]["db_name"]
    return ""


def _modules(command: Sequence[str]) -> list[str]:
    text = " ".join(command)
    return [name for names in re.findall(r"--(?:init|update)=([\w,]+)", text) for name in names.split(",")]


class _Databases:
    host, port = "simulated", 5432

    def __init__(self, store: _Store) -> None:
        self._store = store

    @contextmanager
    def _open(self) -> Iterator[State]:
        with self._store.open() as state:
            if not _runs(state, "simulated-postgres"):
                raise base.DatabaseError("PostgreSQL does not answer: simulated-postgres does not run.")
            yield state

    def create_role(self, role: str, password: str) -> None:
        FAULTS.meet("databases.create_role", role)
        with self._open() as state:
            state["roles"][role] = True

    def drop_role(self, role: str) -> None:
        FAULTS.meet("databases.drop_role", role)
        with self._open() as state:
            state["roles"].pop(role, None)

    def exists(self, database: str) -> bool:
        FAULTS.meet("databases.exists", database)
        with self._open() as state:
            return database in state["databases"]

    def create(self, database: str, owner: str, template: str = "", template_owner: str = "") -> None:
        FAULTS.meet("databases.create", database)
        with self._open() as state:
            empty: State = {"modules": {}, "parameters": {}, "rows": [], "sequence": 0}
            new = json.loads(json.dumps(state["databases"][template])) if template else empty
            state["databases"].setdefault(database, new | {"owner": owner})

    def clone(self, source: str, target: str) -> None:
        FAULTS.meet("databases.clone", source, target)
        with self._open() as state:
            state["databases"][target] = json.loads(json.dumps(state["databases"][source]))

    def rename(self, source: str, target: str) -> None:
        FAULTS.meet("databases.rename", source, target)
        with self._open() as state:
            databases = state["databases"]
            if source not in databases and target in databases:
                return
            if target in databases:
                raise base.DatabaseError(f"The database {target} exists.")
            databases[target] = databases.pop(source)

    def put_back(self, source: str, target: str) -> None:
        FAULTS.meet("databases.put_back", source, target)
        with self._open() as state:
            databases = state["databases"]
            if source in databases:
                if target in databases:
                    databases[base.aside_name(target)] = databases.pop(target)
                databases[target] = databases.pop(source)
            elif target not in databases:
                raise base.DatabaseError(f"Neither {source} nor {target} exists.")

    def drop(self, database: str) -> None:
        FAULTS.meet("databases.drop", database)
        with self._open() as state:
            state["databases"].pop(database, None)

    def size(self, database: str) -> int:
        return DATABASE_BYTES if self.exists(database) else 0

    def list(self) -> builtins.list[str]:
        with self._open() as state:
            return sorted(state["databases"])

    def sizes(self) -> dict[str, int]:
        return dict.fromkeys(self.list(), DATABASE_BYTES)

    def query(self, database: str, sql: str) -> base.Rows:
        FAULTS.meet("databases.query", database)
        with self._open() as state:
            if database not in state["databases"]:
                raise base.DatabaseError(f"The database {database} does not exist.")
            return self._answer(state["databases"][database], sql)

    @staticmethod
    def _answer(content: State, sql: str) -> base.Rows:
        modules = [[name, *row] for name, row in sorted(content["modules"].items())]
        if sql == queries.MODULE_ROWS_SQL:
            return modules
        if sql == queries.PENDING_MODULES_SQL:
            return [row for row in modules if row[1].startswith("to ")]
        if sql == queries.IS_INITIALISED_SQL:
            return [["1"]] if modules else []
        if sql == queries.FILES_OUTSIDE_SQL or sql in queries.EXTENSIONS_SQL:
            return []
        stored = content["parameters"].get(queries.CHECKSUMS_KEY)
        if sql == queries.READ_CHECKSUMS_SQL:
            return [[stored]] if stored else []
        if sql == queries.BASIS_SQL:
            return [*([["", "", stored]] if stored else []), *modules]
        if sql.startswith("INSERT INTO ir_config_parameter"):
            pairs = re.findall(r"\((?:E)?'((?:[^']|'')*)', '((?:[^']|'')*)', 1,", sql)
            content["parameters"] |= {key: text.replace("''", "'") for key, text in pairs}
            return [[key] for key, _ in pairs]
        if sql.startswith("UPDATE res_users"):
            return [["2"]]
        if sql == queries.WRITTEN_TABLES_SQL:
            return [["notes", "notes", "10"]]
        if sql.startswith("SELECT model, count"):
            return [["notes", str(len(content["rows"]))]] if content["rows"] else []
        return [[_digest([content["modules"], content["rows"], content["sequence"]]), "1048576"]]

    def end_work(self, database: str) -> None:
        """Nothing goes on here when its caller has died."""
        FAULTS.meet("databases.end_work", database)

    def dump(self, database: str, target: Path, log: Log) -> base.DumpFacts:
        FAULTS.meet("databases.dump", database)
        content = b"simulated dump of " + database.encode()
        target.write_bytes(content)
        return base.DumpFacts(hashlib.sha256(content).hexdigest(), len(content))


class _Filestores:
    def __init__(self, store: _Store) -> None:
        self._store = store

    @contextmanager
    def _volume(self, volume: str) -> Iterator[State]:
        with self._store.open() as state:
            yield state["volumes"].setdefault(volume, {"filestore": {}, "snapshots": {}})

    def ensure(self, volume: str, image: str) -> None:
        FAULTS.meet("filestores.ensure", volume)
        with self._volume(volume):
            pass

    def remove(self, volume: str) -> None:
        FAULTS.meet("filestores.remove", volume)
        with self._store.open() as state:
            state["volumes"].pop(volume, None)

    def volumes(self) -> builtins.list[str]:
        with self._store.open() as state:
            return sorted(state["volumes"])

    def snapshot(self, volume: str, database: str, snapshot: str) -> FilestoreFacts:
        FAULTS.meet("filestores.snapshot", volume, snapshot)
        with self._volume(volume) as content:
            content["snapshots"][snapshot] = list(content["filestore"].get(database, []))
        return self.facts(volume, database, snapshot)

    def restore(self, volume: str, database: str, snapshot: str) -> FilestoreFacts:
        FAULTS.meet("filestores.restore", volume, snapshot)
        with self._volume(volume) as content:
            content["filestore"][database] = list(content["snapshots"][snapshot])
        return self.facts(volume, database)

    def carry(self, source: str, target: str, snapshot: str) -> FilestoreFacts:
        FAULTS.meet("filestores.carry", source, target)
        with self._store.open() as state:
            content = list(state["volumes"][source]["snapshots"][snapshot])
            state["volumes"].setdefault(target, {"filestore": {}, "snapshots": {}})["snapshots"][snapshot] = content
        return self.facts(target, "", snapshot)

    def facts(self, volume: str, database: str, snapshot: str = "") -> FilestoreFacts:
        with self._volume(volume) as content:
            files = content["snapshots"][snapshot] if snapshot else content["filestore"].get(database, [])
            return FilestoreFacts(len(files), 0, _digest(sorted(files)))

    def discard(self, volume: str, snapshot: str) -> None:
        FAULTS.meet("filestores.discard", volume, snapshot)
        with self._store.open() as state:
            if volume in state["volumes"]:
                state["volumes"][volume]["snapshots"].pop(snapshot, None)

    def end_work(self, volume: str) -> None:
        """Nothing goes on here when its caller has died."""
        FAULTS.meet("filestores.end_work", volume)


class _Edge:
    def __init__(self, store: _Store) -> None:
        self._store = store

    def apply(self, routes: Iterable[Route], log: Log) -> bool:
        FAULTS.meet("edge.apply")
        wanted = self._plain(routes)
        with self._store.open() as state:
            changed = bool(state["routes"] != wanted)
            state["routes"] = wanted
        return changed

    def serves(self, routes: Iterable[Route]) -> bool:
        with self._store.open() as state:
            return bool(state["routes"] == self._plain(routes))

    @staticmethod
    def _plain(routes: Iterable[Route]) -> list[Any]:
        """No key of a certificate gets into the file."""
        plain: list[Any] = json.loads(json.dumps([asdict(route) for route in routes]))
        for name in (name for route in plain for name in route["entry"]["names"]):
            name["key"] = _digest([name["key"]])
        return plain

    def close(self, upstreams: Sequence[base.Upstream]) -> None:
        FAULTS.meet("edge.close", *_aliases(upstreams))
        with self._store.open() as state:
            closed = set(_aliases(upstreams))
            state["open_doors"] = {
                alias: colour for alias, colour in state["open_doors"].items() if alias not in closed
            }

    def close_and_drain(self, upstreams: Sequence[base.Upstream], seconds: float) -> int:
        self.close(upstreams)
        return self.in_flight(upstreams)

    def open(self, upstreams: Sequence[base.Upstream], colour: base.Colour) -> None:
        FAULTS.meet("edge.open", *_aliases(upstreams))
        with self._store.open() as state:
            state["open_doors"] |= dict.fromkeys(_aliases(upstreams), str(colour))

    def figures(self, mark: str) -> dict[str, base.Figures]:
        """Nobody asks anything here."""
        return {}

    def doors(self) -> dict[str, base.Colour]:
        with self._store.open() as state:
            return {alias: base.Colour(colour) for alias, colour in state["open_doors"].items()}

    def in_flight(self, upstreams: Sequence[base.Upstream]) -> int:
        return 0

    def drain(self, upstreams: Sequence[base.Upstream], colour: base.Colour, seconds: float) -> int:
        FAULTS.meet("edge.drain", *_aliases(upstreams))
        return 0

    def tell(self, notices: Iterable[base.Notice], passes: Iterable[base.Pass], switched: Iterable[str] = ()) -> bool:
        FAULTS.meet("edge.tell")
        wanted = {
            "maintenance": {one.key: one.text for one in notices},
            "passes": sorted([one.key, one.token] for one in passes),
            "switched": sorted(switched),
        }
        with self._store.open() as state:
            changed = bool(state.get("notices") != wanted)
            state["notices"] = wanted
        return changed

    def expect(self, key: str, seconds: float) -> None:
        FAULTS.meet("edge.expect", key)
        with self._store.open() as state:
            state.setdefault("estimates", {})[key] = seconds

    def fetch(self, host: str, path: str, *, past_the_door: base.Colour | None = None, timeout: float = 10) -> Answer:
        with self._store.open() as state:
            name = self._serving(state, host, past_the_door)
        for part, given in FAULTS.unhealthy.items():
            if name and part in name:
                return given
        return Answer(200, '{"status": "pass"}', 0.01) if name else Answer(503, "Nothing serves this name.")

    def _serving(self, state: State, host: str, past_the_door: base.Colour | None, token: str = "") -> str:
        """Name of the running container that a request to the host reaches."""
        if not _runs(state, "simulated-edge"):
            return ""
        told = state.get("notices") or {"maintenance": {}, "passes": []}
        key = next((route["key"] for route in state["routes"] if host in route["hosts"]), "")
        if past_the_door is None and key in told["maintenance"] and [key, token] not in told["passes"]:
            return ""
        return serving(state, host, past_the_door)

    def write(self, host: str, text: str, token: str = "") -> bool:
        """A client's write, also one with a tester's pass: accepted (True) when it reached a running Odoo, and kept in
        that Odoo's database."""
        with self._store.open() as state:
            name = self._serving(state, host, None, token)
            if not name:
                return False
            database = state["containers"][name]["database"]
            state["databases"][database]["rows"].append(text)
            state["databases"][database]["sequence"] += 1
        return True

    def rows(self, database: str) -> list[str]:
        with self._store.open() as state:
            return list(state["databases"][database]["rows"])


def serving(state: State, host: str, past_the_door: base.Colour | None = None) -> str:
    """Name of the running container to which the edge's routes and doors lead a request for the host."""
    for route in state["routes"]:
        if host not in route["hosts"]:
            continue
        there = route["second"]
        switched = (state.get("notices") or {}).get("switched", [])
        all_led = past_the_door is None and there and route["key"] in switched
        for each in there["upstreams"] if all_led else route["upstreams"]:
            colour = past_the_door or state["open_doors"].get(each["alias"])
            if not colour:
                continue
            wanted = base.Upstream(each["alias"]).name(base.Colour(colour))
            for name, container in state["containers"].items():
                if container["alias"] == wanted and container["state"] == "running":
                    return str(name)
    return ""


def _aliases(upstreams: Sequence[base.Upstream]) -> list[str]:
    return [upstream.alias for upstream in upstreams]


class SimulatedRuntime:
    simulated = True
    network = "simulated"
    parts: Mapping[str, str] = {
        "simulated-postgres": "postgres",
        "simulated-edge": "edge",
        "simulated-limiter": "limiter",
    }

    def __init__(self, spec: ServerSpec) -> None:
        self._store = store = _Store(spec.name)
        self.images: base.Images = _Images(store)
        self.containers: base.Containers = _Containers(store)
        self.databases: base.Databases = _Databases(store)
        self.filestores: base.Filestores = _Filestores(store)
        self.edge: base.Edge = _Edge(store)

    def facts(self) -> base.ServerFacts:
        FAULTS.meet("facts")
        return base.ServerFacts("simulated", 2, 8 * 1024**3, FAULTS.disk_free_bytes, self.memory_free())

    def memory_free(self) -> int | None:
        return FAULTS.memory_free_bytes

    def prepare(self, log: Log) -> None:
        FAULTS.meet("prepare")
        log(f"This server is simulated: nothing really runs. {timezone.now():%H:%M:%S} UTC")
        with self._store.open() as state:
            state["prepared"] = True
            for name in self.parts:
                part = {"image": "", "database": "", "labels": {}, "alias": ""} | state["containers"].get(name, {})
                state["containers"][name] = part | {"state": "running"}
