"""What the benches hand over: their JSON is read by programs, and their baseline must be a script that runs."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bench import clients, guard, intake, report, restore, sides, sized, traffic
from tests.bench.__main__ import BENCHES, arguments
from tests.bench.clients import Aim, Request
from tests.bench.door import failures, longest_wait
from tests.bench.intake_world import BRANCHES, REACHES
from tests.bench.report import Figure
from tests.git_remote import GitRemote
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


@pytest.mark.parametrize("name", ["by_hand.sh", "choreography.sh"])
def test_the_baseline_is_a_script_that_the_shell_can_read(name: str) -> None:
    script = Path(report.__file__).with_name(name)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0


AIM = Aim(18410, "acme.localhost", "a-session", "code-1", 50)


def asked(number: int, *, ok: bool = True, started: float = 0.0, seconds: float = 0.1) -> Request:
    one = clients.question(AIM, number)
    return Request(one.kind, one.title, started, seconds, ok, "201" if ok else "503")


def test_half_of_the_clients_write_and_each_write_can_be_told_from_all_others() -> None:
    many = [clients.question(AIM, number) for number in range(100)]
    titles = [one.title for one in many if one.title]
    assert (len(titles), len(set(titles))) == (50, 50)
    assert [one.kind for one in many[:4]] == ["write", "page", "write", "json"]
    assert b"Cookie: session_id=a-session" in many[3].content
    assert b"Cookie" not in many[1].content


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\noe_login_form", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\noe_login_form", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\noe_login_form", False),
        (b"", False),
    ],
    ids=["whole", "cut off", "another page", "refused", "nothing"],
)
def test_only_a_whole_answer_to_what_was_asked_is_a_success(answer: bytes, ok: bool) -> None:
    assert clients.judge(clients.question(AIM, 1), answer)[0] is ok


def test_the_longest_wait_of_many_clients_ends_with_the_next_success() -> None:
    held = [asked(0, seconds=4.0), asked(1, started=1.0, seconds=0.5)]
    refused = [asked(0, ok=False), asked(1, ok=False, started=1.0), asked(2, started=2.0, seconds=0.5)]
    assert clients.longest_wait(held) == 4.0
    assert clients.longest_wait(refused) == 2.5


def test_a_lost_write_a_doubled_one_and_no_write_at_all_end_the_bench() -> None:
    requests = [asked(0), asked(1), asked(2), asked(4, ok=False)]
    measured = traffic.compare("oCore", requests, ["code-1-0", "code-1-2", "code-1-4"])
    assert (measured.accepted, measured.found, measured.unanswered, measured.failed) == (2, 2, 1, 1)
    for found in (["code-1-0"], ["code-1-0", "code-1-2", "code-1-2"]):
        with pytest.raises(traffic.WritesLost):
            traffic.compare("oCore", requests, found)
    with pytest.raises(traffic.WritesLost):
        traffic.compare("oCore", [asked(1)], [])


def test_every_case_is_told_beside_both_ways_by_hand() -> None:
    one = [traffic.compare("oCore", [asked(0, seconds=2.0)], ["code-1-0"])]
    two = [traffic.compare("choreography", [asked(0, seconds=4.0)], ["code-1-0"])]
    told = {figure.name: figure for figure in traffic.figures("code", one, two, two)}
    assert told["push of code alone: failed requests"].aim == "0"
    assert told["push of code alone: longest wait, beside the choreography"].ratio == 0.5
    assert told["push of code alone: of these lost"].value == 0


def test_a_push_mends_what_an_earlier_one_has_broken_and_code_alone_keeps_the_version(tmp_path: Path) -> None:
    remote = GitRemote(tmp_path / "notes.git")
    remote.commit("Notes", {sides.MANIFEST: "{'version': '19.0.1.7.0'}"})
    pushes = sides.Pushes(remote)
    assert pushes.broken()[sides.MANIFEST] != pushes.code()[sides.MANIFEST] == "{'version': '19.0.1.7.0'}"
    assert "nothing" in pushes.broken()[sides.VIEWS]
    updated, code = pushes.update(), pushes.code()
    assert '"nothing"' not in updated[sides.VIEWS]
    assert code[sides.MANIFEST] == updated[sides.MANIFEST] != "{'version': '19.0.1.7.0'}"
    assert code[sides.CONTROLLER] != updated[sides.CONTROLLER]


def _left(sent: list[intake.Push]) -> dict[str, Any]:
    """What a portal has after the burst that took it in rightly."""
    once = set(sent)
    return {
        "deliveries": {"accepted": 1, "duplicate": len(sent) - len(once)},
        "ids": [one.identifier for one in once] + ["kept0-1"],
        "deployments": [[REACHES[one.branch], one.commit, one.identifier] for one in once if one.branch in REACHES],
        "queued": dict.fromkeys(BRANCHES, 1),
    }


def test_a_burst_is_judged_by_what_is_left_of_it() -> None:
    sent = intake.burst()
    assert (len(sent), len(set(sent))) == (10_000, 9_500)
    intake.judge(sent, _left(sent))
    for spoil in (
        lambda left: left["ids"].pop(0),
        lambda left: left["ids"].append(left["ids"][0]),
        lambda left: left["deliveries"].update(duplicate=499),
        lambda left: left["deployments"].pop(),
        lambda left: left["deployments"].append(left["deployments"][0]),
        lambda left: left["deployments"][0].__setitem__(
            0, "staging" if left["deployments"][0][0] != "staging" else "x"
        ),
        lambda left: left["queued"].update(production=2),
    ):
        left = _left(sent)
        spoil(left)
        with pytest.raises(intake.IntakeWrong):
            intake.judge(sent, left)
