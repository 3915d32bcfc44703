"""The drivers, by a server's kind."""

from collections.abc import Callable

from django.conf import settings

from instances.entries import entrance
from instances.runtimes.base import Runtime, ServerSpec
from projects.models import Server


def _docker(spec: ServerSpec) -> Runtime:
    from instances.runtimes.docker import DockerRuntime

    return DockerRuntime(spec)


def _simulated(spec: ServerSpec) -> Runtime:
    from instances.runtimes.simulated import SimulatedRuntime

    return SimulatedRuntime(spec)


DRIVERS: dict[str, Callable[[ServerSpec], Runtime]] = {
    Server.Kind.DOCKER: _docker,
    Server.Kind.SIMULATED: _simulated,
}


def runtime_for(server: Server) -> Runtime:
    return DRIVERS[server.kind](
        ServerSpec(
            name=server.slug,
            endpoint=server.endpoint,
            namespace=settings.OCORE_NAMESPACE,
            edge_bind=settings.OCORE_EDGE_BIND,
            edge_port=server.edge_port,
            edge_host=server.edge_host,
            entrance=entrance(server),
            postgres_dsn=server.postgres_dsn,
        )
    )
