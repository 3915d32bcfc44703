"""What an edge is told of how clients come in, from the rows of a server and its environments."""

from pathlib import Path
from typing import Any

from django.conf import settings

from instances.runtimes.base import Entrance, Entry, Name
from projects.domains import Domain, is_public
from projects.edge_settings import SearchEngines
from projects.inheritance import resolve
from projects.models import Environment, Server


def entrance(server: Server) -> Entrance:
    roots = Path(settings.OCORE_ACME_ROOTS)
    return Entrance(
        https_port=server.https_port or 0,
        acme_directory=server.acme_directory,
        acme_email=server.acme_email,
        acme_roots=roots.read_text() if settings.OCORE_ACME_ROOTS and server.https_port else "",
        trusted_proxies=tuple(server.trusted_proxies),
    )


def entry_of(environment: Environment) -> Entry:
    def value(name: str) -> Any:
        return resolve(environment, name).value

    port = environment.server.https_port
    production = environment.kind == Environment.Kind.PRODUCTION
    engines = value("search_engines")
    return Entry(
        names=names(environment),
        https_at=f":{port}" if port and port != 443 else "",
        https_only=bool(port and value("https_only")),
        hsts_seconds=value("hsts_seconds"),
        allowed=tuple(value("allowed_addresses")),
        accounts=tuple(sorted(value("basic_auth").items())),
        hidden=not production if engines == SearchEngines.AUTO else engines == SearchEngines.HIDE,
        max_body=value("body_limit"),
    )


def names(environment: Environment) -> tuple[Name, ...]:
    """The generated one first, then the client's own."""
    server = environment.server
    domains = list(environment.domains.all())
    primary = next((one for one in domains if one.primary), None)
    there = server.origin(primary.name) if primary else ""
    away = there if resolve(environment, "redirect_generated_name").value else ""
    generated = Name(environment.hostname, away, own_authority=_by_own_authority(server, environment.hostname))
    return (generated, *(_name(server, one, "" if one.primary else there) for one in domains))


def _name(server: Server, domain: Domain, leads_to: str) -> Name:
    if domain.is_uploaded:
        return Name(domain.name, leads_to, chain=domain.chain, key=domain.private_key)
    own = domain.source == Domain.Source.OWN or _by_own_authority(server, domain.name)
    return Name(domain.name, leads_to, own_authority=own)


def _by_own_authority(server: Server, host: str) -> bool:
    return not server.acme_directory or not is_public(host)
