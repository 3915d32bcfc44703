"""What the benches hand over: their JSON is read by programs, and their baseline must be a script that runs."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.bench import guard, report, restore, sized
from tests.bench.__main__ import BENCHES, arguments
from tests.bench.door import failures, longest_wait
from tests.bench.report import Figure
from tests.real.writer import Attempt

LIVE = Figure("push to live", "s", (8.0, 9.5, 8.5), "make bench", (8.0, 7.0, 9.0), aim="+1 s")
ALONE = Figure("answer", "ms", (10.0, 20.0), "make bench")


def test_the_file_is_a_list_of_objects_with_what_was_agreed(tmp_path: Path) -> None:
    report.write([LIVE, ALONE], tmp_path / "bench" / "push.json")

    written = json.loads((tmp_path / "bench" / "push.json").read_text())
    agreed = {"name", "value", "unit", "baseline", "ratio", "command"}
    assert [set(entry) for entry in written] == [agreed | {"samples", "baseline_samples"}] * 2
    assert {key: written[0][key] for key in agreed} == {
        "name": "push to live",
        "value": 8.5,
        "unit": "s",
        "baseline": 8.0,
        "ratio": 1.0625,
        "command": "make bench",
    }
    assert written[0]["samples"] == [8.0, 9.5, 8.5]
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["push.json"]


def test_without_a_baseline_there_is_no_ratio() -> None:
    assert ALONE.as_data()["baseline"] is None
    assert ALONE.as_data()["ratio"] is None
    assert Figure("failed requests", "requests", (0,), "make bench", (0,)).ratio is None


def test_the_table_shows_medians_extremes_ratio_and_difference() -> None:
    head, line, first, second = report.table([LIVE, ALONE]).splitlines()

    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["push to live", "8.50 s (8.00 to 9.50)", "8.00 s (7.00 to 9.00)", "1.06", "+0.50 s", "+1 s"]
    assert [cell.strip() for cell in second.strip("|").split("|")][2:5] == ["", "", ""]
    assert len({len(row) for row in (head, line, first, second)}) == 1


def test_a_percentile_is_a_sample_that_was_seen() -> None:
    samples = tuple(float(number) for number in range(1, 201))
    assert Figure("answer", "ms", samples, "make bench", quantile=0.99).value == 198.0
    assert report.quantile((5.0,), 0.99) == 5.0


@pytest.mark.parametrize(
    ("attempts", "seconds"),
    [
        ([Attempt("a", 0.0, 0.1, 201), Attempt("b", 1.0, 4.0, 201), Attempt("c", 1.5, 3.6, 201)], 4.0),
        ([Attempt("a", 0.0, 0.1, 201), Attempt("b", 1.0, 0.0, 0), Attempt("c", 2.0, 0.0, 0)], 0.1),
        ([Attempt("b", 1.0, 0.0, 0), Attempt("c", 2.0, 0.5, 503), Attempt("d", 3.0, 0.5, 201)], 2.5),
    ],
    ids=["held", "never again", "failed, then served"],
)
def test_a_clients_wait_ends_with_the_next_success(attempts: list[Attempt], seconds: float) -> None:
    assert longest_wait(list(reversed(attempts))) == pytest.approx(seconds)


def test_every_answer_but_a_stored_note_is_a_failure() -> None:
    assert failures([Attempt("a", 0, 0, 201), Attempt("b", 0, 0, 0), Attempt("c", 0, 0, 503)]) == 2


def test_going_back_is_told_at_each_size_and_how_it_grows() -> None:
    seconds = {
        ("snapshot", 35): [1.0], ("snapshot, by hand", 35): [2.0],
        ("snapshot", 1000): [5.0], ("snapshot, by hand", 1000): [20.0],
        ("rollback", 35): [0.5, 1.5, 1.0], ("rollback, by hand", 35): [2.0],
        ("rollback", 1000): [1.2], ("rollback, by hand", 1000): [30.0],
    }  # fmt: skip
    told = {figure.name: figure for figure in restore.figures(seconds)}

    assert told["rollback, 35 MB"].value == 1.0
    assert told["rollback, 1 GB"].ratio == pytest.approx(0.04)
    assert told["rollback, 1 GB"].aim == "ratio 0.05"
    growth = told["rollback, 1 GB beside 35 MB"]
    assert (growth.unit, growth.value, growth.baseline) == ("times", pytest.approx(1.2), pytest.approx(15.0))
    assert told["snapshot, 1 GB beside 35 MB"].value == pytest.approx(5.0)


def test_one_size_alone_grows_beside_nothing() -> None:
    seconds = {(what, 35): [1.0] for what in ("snapshot", "snapshot, by hand", "rollback", "rollback, by hand")}
    assert [figure.name for figure in restore.figures(seconds)] == ["snapshot, 35 MB", "rollback, 35 MB"]
    assert restore.figures({}) == []


def test_the_table_says_which_size_has_no_room() -> None:
    row = report.table([restore.no_room(5000, free=12_000_000_000, needed=21_000_000_000)]).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "5 GB left out: free disk, and what it needs", "12 GB", "", "", "", "21 GB",
    ]  # fmt: skip


def test_what_takes_minutes_by_hand_is_measured_once() -> None:
    assert [restore.rounds_at(size, 5) for size in (35, 1000, 5000)] == [3, 3, 1]
    assert restore.rounds_at(35, 1) == 1


@pytest.mark.parametrize("missing", [-5, 0, 100, 50 * 10**6, 5 * 10**9])
def test_tables_together_have_the_bytes_that_are_missing(missing: int) -> None:
    rows = sized.tables(missing)
    assert sum(rows) * sized.BYTES_PER_ROW == pytest.approx(max(0, missing), abs=len(rows) * sized.BYTES_PER_ROW + 200)
    assert all(0 < each <= sized.ROWS_PER_TABLE for each in rows)


def test_the_guards_share_is_of_the_same_deployment() -> None:
    whole, share = guard.shares([0.02, 0.09], [8.0, 9.0])
    assert (whole.unit, whole.samples) == ("ms", (20.0, 90.0))
    assert (share.unit, share.samples) == ("%", pytest.approx((0.25, 1.0)))
    assert [guard.beats(seconds) for seconds in (4.9, 8.0, 10.1)] == [0, 1, 2]


def test_a_guard_within_a_guard_is_counted_once() -> None:
    clock = guard.Stopwatch()
    inner = clock(lambda: "held")
    outer = clock(lambda: [inner(), inner()])

    assert outer() == ["held", "held"]
    assert len(clock.samples) == 1
    inner()
    assert len(clock.samples) == 2


@pytest.mark.parametrize("wrong", [["--sizes", "0"], ["--sizes", "35,big"], ["--rounds", "0"], ["swim"]])
def test_what_cannot_be_measured_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(wrong)
    assert "usage" in capsys.readouterr().err


def test_sizes_are_measured_from_the_least_on() -> None:
    assert arguments(["restore", "--sizes", "1000,35"]).sizes == (35, 1000)
    assert arguments([]).sizes == (35, 1000, 5000)


def test_every_bench_is_described() -> None:
    text = (Path(report.__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert [name for name in BENCHES if f"| `{name}` |" not in text] == []


def test_the_baseline_is_a_script_that_the_shell_can_read() -> None:
    script = Path(report.__file__).with_name("by_hand.sh")
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
