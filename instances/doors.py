"""Doors and reloads of a server's edge exclude each other; and what the edge should be, the rows say.

A reload of the edge's configuration fails every request that is being held, so none happens while a door on that server
is closed, and no door closes during one. Rows say who holds what; the edge itself is told afterwards.
"""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Prefetch
from django.utils import timezone

from instances.entries import entry_of
from instances.models import Door, Instance
from instances.odoo.config import max_requests
from instances.runtimes.base import Colour, EdgeError, Limits, Route, Runtime, Second, Upstream
from ocore import waiting
from ocore.machine.processes import is_dead, own_name
from projects.inheritance import resolve
from projects.models import Environment, Server

RELOAD_SECONDS = 60
"""After so long a reload whose process died no longer counts."""
POLL_SECONDS = 0.1


def upstream(instance: Instance) -> Upstream:
    return Upstream(
        alias=instance.alias,
        max_requests=max_requests(resolve(instance, "workers").value, resolve(instance, "odoo_conf").value),
    )


def upstreams(environment: Environment) -> tuple[Upstream, ...]:
    """Of every instance that is, or is being, deployed."""
    there = (one for one in environment.instances.all() if one.state != Instance.State.NEW and not one.leaving)
    return tuple(map(upstream, there))


def wanted(environment: Environment) -> dict[Colour, list[Upstream]]:
    """Where the doors of an environment that is open should lead. One that somebody stopped is left out where others
    serve: else its clients would wait for it."""
    deployed = [one for one in environment.instances.all() if one.container and not one.leaving]
    serving = [one for one in deployed if one.state != Instance.State.STOPPED] or deployed
    found: dict[Colour, list[Upstream]] = {}
    for instance in serving:
        found.setdefault(Colour(instance.colour), []).append(upstream(instance))
    return found


def route(environment: Environment) -> Route:
    entry = entry_of(environment)
    return Route(
        key=environment.key,
        hosts=tuple(name.host for name in entry.names),
        upstreams=upstreams(environment),
        title=environment.project.name,
        entry=entry,
        limits=_limits(environment),
        second=_second(environment),
    )


def _second(environment: Environment) -> Second | None:
    """Where a share of its clients is led, once it serves."""
    beside = environment.beside
    split = getattr(beside, "split", None)
    if beside is None or split is None or not upstreams(beside):
        return None
    by_chance = split.share if split.share < 100 else 0
    return Second(upstreams(beside), by_chance, split.mark, own_data=not beside.shares_data)


def _limits(environment: Environment) -> Limits:
    rate, burst = (resolve(environment, name).value for name in ("requests_per_second", "request_burst"))
    return Limits(requests_per_second=rate, request_burst=burst)


def routes(server: Server) -> list[Route]:
    """Of every environment on the server that is, or is being, deployed."""
    deployed = Instance.objects.filter(environment=OuterRef("pk")).exclude(state=Instance.State.NEW)
    environments = (
        Environment.objects.filter(server=server)
        .filter(Exists(deployed))
        .select_related("project", "server")
        # Few have a second version: joined, its 200 columns would be asked for, and be empty, for all.
        .prefetch_related(
            "instances",
            "domains",
            Prefetch("second_of", Environment.objects.select_related("project")),
            Prefetch("second", Environment.objects.select_related("split")),
            "second__instances",
        )
        .order_by("pk")
    )
    return [route(environment) for environment in environments]


def served(server: Server, runtime: Runtime) -> list[Route] | None:
    """The server's routes, where its edge has them already."""
    wanted = routes(server)
    return wanted if runtime.edge.serves(wanted) else None


def ensure_routes(
    server: Server,
    runtime: Runtime,
    log: Callable[[str], None],
    *,
    seen: list[Route] | None = None,
    seconds: float = 300,
) -> None:
    """The edge knows every environment of the server. Waits while a door is closed. `seen`: what it was just `served`.
    Raises `EdgeError`."""
    if (seen is not None and routes(server) == seen) or served(server, runtime) is not None:
        return
    deadline = time.monotonic() + seconds
    told = False
    while not _begin_reload(server):
        if not told:
            log("Waiting for another deployment on this server: its requests are being held, so the edge keeps still.")
            told = True
        if time.monotonic() > deadline:
            raise EdgeError(
                f"The edge of {server} could not be given the new route: doors stayed closed for {seconds:.0f} s.",
                advice="Look at the deployments that are underway on this server, then deploy again.",
            )
        waiting.pause(POLL_SECONDS)
    try:
        with waiting.undisturbed():  # a reload goes on in the edge, and no door may close meanwhile
            if runtime.edge.apply(routes(server), log):
                _lead_the_lost(server, runtime)
    finally:
        Server.objects.filter(pk=server.pk).update(reloading_until=None, reloading_by="")


