"""Servers whose databases lie in one PostgreSQL: what one of them doesn't know there may be another's."""

import psycopg
from psycopg.conninfo import conninfo_to_dict

from projects.models import Server


def sharing(server: Server) -> list[Server]:
    """All that have their databases where this one has; itself among them."""
    if not server.postgres_dsn:
        return [server]
    place = _place(server.postgres_dsn)
    return [one for one in Server.objects.exclude(pk=server.pk) if _place(one.postgres_dsn) == place] + [server]


def _place(dsn: str) -> tuple[str, ...]:
    """Host and port, whatever the role; what cannot be read stands for itself."""
    try:
        said = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return (dsn,)
    return tuple(str(said.get(name) or default) for name, default in (("host", ""), ("port", "5432")))
