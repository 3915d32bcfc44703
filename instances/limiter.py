"""A server's limiter: HAProxy in a container, which the edge asks whether a client may go on.

It has no network, no published port and no data: a socket in a volume that only the edge shares, and counts in its
memory. Its rates come with each question, so its configuration never changes. Without it every request goes on
(`instances/edge_limits.py`): whatever is wrong with it is told, and stops nothing else.
"""

import hashlib
import json
import time
from dataclasses import replace

from django.conf import settings

from instances.edge_limits import HEADERS, SOCKET, SOCKET_FOLDER, WINDOW
from instances.runtimes.base import (
    NAMESPACE_LABEL,
    Containers,
    ContainerSpec,
    EdgeError,
    File,
    Images,
    Log,
    RunFailed,
    ServerSpec,
)
from ocore import waiting

SPEC_LABEL = "io.ocore.limiter"
"""Digest of what its container was made from."""
CONFIG = "/etc/ocore-limiter.cfg"
CLIENTS = 100_000
"""Addresses that are counted at once; with more of them the one that asked longest ago is forgotten."""
MEMORY_BYTES = 128 * 1024**2
READY_SECONDS = 10.0
_KEY, _ADDRESS, _RATE, _BURST = HEADERS

# What is refused does not count: whoever asks too much gets as much as is allowed, and not nothing. Of IPv6 a client
# has a whole network, so that is what is counted.
CONFIGURATION = f"""\
global
    maxconn 4096
    nbthread 1
    hard-stop-after 1s
    log stderr format raw local0 warning
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 1s
    timeout http-request 2s
    timeout http-keep-alive 60s
frontend ask
    bind unix@{SOCKET} mode 600
    http-request set-var(txn.rate) req.hdr({_RATE}),mul({WINDOW})
    http-request set-var(txn.burst) req.hdr({_BURST})
    http-request set-var(txn.address) req.hdr_ip({_ADDRESS}),ipmask(32,64)
    http-request set-var-fmt(txn.client) "%[req.hdr({_KEY})] %[var(txn.address)]"
    http-request track-sc0 var(txn.client) table clients
    acl too_many sc0_gpc0_rate,sub(txn.rate) ge 0
    acl too_fast sc0_gpc1_rate,sub(txn.burst) ge 0
    http-request return status 429 if too_many or too_fast
    http-request sc-inc-gpc0(0)
    http-request sc-inc-gpc1(0)
    http-request return status 204
backend clients
    stick-table type string len 160 size {CLIENTS} expire 60s store gpc0_rate({WINDOW}s),gpc1_rate(1s)
"""


class Limiter:
    def __init__(self, spec: ServerSpec, containers: Containers, images: Images) -> None:
        self.spec = spec
        self.containers = containers
        self.images = images
        self.name = container_name(spec)
        """Of the container and its volume."""

    def prepare(self, log: Log) -> None:
        """It runs and listens. Raises what says why not."""
        self.images.ensure_base(settings.OCORE_LIMITER_IMAGE, log)
        wanted = self._container()
        found = self.containers.find(self.name)
        if found and found.labels.get(SPEC_LABEL) != wanted.labels[SPEC_LABEL]:
            self.containers.remove(self.name)
            found = None
        if found and found.running:
            return
        log(f"Starting the limiter {self.name}.\n")
        if not found:
            self.containers.create(wanted)
        self.containers.start(self.name)
        self._wait_until_ready()

    def _container(self) -> ContainerSpec:
        spec = ContainerSpec(
            name=self.name,
            image=settings.OCORE_LIMITER_IMAGE,
            entrypoint=(),
            command=("haproxy", "-db", "-f", CONFIG),
            user="0",  # as the edge, which has no right to another's socket either
            files=[File(CONFIG, CONFIGURATION.encode())],
            volumes={self.name: SOCKET_FOLDER},
            memory_bytes=MEMORY_BYTES,
            restart=True,
            stop_seconds=2,
            stop_signal="SIGUSR1",  # HAProxy has no handler for SIGTERM
        )
        made_from = [spec.image, spec.command, CONFIGURATION, spec.volumes, spec.stop_signal]
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
        return replace(spec, labels={NAMESPACE_LABEL: self.spec.namespace, SPEC_LABEL: digest})

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        detail = ""
        while time.monotonic() < deadline:
            try:
                if self.containers.exec(self.name, ["test", "-S", SOCKET], timeout=5).ok:
                    return
            except RunFailed as error:
                detail = error.detail or error.message
            waiting.pause(0.1)
        raise EdgeError(
            f"The limiter {self.name} does not get ready; requests are not limited meanwhile.",
            detail=f"{detail}\n{self.containers.logs(self.name, 20)}".strip(),
            advice=f"Look at “docker logs {self.name}” on the server.",
        )


def container_name(spec: ServerSpec) -> str:
    return f"{spec.namespace}-limiter"
