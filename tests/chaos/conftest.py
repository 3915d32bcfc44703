"""The fixtures that the tests against real things share."""

from collections.abc import Iterator

import pytest

from tests.chaos.engine import Engine, guarded
from tests.real.conftest import module_db

__all__ = ["module_db"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine | None]:
    with guarded() as found:
        yield found
