"""What a server can do for the pipeline, in frozen data and few verbs.

The pipeline and everything above know only these names. `docker` does it on a real engine, `simulated`
in a file, for the pipeline's tests and for looking around without an engine. Every verb may raise
`ServerUnreachable`; all of them are idempotent: asked twice, they do it once.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ocore.errors import ExpectedError

NAMESPACE_LABEL = "io.ocore.namespace"
"""On every container, image, volume, network and (as a comment) database that is ours; its value tells installations
apart. Nothing without it is ever touched."""

HOLDER_LABEL = "io.ocore.holder"
"""On a helper's container: the process that waits for it (`processes.own_name`)."""

Rows = list[list[str]]
"""What a query gave, as text."""

Log = Callable[[str], None]
"""Takes text as it comes, one or more whole lines."""


class ServerUnreachable(ExpectedError):
    default_advice = "Check that the server is up and its engine answers; then deploy again."


class ImageMissing(ExpectedError):
    default_advice = (
        "Check the image's name (project or environment, “Odoo image”) and that its registry can be reached."
    )


class BuildFailed(ExpectedError):
    default_advice = "Read the end of the build's log, correct the repository and push again."


class RunFailed(ExpectedError):
    """A container could not be created, started or run, or went past its deadline."""

    default_advice = (
        "Read what the engine said; docs/operations.md, “What it says, and what to do”, has the usual reasons."
    )


class DatabaseError(ExpectedError):
    """PostgreSQL refused a statement; `detail` is what it said."""


class EdgeError(ExpectedError):
    """The edge refused a configuration or does not answer."""


@dataclass(frozen=True)
class Entrance:
    """How clients come to a server's edge."""

    https_port: int = 0
    """On the server; 0: http only."""
    acme_directory: str = ""
    """Empty: the edge's own authority gives all certificates."""
    acme_email: str = ""
    acme_roots: str = ""
    """PEM of the authorities that are trusted at the ACME server; empty: the public ones."""
    trusted_proxies: tuple[str, ...] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed."""


@dataclass(frozen=True)
class ServerSpec:
    """What a driver must know of a server's row."""

    name: str
    endpoint: str = ""
    """As `DOCKER_HOST`: `unix:///...`, `ssh://...`, `tcp://...`; empty: this machine's."""
    namespace: str = "ocore"
    edge_bind: str = "0.0.0.0"  # noqa: S104 - an edge is there to be reached
    edge_port: int = 8080
    edge_host: str = "127.0.0.1"
    """Where the portal reaches this server's edge."""
    entrance: Entrance = Entrance()
    postgres_dsn: str = ""
    """An external PostgreSQL, as a superuser or a role that may create roles and databases; empty: a container."""


@dataclass(frozen=True)
class ServerFacts:
    engine: str
    """Name and version of the engine, as a person would say it."""
    cpus: int
    memory_bytes: int
    disk_free_bytes: int
    """Free where the engine keeps its images and volumes."""
    memory_free_bytes: int | None = None
    """That programs could still take; None where it is not in sight."""


@dataclass(frozen=True)
class Image:
    reference: str
    id: str
    size_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    name: str
    id: str
    state: str
    """`created`, `running`, `restarting`, `exited`, ... as the engine says it."""
    exit_code: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    image_id: str = ""
    restart_count: int = 0
    out_of_memory: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True)
