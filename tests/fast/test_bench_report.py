"""What the benches hand over: their JSON is read by programs, and their baseline must be a script that runs."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.bench import report
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


def test_the_baseline_is_a_script_that_the_shell_can_read() -> None:
    script = Path(report.__file__).with_name("by_hand.sh")
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
