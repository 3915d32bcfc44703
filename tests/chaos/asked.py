"""What `make chaos` was asked for."""

import os
import sys

SEED = int(os.environ.get("OCORE_CHAOS_SEED") or 1)
_N = os.environ.get("OCORE_CHAOS_N", "")
EVERYTHING = _N == "all"
COUNT = sys.maxsize if EVERYTHING else int(_N or 0)
"""Runs of each kind; 0: what fits into `make test`; "all": every crash point once."""
SCENARIOS = os.environ.get("OCORE_CHAOS_SCENARIOS", "").split()
"""Only these."""
ONLY = list(filter(None, os.environ.get("OCORE_CHAOS_ONLY", "").split(";")))
"""Lines that failures told: exactly these."""
MINUTES = float(os.environ.get("OCORE_CHAOS_MINUTES") or 0)
"""After so many no other crash point is begun; the next time with the same seed goes on there."""
LANE = int(os.environ.get("OCORE_CHAOS_LANE") or 1)
"""Each of several such processes at a time needs another, for a world of its own."""