def _lead_the_lost(server: Server, runtime: Runtime) -> None:
    """An edge that knows its routes anew may have lost all doors, or never had these: who serves gets its clients. Only
    where none is open and nobody holds them: one of several may be closed for a moment by who replaces it."""
    found = runtime.edge.doors()
    rows = Environment.objects.filter(server=server, door=None, removing_since=None)
    for environment in rows.select_related("project").prefetch_related("instances"):
        leads = wanted(environment)
        if leads and not any(one.alias in found for one in environment.instances.all()):
            for colour, those in leads.items():
                runtime.edge.open(those, colour)


def heal() -> None:
    """Nobody waits for a reload whose process died."""
    for server in Server.objects.exclude(reloading_until=None):
        until = server.reloading_until
        if is_dead(server.reloading_by) or (until and until < timezone.now()):
            rows = Server.objects.filter(pk=server.pk, reloading_until=until)
            rows.update(reloading_until=None, reloading_by="")


def _begin_reload(server: Server) -> bool:
    now = timezone.now()
    with transaction.atomic():
        row = Server.objects.select_for_update().get(pk=server.pk)
        if Door.objects.filter(server=row, at_work=True).exists() or (
            row.reloading_until and row.reloading_until > now
        ):
            return False
        row.reloading_until, row.reloading_by = now + timedelta(seconds=RELOAD_SECONDS), own_name()
        row.save(update_fields=["reloading_until", "reloading_by"])
    return True


def close(environment: Environment, runtime: Runtime, holder: str) -> int:
    """New requests wait from now on, and those in flight get OCORE_DRAIN_SECONDS; how many are left of these.

    Idempotent for the same environment.
    """
    deadline = time.monotonic() + RELOAD_SECONDS + 5
    while not _begin_closing(environment, holder):
        if time.monotonic() > deadline:
            raise EdgeError(f"The edge of {environment.server} did not finish a reload within {RELOAD_SECONDS} s.")
        waiting.pause(POLL_SECONDS)
    return runtime.edge.close_and_drain(upstreams(environment), settings.OCORE_DRAIN_SECONDS)


def _begin_closing(environment: Environment, holder: str) -> bool:
    now = timezone.now()
    with transaction.atomic():
        server = Server.objects.select_for_update().get(pk=environment.server_id)
        if server.reloading_until and server.reloading_until > now:
            return False
        row = {"server": server, "holder": holder, "at_work": True}
        Door.objects.update_or_create(environment=environment, defaults=row, create_defaults=row | {"closed_at": now})
    return True


def drain(environment: Environment, runtime: Runtime) -> int:
    """Behind an open door: wait for a moment without a request in flight; those that are left when patience ends."""
    deadline = time.monotonic() + settings.OCORE_DRAIN_SECONDS
    while left := runtime.edge.in_flight(upstreams(environment)):
        if time.monotonic() > deadline:
            return left
        waiting.pause(POLL_SECONDS)
    return 0


def open(environment: Environment, runtime: Runtime, holder: str) -> None:
    """Let the clients in, to what the rows say serves; unless somebody else holds the door closed."""
    if Door.objects.filter(environment=environment).exclude(holder=holder).exists():
        return
    lead(environment, runtime)
    Door.objects.filter(environment=environment, holder=holder).delete()


def lead(environment: Environment, runtime: Runtime) -> None:
    """Every door leads to what serves, as the rows say now; the others are closed."""
    environment = Environment.objects.select_related("project").prefetch_related("instances").get(pk=environment.pk)
    leads = wanted(environment)
    for colour, found in leads.items():
        runtime.edge.open(found, colour)
    led = {one.alias for found in leads.values() for one in found}
    if closed := [upstream(one) for one in environment.instances.all() if one.alias not in led]:
        runtime.edge.close(closed)


def astray(environments: Iterable[Environment], runtime: Runtime) -> list[Environment]:
    """Those whose doors, which nobody holds closed, lead elsewhere than the rows say, are closed, or open to nobody."""
    found = runtime.edge.doors()
    astray = []
    for environment in environments:
        right = {each.alias: colour for colour, those in wanted(environment).items() for each in those}
        if any(found.get(one.alias) != right.get(one.alias) for one in environment.instances.all()):
            astray.append(environment)
    return astray