class File:
    """A file put into a container before it starts; how secrets get there without argv or environment."""

    path: str
    content: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class ContainerSpec:
    name: str
    image: str
    command: Sequence[str] = ()
    """The argv after the entrypoint; with `entrypoint` empty, the whole argv."""
    entrypoint: Sequence[str] | None = None
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[File] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    """Volume name -> path in the container."""
    network: str = ""
    aliases: Sequence[str] = ()
    ports: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Container port as `8080/tcp` -> (address, port) on the server."""
    labels: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    cpus: float = 0
    """Processors that it may use, at most those that there are; 0: all."""
    pids: int = 512
    capabilities: Sequence[str] = ()
    """All are dropped; these are given back."""
    restart: bool = False
    stop_seconds: int = 30
    stop_signal: str = ""
    """Asks it to end, where its image's own doesn't: a program without a handler for SIGTERM ignores that as pid 1."""
    shm_bytes: int = 0
    gate: str = ""
    """A file in it, for which what runs there waits before it begins; `start` puts it there."""


@dataclass(frozen=True)
class Exit:
    code: int
    output: str
    """Standard output and error together, for `run` the last 64 KB."""

    @property
    def ok(self) -> bool:
        return self.code == 0


@dataclass(frozen=True)
class DumpFacts:
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class FilestoreFacts:
    files: int
    size_bytes: int
    sha256: str
    """Of the sorted listing `path TAB size`: a filestore is content-addressed, so its listing names its content."""


class Colour(StrEnum):
    """An instance's containers take turns: while one serves, the next gets ready under the other colour."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> "Colour":
        return Colour.GREEN if self == Colour.BLUE else Colour.BLUE


LABEL_CHARACTERS = 63
"""Of a name on a network, as DNS has it."""
GREEN_SUFFIX = "--g"
"""No alias has two dashes in a row after its instance's name."""


@dataclass(frozen=True)
class Upstream:
    """One instance behind the edge."""

    alias: str
    """Names its door at the edge, whichever container serves behind it."""
    http_port: int = 8069
    event_port: int = 8072
    max_requests: int = 16
    """In flight at once; the rest wait at the edge, not in Odoo's connection pool."""

    def name(self, colour: Colour) -> str:
        """Of its container of that colour on the edge's network. Blue is the plain one: those that were made before
        there were colours are blue."""
        if colour == Colour.BLUE:
            return self.alias
        name = f"{self.alias}{GREEN_SUFFIX}"
        if len(name) <= LABEL_CHARACTERS:
            return name
        digest = hashlib.sha256(self.alias.encode()).hexdigest()[:16]
        return f"{self.alias[: LABEL_CHARACTERS - 17 - len(GREEN_SUFFIX)]}-{digest}{GREEN_SUFFIX}"


@dataclass(frozen=True)
class Name:
    """A host name of an environment, and what certificate the edge shows for it."""

    host: str
    leads_to: str = ""
    """Scheme, host and port to which its requests are redirected; empty: it is served."""
    own_authority: bool = True
    """Else by ACME; neither where there is a `chain`."""
    chain: str = ""
    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Entry:
    """How clients come in to one environment, and which."""

    names: tuple[Name, ...] = ()
    https_at: str = ""
    """`:<port>`, or empty for the usual one, to which http is redirected; see `https_only`."""
    https_only: bool = False
    hsts_seconds: int = 0
    allowed: tuple[str, ...] = ()
    """Networks; empty: everybody."""
    accounts: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """User and bcrypt hash; empty: no prompt."""
    hidden: bool = False
    """From search engines."""
    max_body: int = 256 * 1024**2


@dataclass(frozen=True)
class Limits:
    """What one client's address may ask of an environment; 0: not limited."""

    requests_per_second: int = 0
    """On average over ten seconds."""
    request_burst: int = 0
    """At most within one second."""


@dataclass(frozen=True)
class Route:
    """What the edge does for one environment."""

    key: str
    """Names the environment; letters, digits and dashes."""
    hosts: tuple[str, ...]
    upstreams: tuple[Upstream, ...]
    title: str = ""
    """Shown on the maintenance page."""
    entry: Entry = Entry()
    limits: Limits = Limits()
    second: "Second | None" = None


@dataclass(frozen=True)
class Second:
    """Another version of an environment, to which a share of its clients is led."""

    upstreams: tuple[Upstream, ...]
    share: int
    """Percent that is led there by chance, 0 to 99. All are where the edge was told that it is switched to."""
    mark: str
    """Of this test, in the clients' cookies."""
    own_data: bool = False
    """Who has a session with the first one knows nothing of it there, and stays."""


@dataclass(frozen=True)
class Figures:
    """What became of the requests to a version."""

    requests: int = 0
    refused: int = 0
    """4xx."""
    failed: int = 0
    """5xx."""
    median: float = 0.0
    """Seconds, as `p95`."""
    p95: float = 0.0
    since: datetime | None = None


