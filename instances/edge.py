"""A server's edge: Caddy in a container, and the doors of its instances.

A door is a symbolic link in the edge's volume, to the socket of one of Caddy's inner servers (`edge_config`). While it
is there, requests go to the containers of that colour; while it isn't, they wait (`settings.OCORE_HOLD_SECONDS`, then a
maintenance page). So a door that was closed stays closed whatever happens to the edge, the portal or the machine, and
one that is turned over to the other colour never fails a request.

Everything is said to the edge through `exec`: its admin API listens on its own loopback only.
"""

import base64
import gzip
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import requests
from django.conf import settings
from django.utils.crypto import salted_hmac

from instances import edge_config, edge_files, edge_split, limiter
from instances.edge_access import LOOK_HEADER, look_key
from instances.edge_config import ADMIN, DOORS_FOLDER, HTTP_PORT, PASS_HEADER, SIDES_FOLDER, STATE
from instances.edge_limits import SOCKET_FOLDER
from instances.edge_tls import HTTPS_PORT, roots_name
from instances.runtimes.base import (
    NAMESPACE_LABEL,
    Answer,
    Colour,
    Container,
    Containers,
    ContainerSpec,
    EdgeError,
    Exit,
    Figures,
    File,
    Images,
    Log,
    Notice,
    Pass,
    Route,
    RunFailed,
    ServerSpec,
    Upstream,
)
from ocore import waiting

SPEC_LABEL = "io.ocore.edge"
"""Digest of what the edge's container was made from."""
FIRST_CONFIG = "/etc/ocore-edge.json"
MAX_ANSWER_BYTES = 4096
PART_BYTES = 100_000
"""The kernel takes no variable above 128 KiB; uploaded certificates make a configuration larger than that."""

# Sockets that a killed edge has left would keep it from listening.
RUN = f"""
mkdir -p {DOORS_FOLDER} {SIDES_FOLDER}
rm -f {SIDES_FOLDER}/*.sock
exec caddy run --config {FIRST_CONFIG} --resume
"""
READY = f"busybox wget -q -O /dev/null http://{ADMIN}/config/"
NOW = 'now() { read -r up rest < /proc/uptime; echo "${up%.*}${up#*.}"; }'
"""In hundredths of a second."""
SETTLE_SECONDS = 15.0
"""For so long a reload waits for requests that wait for a place behind a door that is open; longer than that, something
else is wrong."""
# Whoever is being held tries again every `edge_config.TRY_INTERVAL`: where a place was free for longer, nobody is.
SETTLE = f"""
{NOW}
full() {{
    busybox wget -q -O - http://{ADMIN}/reverse_proxy/upstreams | busybox awk -v limits="$OCORE_LIMITS" '
        BEGIN {{
            RS = "}}"
            n = split(limits, each, " ")
            for (i = 1; i <= n; i++) {{ split(each[i], pair, "="); most[pair[1]] = pair[2] }}
        }}
        {{ name = "" }}
        match($0, /"address":"[^"]*"/) {{ name = substr($0, RSTART + 11, RLENGTH - 12) }}
        (name in most) && match($0, /"num_requests":[0-9]+/) {{
            if (substr($0, RSTART + 15, RLENGTH - 15) + 0 >= most[name]) full = 1
        }}
        END {{ exit !full }}'
}}
end=$(( $(now) + $4 ))
free=0
while [ "$free" -lt 4 ] && [ "$(now)" -lt "$end" ]; do
    busybox sleep {edge_config.TRY_INTERVAL}
    if full; then free=0; else free=$((free + 1)); fi
done
"""
APPLY = f"""
set -eu
if busybox wget -q -O /dev/null "http://{ADMIN}/id/$1" 2>/dev/null; then echo same; exit; fi
{SETTLE}
umask 077
trap 'rm -f {STATE}/next.json' EXIT
if [ -n "$2" ]; then printf %s "$OCORE_ROOTS" > "{STATE}/$2"; fi
number=0
while eval "part=\\${{OCORE_CONFIG_$number-}}"; [ -n "$part" ]; do
    printf %s "$part"
    number=$((number + 1))
done | busybox base64 -d | busybox gunzip > {STATE}/next.json
caddy reload --config {STATE}/next.json --address {ADMIN} --force
for folder in {edge_split.FOLDER}/*; do
    case " $3 " in *" ${{folder##*/}} "*) ;; *) rm -rf "$folder" ;; esac
done
echo loaded
"""
SERVES = f'busybox wget -q -O /dev/null "http://{ADMIN}/id/$1" 2>/dev/null && echo same || echo other'
# The count fails, rather than being 0, when the admin API does not answer.
COUNT = f"""
count() {{
    seen=$(busybox wget -q -O - http://{ADMIN}/reverse_proxy/upstreams) || exit 9
    printf %s "$seen" | busybox awk -v names="$names" '
        BEGIN {{ RS = "}}"; n = split(names, each, " "); for (i = 1; i <= n; i++) wanted[each[i]] = 1 }}
        match($0, /"address":"[^"]*"/) && (substr($0, RSTART + 11, RLENGTH - 12) in wanted) {{
            if (match($0, /"num_requests":[0-9]+/)) sum += substr($0, RSTART + 15, RLENGTH - 15)
        }}
        END {{ print sum + 0 }}'
}}
"""
IN_FLIGHT = f"set -eu\nnames=$1\n{COUNT}\ncount"
# $names the counted addresses, $1 hundredths of a second to wait for them.
DRAIN = f"""
{COUNT}
{NOW}
end=$(( $(now) + $1 ))
while left=$(count); [ "$left" -gt 0 ] && [ "$(now)" -lt "$end" ]; do busybox sleep 0.05; done
echo "$left"
"""
CLOSE = f"""
set -eu
for door in $1; do rm -f "{DOORS_FOLDER}/$door"; done
"""
# A request is counted at its door before it looks whether that is open: once the count is 0, none can slip through.
CLOSE_AND_DRAIN = f"{CLOSE}\nnames=$2\nset -- $3\n{DRAIN}"
# One that has just gone through the door may not have come to the container yet.
DRAIN_SIDE = f"set -eu\nbusybox sleep 0.2\nnames=$1\nset -- $2\n{DRAIN}"
# A door is never half there: the new link takes the old one's place.
OPEN = f"""
set -eu
mkdir -p {DOORS_FOLDER}
for door in $1; do
    ln -sfn "{SIDES_FOLDER}/$2.sock" "{DOORS_FOLDER}/.$door.$$"
    mv -f "{DOORS_FOLDER}/.$door.$$" "{DOORS_FOLDER}/$door"
done
"""
DOORS = f"""
cd {DOORS_FOLDER} 2>/dev/null || exit 0
for door in *; do [ ! -L "$door" ] || echo "$door $(readlink "$door")"; done
"""


