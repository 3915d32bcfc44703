"""What is asked of the server while the image is being built, so that no client waits for the answer later.

Whoever needs an answer that is missing asks himself: nothing here may fail a deployment.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from instances.odoo.plan import Basis
from instances.runtimes.base import Route
from ocore import waiting
from ocore.errors import ExpectedError

logger = logging.getLogger(__name__)
T = TypeVar("T")


FRESH_SECONDS = 5.0
"""After a longer build everything is asked again: it costs a fraction of a second then."""


@dataclass(frozen=True)
class Ahead:
    asked_at: float = float("-inf")
    """On the monotonic clock."""
    basis: Basis | None = None
    """What the plan is made from."""
    snapshot_bytes: int | None = None
    """What the safety copy and what comes after it take of the server's disk."""
    routes: list[Route] | None = None
    """What the edge serves, as it should."""

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self.asked_at < FRESH_SECONDS


def look(
    basis: Callable[[], Basis], snapshot_bytes: Callable[[], int], routes: Callable[[], list[Route] | None]
) -> Ahead:
    return Ahead(
        time.monotonic(),
        *waiting.together(*[partial(_unless_it_fails, ask) for ask in (basis, snapshot_bytes, routes)]),
    )


def _unless_it_fails(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ExpectedError as error:
        logger.info("Asked again later: %s", error.message)
        return None