@dataclass(frozen=True)
class Notice:
    """An environment is in maintenance: what the edge says to its clients, at once."""

    key: str
    text: str = ""
    until: datetime | None = None
    """Expected end."""


@dataclass(frozen=True)
class Pass:
    """A tester's: with it requests pass maintenance, never a closed door."""

    key: str
    """Of the environment."""
    token: str
    """64 hexadecimal digits."""
    expires_at: datetime


@dataclass(frozen=True)
class Answer:
    """What an HTTP request got; `status` 0 when nothing answered, then `body` says why."""

    status: int
    body: str = ""
    seconds: float = 0.0
    location: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200


class Images(Protocol):
    def find(self, reference: str) -> Image | None: ...

    def list(self) -> list[Image]:
        """Those that carry our label and still have the name that they were built under; base images too."""

    def ensure_base(self, reference: str, log: Log) -> Image:
        """Present, else pulled, else built from Debian's packages where a recipe exists; else `ImageMissing`."""

    def build(
        self, reference: str, context: Path, labels: Mapping[str, str], log: Log, *, timeout: float, silence: float
    ) -> Image:
        """Build the folder's Dockerfile. `BuildFailed` when it fails, or on either deadline (seconds in all, seconds
        without output). `log` may raise to stop the build; what was running is then killed."""

    def remove(self, reference: str) -> None: ...

    def tidy(self) -> None:
        """Nothing is left of a build whose worker or engine was killed."""