class CaddyEdge:
    """`Edge` of `runtimes.base`. Whoever applies routes or prepares the edge holds the server's edge lock and has seen
    that no door is closed: a reload fails every request that is being held."""

    def __init__(self, spec: ServerSpec, containers: Containers, images: Images) -> None:
        self.spec = spec
        self.containers = containers
        self.images = images
        self.name = f"{spec.namespace}-edge"
        """Of the container, its volume and the network on which it meets Odoo; the network is the runtime's to make."""

    def prepare(self, log: Log) -> None:
        """The edge runs, with the routes and doors that it had. One that runs is left as it is, even where the settings
        want it otherwise: it may be holding requests. `apply` makes it anew."""
        found = self.containers.find(self.name)
        if not (found and found.running):
            self._make(found, log)
        self._wait_until_ready(seconds=20)

    def _make(self, found: Container | None, log: Log) -> None:
        """It runs as the settings want it."""
        self.images.ensure_base(settings.OCORE_EDGE_IMAGE, log)
        if found and not self._fits(found):
            log(f"The edge's settings have changed: making {self.name} anew.\n")
            self.containers.stop(self.name, 5)
            self.containers.remove(self.name)
            found = None
        if not found:
            log(f"Starting the edge {self.name} on {self.spec.edge_bind}:{self.spec.edge_port}.\n")
            self.containers.create(self._container())
        self.containers.start(self.name)

    def _fits(self, found: Container | None) -> bool:
        return found is not None and found.labels.get(SPEC_LABEL) == self._container().labels[SPEC_LABEL]

    def serves(self, routes: Iterable[Route]) -> bool:
        """Is it as the settings want it, and are these its routes already? False when the edge isn't there."""
        try:
            if not self._fits(self.containers.find(self.name)):
                return False
            done = self._script(SERVES, edge_config.loaded_id(self._configuration(routes)), what="say what it serves")
        except EdgeError:
            return False
        return done.output.strip() == "same"

    def _configuration(self, routes: Iterable[Route]) -> dict[str, Any]:
        return edge_config.configuration(
            routes,
            pass_key=self._pass_key(),
            hold_seconds=settings.OCORE_HOLD_SECONDS,
            entrance=self.spec.entrance,
        )

    def apply(self, routes: Iterable[Route], log: Log) -> bool:
        """Make it what the settings want, and these its routes; True when anything had to be changed.

        A reload, and an edge made anew, fail every request that is being held (502/503): the caller sees to it that no
        door on this server is closed meanwhile (but one that nobody can be waiting at). Those that wait behind a door
        that has just been opened are waited for. A new route's door is closed until it is opened."""
        found = self.containers.find(self.name)
        anew = not self._fits(found)
        if anew:
            self._make(found, log)
            self._wait_until_ready(seconds=20)
        routes = list(routes)
        data = self._configuration(routes)
        packed = base64.b64encode(gzip.compress(json.dumps(data).encode(), mtime=0)).decode()
        name = edge_config.loaded_id(data)
        parts = (packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES))
        environment = {f"OCORE_CONFIG_{number}": part for number, part in enumerate(parts)}
        environment["OCORE_ROOTS"] = self.spec.entrance.acme_roots
        environment["OCORE_LIMITS"] = _limits(routes)
        roots = roots_name(self.spec.entrance)
        marks = edge_split.marks(routes)
        done = self._script(
            APPLY,
            name,
            roots,
            marks,
            _hundredths(SETTLE_SECONDS),
            environment=environment,
            what="take its new routes",
            timeout=SETTLE_SECONDS + 30,
        )
        return anew or done.output.strip().endswith("loaded")

    def close(self, upstreams: Sequence[Upstream]) -> None:
        """New requests to these wait from now on."""
        self._script(CLOSE, _doors(upstreams), what=f"close the door of {_named(upstreams)}")

    def close_and_drain(self, upstreams: Sequence[Upstream], seconds: float) -> int:
        """`close`, then wait up to that long until nothing is `in_flight`; what still is. One round trip."""
        done = self._script(
            CLOSE_AND_DRAIN,
            _doors(upstreams),
            " ".join(map(edge_config.door_address, upstreams)),
            _hundredths(seconds),
            what=f"close the door of {_named(upstreams)}",
            timeout=seconds + 30,
        )
        return self._number(done)

    def open(self, upstreams: Sequence[Upstream], colour: Colour) -> None:
        """Requests flow to the containers of that colour from now on, those that were held among them."""
        self._script(OPEN, _doors(upstreams), str(colour), what=f"open the door of {_named(upstreams)}")

    def figures(self, mark: str) -> dict[str, Figures]:
        done = self._script(edge_split.FIGURES, edge_split.log_file(_key(mark)), what="count the requests")
        return dict(edge_split.read(done.output))

    def doors(self) -> dict[str, Colour]:
        done = self._script(DOORS, what="say which doors are open")
        sockets = {f"{SIDES_FOLDER}/{colour}.sock": colour for colour in Colour}
        found = (line.rpartition(" ") for line in done.output.splitlines())
        return {alias: sockets[target] for alias, _, target in found if target in sockets}

    def in_flight(self, upstreams: Sequence[Upstream]) -> int:
        """Requests that have gone through these doors and are being answered. Websockets and long polls are not among
        them, whichever port they use: they last for hours, carry no write that a client waits for, and come back by
        themselves."""
        names = " ".join(map(edge_config.door_address, upstreams))
        return self._number(self._script(IN_FLIGHT, names, what="count its requests"))

    def drain(self, upstreams: Sequence[Upstream], colour: Colour, seconds: float) -> int:
        done = self._script(
            DRAIN_SIDE,
            " ".join(edge_config.counted_address(each, colour) for each in upstreams),
            _hundredths(seconds),
            what="count its requests",
            timeout=seconds + 30,
        )
        return self._number(done)

    def tell(self, notices: Iterable[Notice], passes: Iterable[Pass], switched: Iterable[str] = ()) -> bool:
        """These, and no others, hold from now on, without a reload; True when anything had to be changed."""
        packed = edge_files.pack(notices, passes, switched)
        environment = {"OCORE_NOTICES": packed.content}
        done = self._script(edge_files.TELL, packed.digest, environment=environment, what="take its notices")
        return done.output.strip() != "same"

    def expect(self, key: str, seconds: float) -> None:
        """About so long the door will stay closed from now on, by the edge's own clock; 0: nobody knows."""
        what = f"be told how long {key} will take"
        self._script(edge_files.EXPECT, _key(key), str(round(seconds)), what=what)

    def fetch(self, host: str, path: str, *, past_the_door: Colour | None = None, timeout: float = 10) -> Answer:
        """A GET through the edge as a browser would, but past all that keeps people out or sends them elsewhere;
        follows no redirect, keeps 4 KB of the body."""
        headers = {"Host": host, "Accept": "text/html,*/*;q=0.8", "User-Agent": "oCore"}
        headers[LOOK_HEADER] = look_key(self._pass_key())
        if past_the_door:
            headers[PASS_HEADER] = edge_config.pass_value(self._pass_key(), past_the_door)
        url = f"http://{self.spec.edge_host}:{self.spec.edge_port}{path}"
        return waiting.aside(lambda: _fetch(url, headers, timeout))

    def _container(self) -> ContainerSpec:
        first = edge_config.configuration([], pass_key="", hold_seconds=0)
        entrance = self.spec.entrance
        ports = {f"{HTTP_PORT}/tcp": (self.spec.edge_bind, self.spec.edge_port)}
        if entrance.https_port:
            ports[f"{HTTPS_PORT}/tcp"] = (self.spec.edge_bind, entrance.https_port)
        spec = ContainerSpec(
            name=self.name,
            image=settings.OCORE_EDGE_IMAGE,
            # What was loaded last comes back at every start; the file serves the very first one.
            command=("sh", "-c", RUN),
            environment={"XDG_CONFIG_HOME": f"{STATE}/config", "XDG_DATA_HOME": f"{STATE}/data"},
            files=[File(FIRST_CONFIG, json.dumps(first).encode())],
            volumes={self.name: STATE, limiter.container_name(self.spec): SOCKET_FOLDER},
            network=self.name,
            ports=ports,
            # The registry's image marks its binary with this capability: without it, it cannot be executed at all.
            capabilities=("NET_BIND_SERVICE",),
            restart=True,
            stop_seconds=5,
        )
        made_from = [spec.image, spec.command, spec.environment, spec.volumes, spec.ports, spec.capabilities]
        labels = {
            NAMESPACE_LABEL: self.spec.namespace,
            SPEC_LABEL: hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16],
        }
        return replace(spec, labels=labels)

    def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        detail = ""
        while time.monotonic() < deadline:
            try:
                done = self.containers.exec(self.name, ["sh", "-c", READY], timeout=5)
            except RunFailed as error:
                detail = error.detail or error.message
            else:
                if done.ok:
                    return
                detail = done.output
            waiting.pause(0.1)
        raise EdgeError(
            f"The edge {self.name} does not get ready.",
            detail=f"{detail.strip()}\n{self.containers.logs(self.name, 20)}".strip(),
            advice=f"Look at “docker logs {self.name}” on the server; is port {self.spec.edge_port} free there?",
        )

    def _script(
        self,
        script: str,
        *arguments: str,
        what: str,
        environment: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Exit:
        argv = ["sh", "-c", script, "edge", *arguments]
        advice = "Prepare the server again (it starts the edge), then repeat what you did."
        try:
            done = self.containers.exec(self.name, argv, environment=environment, timeout=timeout)
        except RunFailed as error:
            detail = error.detail or error.message
            raise EdgeError(f"The edge {self.name} could not {what}.", detail=detail, advice=advice) from error
        if not done.ok:
            raise EdgeError(f"The edge {self.name} could not {what}.", detail=done.output.strip(), advice=advice)
        return done

    def _number(self, done: Exit) -> int:
        text = done.output.strip()
        if not text.isdecimal():
            raise EdgeError(f"The edge {self.name} does not say how many requests it is serving.", detail=text)
        return int(text)

    def _pass_key(self) -> str:
        """Constant per server, known to nobody who doesn't know the portal's secret key."""
        return salted_hmac("ocore.edge.pass", self.spec.name, algorithm="sha256").hexdigest()


def _doors(upstreams: Sequence[Upstream]) -> str:
    for upstream in upstreams:
        edge_config.check_alias(upstream.alias)
    return " ".join(upstream.alias for upstream in upstreams)


def _key(key: str) -> str:
    if not edge_config.KEY.fullmatch(key):
        raise EdgeError(f"“{key}” cannot name an environment.", advice="Use letters, digits and dashes.")
    return key


def _named(upstreams: Sequence[Upstream]) -> str:
    return ", ".join(upstream.alias for upstream in upstreams) or "nobody"


def _limits(routes: Iterable[Route]) -> str:
    """How many requests each door lets through at once."""
    ways = (way for route in routes for way in (route, route.second) if way)
    return " ".join(f"{edge_config.door_address(one)}={one.max_requests}" for way in ways for one in way.upstreams)


def _hundredths(seconds: float) -> str:
    return str(round(seconds * 100))


def _fetch(url: str, headers: Mapping[str, str], timeout: float) -> Answer:
    started = time.monotonic()
    try:
        with requests.Session() as session:
            session.trust_env = False
            with session.get(url, headers=headers, timeout=timeout, allow_redirects=False, stream=True) as response:
                body = next(response.iter_content(MAX_ANSWER_BYTES), b"")
    except requests.RequestException as error:
        reason = f"No answer within {timeout:g} s." if isinstance(error, requests.Timeout) else str(error)
        return Answer(status=0, body=reason, seconds=time.monotonic() - started)
    return Answer(
        status=response.status_code,
        body=body.decode(errors="replace"),
        seconds=time.monotonic() - started,
        location=response.headers.get("Location", ""),
    )
