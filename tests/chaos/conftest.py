"""The fixtures that the tests against real things share."""

from tests.real.conftest import module_db

__all__ = ["module_db"]
