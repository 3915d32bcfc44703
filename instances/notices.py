"""What a server's edge should say of maintenance and testers, from the rows; and that it says so.

The rows are the truth, the edge is told afterwards. Whoever dies in between leaves nothing wrong for long: the clock
compares what each edge was told with the rows, and every minute what each edge really has.
"""

import logging
from collections.abc import Iterable

from django.utils import timezone

from instances import edge_files, testers
from instances.models import EdgeNotices, Maintenance, TesterLink
from instances.runtimes.base import Notice, Pass, Runtime
from projects.models import Server, Split

logger = logging.getLogger(__name__)
FIRST_KEY = "environment__second_of__key"
ROUNDS = 5
"""So often in a row the rows may change while the edge is being told; after that it is the clock's."""


def wanted(server: Server) -> tuple[list[Notice], list[Pass], list[str]]:
    """Of all environments there. Three queries."""
    now = timezone.now()
    set_now = Maintenance.objects.filter(environment__server=server, ended_at=None).select_related("environment")
    links = TesterLink.objects.filter(environment__server=server, revoked_at=None, expires_at__gt=now)
    return (
        [Notice(one.environment.key, one.text, one.until) for one in set_now if not one.until or one.until > now],
        [Pass(one.environment.key, testers.token(one), one.expires_at) for one in links.select_related("environment")],
        sorted(Split.objects.filter(environment__server=server, share=100).values_list(FIRST_KEY, flat=True)),
    )


def ensure(server: Server, runtime: Runtime) -> None:
    """The edge has the notices and passes that the rows want, all of the server's. Idempotent. Raises `EdgeError`.

    A process that stood still meanwhile may have told what is old by now: so each looks again when it is done."""
    for _ in range(ROUNDS):
        found = wanted(server)
        digest = edge_files.pack(*found).digest
        runtime.edge.tell(*found)
        EdgeNotices.objects.update_or_create(server=server, defaults={"digest": digest})
        if edge_files.pack(*wanted(server)).digest == digest:
            return


def outdated(servers: Iterable[Server]) -> list[Server]:
    """Those whose edge was told something else than the rows say now. No server is asked."""
    told = dict(EdgeNotices.objects.values_list("server", "digest"))
    nothing = edge_files.pack([], []).digest
    return [one for one in servers if told.get(one.pk, nothing) != edge_files.pack(*wanted(one)).digest]
