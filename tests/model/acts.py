"""What may be drawn: acts as plain data, so that a failing order of them can be read and kept."""

from typing import Any

from hypothesis import strategies as st

from tests.model.repository import GOOD, NO_BUILD, NO_UPDATE, SICK, WORDS
from tests.model.world import ERRORS

SETTINGS: dict[str, list[Any]] = {
    "auto_deploy": [True, False, None],
    "branch": ["main", "staging"],
    "workers": [0, 2, None],
    "update_policy": ["changed", "all", "none", None],
    "strategy": ["recreate", None],
    "environment_variables": [{"GREETING": "hello"}, None],
    "secret_variables": [{"API_KEY": "hunter2-hunter2"}, None],
}
PLACES = st.sampled_from([0, 0, 0, 1])
"""Of the environments; the first is what most happens to."""
KINDS = st.sampled_from([GOOD, GOOD, GOOD, WORDS, NO_BUILD, NO_UPDATE, SICK])
POINTS = st.integers(1, 200)
ACTS = st.one_of(
    st.tuples(st.just("push"), st.sampled_from(["main", "main", "staging"]), KINDS),
    st.tuples(st.just("redeliver"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("deploy"), PLACES, st.booleans()),
    st.tuples(st.just("cancel"), PLACES),
    st.tuples(st.just("roll_back"), PLACES, st.booleans()),
    st.tuples(st.just("set"), PLACES, st.sampled_from(sorted(SETTINGS)), st.integers(0, 3)),
    st.tuples(st.just("control"), PLACES, st.sampled_from(["start", "stop", "restart"])),
    st.tuples(st.just("retry"), PLACES),
    st.tuples(st.just("write"), PLACES),
    st.tuples(st.just("write"), PLACES),
    st.tuples(st.just("scheduled_action"), PLACES),
    st.tuples(st.just("outage"), st.sampled_from(sorted(ERRORS)), st.integers(1, 4)),
    st.tuples(st.just("redis_away"), st.integers(1, 3)),
    st.tuples(st.just("redis_lost")),
    st.tuples(st.just("wait"), st.sampled_from([1, 45, 400])),
)
WORKERS = st.one_of(
    st.tuples(st.just("clock")),
    st.tuples(st.just("work"), st.integers(0, 5), st.booleans()),
)
INTERRUPTIONS = st.dictionaries(
    POINTS,
    st.one_of(
        st.tuples(st.just("die")),
        st.tuples(st.just("hold_up")),
        ACTS,
        WORKERS,
    ),
    max_size=3,
)
