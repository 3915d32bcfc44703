"""A server's edge: Caddy in a container, and the doors of its environments.

A door is a file in the edge's volume. The edge serves it to itself and looks at it ten times a second: while it is
there, requests go to Odoo; while it isn't, they wait (`settings.OCORE_HOLD_SECONDS`, then a maintenance page). So a
door that was closed stays closed whatever happens to the edge, the portal or the machine.

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

from instances import edge_config, edge_files, limiter
from instances.edge_config import ADMIN, CLOSING_SECONDS, DOORS_FOLDER, HTTP_PORT, PASS_HEADER, STATE
from instances.edge_limits import SOCKET_FOLDER
from instances.runtimes.base import (
    NAMESPACE_LABEL,
    Answer,
    Containers,
    ContainerSpec,
    EdgeError,
    Exit,
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

READY = f"busybox wget -q -O /dev/null http://{ADMIN}/config/"
APPLY = f"""
set -eu
if busybox wget -q -O /dev/null "http://{ADMIN}/id/$1" 2>/dev/null; then echo same; exit; fi
umask 077
trap 'rm -f {STATE}/next.json' EXIT
printf %s "$OCORE_CONFIG" | busybox base64 -d | busybox gunzip > {STATE}/next.json
caddy reload --config {STATE}/next.json --address {ADMIN} --force
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
CLOSE = f"""
set -eu
rm -f "{DOORS_FOLDER}/$1"
busybox sleep {CLOSING_SECONDS}
"""
# $1 the door, $2 the upstreams, $3 hundredths of a second to wait for them.
CLOSE_AND_DRAIN = f"""{CLOSE}
names=$2
{COUNT}
now() {{ read -r up rest < /proc/uptime; echo "${{up%.*}}${{up#*.}}"; }}
end=$(( $(now) + $3 ))
while left=$(count); [ "$left" -gt 0 ] && [ "$(now)" -lt "$end" ]; do busybox sleep 0.05; done
echo "$left"
"""
# Nobody has to wait here for the edge to see it: a request that comes first is held for that tenth of a second.
OPEN = f"""
set -eu
mkdir -p {DOORS_FOLDER}
: > "{DOORS_FOLDER}/$1"
"""
IS_OPEN = f'[ -e "{DOORS_FOLDER}/$1" ] && echo open || echo closed'


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
        """The edge runs, as the settings want it; the routes and doors that it had are those that it has."""
        self.images.ensure_base(settings.OCORE_EDGE_IMAGE, log)
        wanted = self._container()
        found = self.containers.find(self.name)
        if found and found.labels.get(SPEC_LABEL) != wanted.labels[SPEC_LABEL]:
            log(f"The edge's settings have changed: making {self.name} anew.\n")
            self.containers.stop(self.name, 5)
            self.containers.remove(self.name)
            found = None
        if not found:
            log(f"Starting the edge {self.name} on {self.spec.edge_bind}:{self.spec.edge_port}.\n")
            self.containers.create(wanted)
        if not (found and found.running):
            self.containers.start(self.name)
        self._wait_until_ready(seconds=20)

    def serves(self, routes: Iterable[Route]) -> bool:
        """Are these its routes already? False when the edge isn't there."""
        try:
            done = self._script(SERVES, edge_config.loaded_id(self._configuration(routes)), what="say what it serves")
        except EdgeError:
            return False
        return done.output.strip() == "same"

    def _configuration(self, routes: Iterable[Route]) -> dict[str, Any]:
        return edge_config.configuration(routes, pass_key=self._pass_key(), hold_seconds=settings.OCORE_HOLD_SECONDS)

    def apply(self, routes: Iterable[Route]) -> bool:
        """Make these the edge's routes; True when that took a reload.

        A reload fails every request that is being held (502/503): the caller sees to it that no door on this server
        is closed meanwhile (but one that nobody can be waiting at). A new route's door is closed until it is opened."""
        data = self._configuration(routes)
        packed = base64.b64encode(gzip.compress(json.dumps(data).encode(), mtime=0)).decode()
        name = edge_config.loaded_id(data)
        done = self._script(APPLY, name, environment={"OCORE_CONFIG": packed}, what="take its new routes")
        return done.output.strip().endswith("loaded")

    def close(self, key: str) -> None:
        """New requests to the environment wait from now on; returns when no further one can slip through."""
        self._script(CLOSE, self._key(key), what=f"close the door of {key}")

    def close_and_drain(self, key: str, upstreams: Sequence[Upstream], seconds: float) -> int:
        """`close`, then wait up to that long until nothing is `in_flight`; what still is. One round trip."""
        names = " ".join(map(edge_config.counted_address, upstreams))
        done = self._script(
            CLOSE_AND_DRAIN,
            self._key(key),
            names,
            str(round(seconds * 100)),
            what=f"close the door of {key}",
            timeout=seconds + 30,
        )
        return self._number(done)

    def open(self, key: str) -> None:
        """Requests flow from now on, those that were held among them."""
        self._script(OPEN, self._key(key), what=f"open the door of {key}")

    def is_open(self, key: str) -> bool:
        done = self._script(IS_OPEN, self._key(key), what=f"say whether the door of {key} is open")
        return done.output.strip() == "open"

    def in_flight(self, upstreams: Sequence[Upstream]) -> int:
        """Requests that Odoo is answering on its http ports. Websockets and long polls are not among them, whichever
        port they use: they last for hours, carry no write that a client waits for, and come back by themselves."""
        names = " ".join(map(edge_config.counted_address, upstreams))
        return self._number(self._script(IN_FLIGHT, names, what="count its requests"))

    def tell(self, notices: Iterable[Notice], passes: Iterable[Pass]) -> bool:
        """These, and no others, hold from now on, without a reload; True when anything had to be changed."""
        packed = edge_files.pack(notices, passes)
        environment = {"OCORE_NOTICES": packed.content}
        done = self._script(edge_files.TELL, packed.digest, environment=environment, what="take its notices")
        return done.output.strip() != "same"

    def expect(self, key: str, seconds: float) -> None:
        """About so long the door will stay closed from now on, by the edge's own clock; 0: nobody knows."""
        what = f"be told how long {key} will take"
        self._script(edge_files.EXPECT, self._key(key), str(round(seconds)), what=what)

    def fetch(self, host: str, path: str, *, past_the_door: bool = False, timeout: float = 10) -> Answer:
        """A GET through the edge as a browser would; follows no redirect, keeps 4 KB of the body."""
        headers = {"Host": host, "Accept": "text/html,*/*;q=0.8", "User-Agent": "oCore"}
        if past_the_door:
            headers[PASS_HEADER] = self._pass_key()
        url = f"http://{self.spec.edge_host}:{self.spec.edge_port}{path}"
        return waiting.aside(lambda: _fetch(url, headers, timeout))

    def _container(self) -> ContainerSpec:
        first = edge_config.configuration([], pass_key="", hold_seconds=0)
        spec = ContainerSpec(
            name=self.name,
            image=settings.OCORE_EDGE_IMAGE,
            # What was loaded last comes back at every start; the file serves the very first one.
            command=("caddy", "run", "--config", FIRST_CONFIG, "--resume"),
            environment={"XDG_CONFIG_HOME": f"{STATE}/config", "XDG_DATA_HOME": f"{STATE}/data"},
            files=[File(FIRST_CONFIG, json.dumps(first).encode())],
            volumes={self.name: STATE, limiter.container_name(self.spec): SOCKET_FOLDER},
            network=self.name,
            ports={f"{HTTP_PORT}/tcp": (self.spec.edge_bind, self.spec.edge_port)},
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

    def _key(self, key: str) -> str:
        if not edge_config.KEY.fullmatch(key):
            raise EdgeError(f"“{key}” cannot name a door.", advice="Use letters, digits and dashes.")
        return key


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