class Containers(Protocol):
    def find(self, name: str) -> Container | None: ...

    def list(self, labels: Mapping[str, str]) -> list[Container]: ...

    def create(self, spec: ContainerSpec) -> Container:
        """The container of that name, made if it isn't there; its files are in it before this returns."""

    def get_ready(self, name: str) -> None:
        """It loads, and waits at its gate; without one, nothing is done."""

    def start(self, name: str) -> None:
        """It runs, past its gate."""

    def stop(self, name: str, seconds: int = 30) -> None: ...

    def remove(self, name: str, *, unless_running: bool = False) -> None:
        """Kill and remove; never its volumes. `unless_running`: nothing is done to one that somebody has started, be it
        at this very moment."""

    def run(self, spec: ContainerSpec, log: Log, *, timeout: float, silence: float) -> Exit:
        """To its end, then remove it; one that waits at its gate goes on. `RunFailed` past a deadline. `log` may raise:
        then it is killed and removed."""

    def exec(
        self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Exit: ...

    def logs(self, name: str, lines: int = 200) -> str: ...

    def join_edge(self, name: str, alias: str) -> None:
        """Give the container a name on the edge's network; leaves first if it is there under another."""

    def leave_edge(self, name: str) -> None: ...


def aside_name(database: str) -> str:
    """Under which `put_back` leaves what was there."""
    return f"{database[:50]}__aside"


class Databases(Protocol):
    host: str
    """Name and port under which Odoo's containers reach PostgreSQL."""
    port: int

    def create_role(self, role: str, password: str) -> None: ...

    def drop_role(self, role: str) -> None: ...

    def exists(self, database: str) -> bool: ...

    def create(self, database: str, owner: str, template: str = "", template_owner: str = "") -> None:
        """Empty and UTF-8, or a copy of `template` in which all that `template_owner` has becomes `owner`'s."""

    def clone(self, source: str, target: str) -> None:
        """`target` becomes a byte-for-byte copy; whoever is connected to `source` is put out first."""

    def rename(self, source: str, target: str) -> None: ...

    def put_back(self, source: str, target: str) -> None:
        """`source` takes the place of `target`, which stays under its `aside_name` until that is dropped: dropping
        takes the longer the larger it is. Atomic: nothing is done when `source` is gone already and `target` is there,
        so that one who comes late or twice destroys nothing."""

    def drop(self, database: str) -> None:
        """Gone, whoever is connected. Refuses (`DatabaseError`) what does not carry our label."""

    def size(self, database: str) -> int: ...

    def list(self) -> list[str]:
        """Those that carry our label."""

    def sizes(self) -> dict[str, int]:
        """Of those that carry our label, in bytes, in one call."""

    def query(self, database: str, sql: str) -> Rows:
        """NULL is the empty string. Raises `DatabaseError`."""

    def end_work(self, database: str) -> None:
        """What a worker that died has begun on this database or on its snapshots is ended: statements outlive it."""

    def dump(self, database: str, target: Path, log: Log) -> DumpFacts:
        """`pg_dump -Fc` streamed to a file on the portal's machine; nothing half-written stays."""


class Filestores(Protocol):
    """An environment's volume, Odoo's data_dir: a filestore in it per database, and snapshots as hard links."""

    def ensure(self, volume: str, image: str) -> None: ...

    def remove(self, volume: str) -> None: ...

    def volumes(self) -> list[str]:
        """Every volume that carries our label, also those that hold something else."""

    def snapshot(self, volume: str, database: str, snapshot: str) -> FilestoreFacts: ...

    def restore(self, volume: str, database: str, snapshot: str) -> FilestoreFacts:
        """The filestore becomes what it was at the snapshot, which stays; atomic for whoever looks. What it is then."""

    def carry(self, source: str, target: str, snapshot: str) -> FilestoreFacts:
        """A snapshot of one volume becomes one of another, under the same name."""

    def facts(self, volume: str, database: str, snapshot: str = "") -> FilestoreFacts:
        """Of the living filestore, or of a snapshot."""

    def discard(self, volume: str, snapshot: str) -> None: ...

    def end_work(self, volume: str) -> None:
        """What a worker that died has begun on this volume is ended: it would go on beside who comes after it."""


class Edge(Protocol):
    def apply(self, routes: Iterable[Route], log: Log) -> bool:
        """Make it what the settings want, and these its routes; True when anything had to be changed, which
        fails whatever is being held."""

    def serves(self, routes: Iterable[Route]) -> bool:
        """Is it as the settings want it, and are these its routes already? Says False when the edge isn't there."""

    def close(self, upstreams: Sequence[Upstream]) -> None:
        """New requests to these wait from now on."""

    def close_and_drain(self, upstreams: Sequence[Upstream], seconds: float) -> int:
        """`close`, then wait up to `seconds` for the requests in flight; how many are left. One round trip."""

    def open(self, upstreams: Sequence[Upstream], colour: Colour) -> None:
        """Requests flow to the containers of that colour from now on; those that the others are answering go on."""

    def figures(self, mark: str) -> dict[str, Figures]:
        """Of two versions, by `first` and `second`: those of the latest requests that are kept, some 150,000."""

    def doors(self) -> dict[str, Colour]:
        """Those that are open, by alias, with the colour to which they lead."""

    def in_flight(self, upstreams: Sequence[Upstream]) -> int:
        """Requests that are being answered; websockets and long polls are not among them."""

    def drain(self, upstreams: Sequence[Upstream], colour: Colour, seconds: float) -> int:
        """Wait up to `seconds` for the requests that the containers of that colour, to which no door leads any more,
        are answering; how many are left. One round trip."""

    def tell(self, notices: Iterable[Notice], passes: Iterable[Pass], switched: Iterable[str] = ()) -> bool:
        """These, and no others, hold from now on, without a reload; True when anything had to be changed."""

    def expect(self, key: str, seconds: float) -> None:
        """About so long the environment's door will stay closed from now on, for those who wait; 0: nobody knows."""

    def fetch(self, host: str, path: str, *, past_the_door: Colour | None = None, timeout: float = 10) -> Answer:
        """A GET through the edge as a client would; past the door, to the containers of a colour, also while it is
        closed or in maintenance."""


class Runtime(Protocol):
    """One server."""

    simulated: bool
    images: Images
    containers: Containers
    databases: Databases
    filestores: Filestores
    edge: Edge
    network: str
    """Where Odoo meets PostgreSQL."""
    parts: Mapping[str, str]
    """The server's own containers, those that `prepare` brings up: name -> `postgres`, `edge` or `limiter`."""

    def facts(self) -> ServerFacts: ...

    def memory_free(self) -> int | None:
        """Bytes that programs could still take; None where that is not in sight."""

    def prepare(self, log: Log) -> None:
        """Networks, PostgreSQL and the edge are there and run."""
