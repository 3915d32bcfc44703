"""The runtime on a real Docker engine."""

import os
from collections.abc import Mapping
from pathlib import Path

from django.conf import settings

from instances.database import PostgresCluster
from instances.edge import CaddyEdge
from instances.filestore import VolumeFilestores
from instances.limiter import Limiter
from instances.runtimes.base import (
    HOLDER_LABEL,
    Containers,
    ContainerSpec,
    Databases,
    Edge,
    Filestores,
    Images,
    Log,
    RunFailed,
    ServerFacts,
    ServerSpec,
    ServerUnreachable,
)
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.images import DockerImages
from instances.runtimes.docker.inventory import Inventory, everything_of, remove_everything
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.machine import processes

__all__ = ["DockerRuntime", "Engine", "Inventory", "everything_of", "remove_everything"]


class DockerRuntime:
    simulated = False

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.network = spec.namespace
        self.engine = Engine(spec)
        self._images = DockerImages(spec, self.engine)
        self._containers = DockerContainers(spec, self.engine)
        self._databases = PostgresCluster(spec, self._containers, self._images, self.network)
        self._edge = CaddyEdge(spec, self._containers, self._images)
        self.images: Images = self._images
        self.containers: Containers = self._containers
        self.databases: Databases = self._databases
        self.filestores: Filestores = VolumeFilestores(spec, self._containers)
        self.edge: Edge = self._edge
        self._limiter = Limiter(spec, self._containers, self._images)
        self.parts: Mapping[str, str] = {
            self._databases.container: "postgres",
            self._edge.name: "edge",
            self._limiter.name: "limiter",
        }

    def facts(self) -> ServerFacts:
        with self.engine.translated("tell about itself"):
            info = self.engine.api.info()
        return ServerFacts(
            engine=f"Docker {info['ServerVersion']}",
            cpus=int(info["NCPU"]),
            memory_bytes=int(info["MemTotal"]),
            disk_free_bytes=self._free_bytes(Path(info["DockerRootDir"])),
            memory_free_bytes=self.memory_free(),
        )

    def memory_free(self) -> int | None:
        return processes.available_memory() if self.engine.local else None

    def _free_bytes(self, root: Path) -> int:
        if self.engine.local and root.is_dir():
            free = os.statvfs(root)
            return free.f_bavail * free.f_frsize
        # The engine's disk is not in sight from here: a container's own file system lies on it.
        image = self.images.ensure_base(settings.OCORE_EDGE_IMAGE, lambda _: None)
        spec = ContainerSpec(
            name=f"{self.spec.namespace}-df-{os.getpid()}",
            image=image.reference,
            entrypoint=(),
            command=("df", "-Pk", "/"),
            labels={HOLDER_LABEL: processes.own_name()},
            memory_bytes=64 * 1024**2,
        )
        exit_ = self.containers.run(spec, lambda _: None, timeout=60, silence=60)
        fields = exit_.output.splitlines()[-1].split() if exit_.ok and exit_.output.strip() else []
        if len(fields) < 4 or not fields[3].isdigit():
            raise RunFailed(f"The free space of {self.spec.name} could not be read.", detail=exit_.output)
        return int(fields[3]) * 1024

    def prepare(self, log: Log) -> None:
        for network in (self.network, self._containers.edge_network):
            self._containers.ensure_network(network)
        waiting.together(
            lambda: self._edge.prepare(log), lambda: self._databases.prepare(log), lambda: self._prepare_limiter(log)
        )

    def _prepare_limiter(self, log: Log) -> None:
        """Nothing waits for it, and nothing fails without it: the keeper tells, and tries again."""
        try:
            self._limiter.prepare(log)
        except ServerUnreachable:
            raise
        except ExpectedError as error:
            log(f"Requests are not limited here for now: {error.message} {error.detail}\n")
