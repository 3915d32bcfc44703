"""The supervisor keeps the portal's programs alive, stops them within seconds, and there is one per state folder."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from ocore.machine import signs
from ocore.machine import supervisor as module
from ocore.machine.child import MOST_FAILURES, ProgramKeepsEnding
from ocore.machine.engine import Guard
from ocore.machine.processes import Process
from ocore.machine.programs import Program
from ocore.machine.progress import Progress
from ocore.machine.supervisor import AlreadyRunning, Supervisor, running, stop_running

QUIET = Progress(io.StringIO().write)


def python(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-c", code))


SLEEPER = python("sleeper", "import time; print('up', flush=True); time.sleep(60)")
HORSE = """
import os, time
if os.fork() == 0:
    os.setpgrp()
    print("horse", os.getpid(), flush=True)
time.sleep(60)
"""
ELSEWHERE = """
import sys
from pathlib import Path
from ocore.machine.programs import Program
from ocore.machine.progress import Progress
from ocore.machine.supervisor import Supervisor
program = Program("sleeper", (sys.executable, "-c", "import time; time.sleep(60)"))
try:
    with Supervisor(Progress(), [program], state_dir=Path(sys.argv[1]), patience=2) as supervisor:
        print("serving", flush=True)
        supervisor.wait()
except KeyboardInterrupt:
    pass  # the signal came before the wait
print("stopped", *supervisor.stopped, "by", supervisor.stopped_by, flush=True)
"""


def eventually(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert answer
    return answer


def log_of(tmp_path, name):
    path = tmp_path / "log" / f"{name}.log"
    return path.read_text() if path.exists() else ""


@pytest.fixture
def elsewhere(tmp_path):
    """A supervisor in another process, as another terminal's `make up`."""
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    eventually(lambda: process.stdout.readline() == "serving\n")
    yield process
    process.kill()
    process.communicate()
    stop_running(QUIET, state_dir=tmp_path)


def test_a_programs_output_goes_to_its_file_and_with_its_name_to_the_terminal(tmp_path):
    terminal = io.StringIO()
    with Supervisor(QUIET, [SLEEPER], state_dir=tmp_path, echo=terminal):
        eventually(lambda: "| up\n" in terminal.getvalue())
    assert "sleeper | up\n" in terminal.getvalue()
    assert "\nup\n" in log_of(tmp_path, "sleeper")


def test_a_program_that_was_killed_is_started_again(tmp_path):
    with Supervisor(QUIET, [SLEEPER], state_dir=tmp_path, first_pause=0.05):
        eventually(lambda: "up" in log_of(tmp_path, "sleeper"))
        _, first = module._read(tmp_path)
        os.kill(first.pid, signal.SIGKILL)
        eventually(lambda: log_of(tmp_path, "sleeper").count("\nup\n") == 2)
        _, second = module._read(tmp_path)
    assert "ended with signal 9" in log_of(tmp_path, "sleeper")
    assert second != first
    assert not second.alive


@pytest.fixture
def impatient(monkeypatch, settings):
    settings.OCORE_STANDSTILL_SECONDS = 0.2
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_program_that_was_stopped_and_stands_still_is_killed_and_started_again(tmp_path):
    said = io.StringIO()
    with Supervisor(Progress(said.write), [SLEEPER], state_dir=tmp_path, first_pause=0.05):
        eventually(lambda: "up" in log_of(tmp_path, "sleeper"))
        _, first = module._read(tmp_path)
        os.kill(first.pid, signal.SIGSTOP)
        eventually(lambda: log_of(tmp_path, "sleeper").count("\nup\n") == 2)
    assert "ended with signal 9" in log_of(tmp_path, "sleeper")
    assert f"sleeper stood still for a while and is killed (process {first.pid})" in said.getvalue()


@pytest.mark.usefixtures("impatient")
def test_a_work_horse_that_was_stopped_is_killed_and_its_worker_left(tmp_path):
    with Supervisor(QUIET, [python("worker", HORSE)], state_dir=tmp_path, patience=0.3):
        line = eventually(lambda: next((x for x in log_of(tmp_path, "worker").splitlines() if "horse" in x), ""))
        horse = Process.of(int(line.split()[1]))
        os.kill(horse.pid, signal.SIGSTOP)
        eventually(lambda: not horse.alive)
        assert module._read(tmp_path)[1].alive


@pytest.mark.usefixtures("impatient")
def test_a_clock_that_gives_no_sign_of_life_is_killed_and_started_again(tmp_path, monkeypatch):
    clock = python("clock", "import time; print('up', flush=True); time.sleep(60)")
    monkeypatch.setattr(signs, "missing", lambda: {signs.CLOCK})
    with Supervisor(QUIET, [clock], state_dir=tmp_path, first_pause=0.05):
        eventually(lambda: log_of(tmp_path, "clock").count("\nup\n") == 2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seconds", [0, 60])
def test_a_short_standstill_is_none_and_with_0_none_is(tmp_path, settings, seconds):
    settings.OCORE_STANDSTILL_SECONDS = seconds
    with Supervisor(QUIET, [SLEEPER], state_dir=tmp_path, patience=0.1):
        eventually(lambda: "up" in log_of(tmp_path, "sleeper"))
        _, first = module._read(tmp_path)
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(0.5)
        assert first.stopped
        assert first.alive


def test_a_program_that_keeps_ending_is_given_up_with_its_last_words(tmp_path):
    broken = python("broken", "import sys; sys.exit('no such table')")
    with (
        pytest.raises(ProgramKeepsEnding) as caught,
        Supervisor(QUIET, [SLEEPER, broken], state_dir=tmp_path, first_pause=0.001) as supervisor,
    ):
        supervisor.wait()
    assert (supervisor.stopped, supervisor.stopped_by) == (["sleeper", "broken"], "")
    assert f"broken ended {MOST_FAILURES} times in a row, at last with exit code 1" in caught.value.message
    assert "no such table" in caught.value.detail
    assert running(tmp_path) is None


def test_what_goes_on_meanwhile_is_interrupted_when_a_program_is_given_up(tmp_path):
    broken = python("broken", "raise SystemExit(3)")
    with pytest.raises(ProgramKeepsEnding), Supervisor(QUIET, [broken], state_dir=tmp_path, first_pause=0.001):
        time.sleep(20)


def test_a_program_that_does_not_exist_is_an_error_and_leaves_nothing_running(tmp_path):
    missing = Program("missing", (str(tmp_path / "nothing"),))
    with (
        pytest.raises(ProgramKeepsEnding, match="missing can't be started"),
        Supervisor(QUIET, [SLEEPER, missing], state_dir=tmp_path),
    ):
        pass
    assert running(tmp_path) is None
    eventually(lambda: "-- stopped" in log_of(tmp_path, "sleeper"))


def test_stopping_takes_along_a_work_horse_in_its_own_process_group(tmp_path):
    with Supervisor(QUIET, [python("worker", HORSE)], state_dir=tmp_path, patience=0.3):
        line = eventually(lambda: next((x for x in log_of(tmp_path, "worker").splitlines() if "horse" in x), ""))
        horse = Process.of(int(line.split()[1]))
        assert horse.alive
    assert not horse.alive


def test_the_work_horse_of_a_killed_worker_does_not_live_on_unseen(tmp_path):
    with Supervisor(QUIET, [python("worker", HORSE)], state_dir=tmp_path, patience=0.3, first_pause=5):
        line = eventually(lambda: next((x for x in log_of(tmp_path, "worker").splitlines() if "horse" in x), ""))
        horse = Process.of(int(line.split()[1]))
        os.kill(module._read(tmp_path)[1].pid, signal.SIGKILL)
        eventually(lambda: not horse.alive)


def test_what_does_not_stop_when_asked_is_killed_after_the_patience(tmp_path):
    stubborn = python(
        "stubborn", "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    with Supervisor(QUIET, [stubborn], state_dir=tmp_path, patience=0.3):
        eventually(lambda: "\nup\n" in log_of(tmp_path, "stubborn"))
        began = time.monotonic()
    assert time.monotonic() - began < 3


def test_redis_starts_first_and_stops_last(tmp_path, monkeypatch):
    monkeypatch.setattr(module.redis, "wait_for_redis", lambda timeout: None)
    order = tmp_path / "order"
    code = (
        "import pathlib, signal, sys, time\n"
        f"def note(what): pathlib.Path({str(order)!r}).open('a').write(what + '\\n')\n"
        "def stop(*_): note('stop NAME'); sys.exit()\n"
        "signal.signal(15, stop); note('start NAME'); time.sleep(60)"
    )
    programs = [python(name, code.replace("NAME", name)) for name in ("web2", "redis")]
    with Supervisor(QUIET, programs, state_dir=tmp_path) as supervisor:
        assert [child.program.name for child in supervisor._children] == ["redis", "web2"]
        eventually(lambda: order.exists() and order.read_text().count("start") == 2)
    assert order.read_text().splitlines()[2:] == ["stop web2", "stop redis"]


def test_a_second_supervisor_learns_that_one_runs(tmp_path, elsewhere):
    assert running(tmp_path).pid == elsewhere.pid
    with pytest.raises(AlreadyRunning, match=str(elsewhere.pid)), Supervisor(QUIET, [SLEEPER], state_dir=tmp_path):
        pass
    assert elsewhere.poll() is None


@pytest.mark.parametrize(
    ("number", "by"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_it_ends_on_request_within_seconds_and_takes_its_programs_along(tmp_path, elsewhere, number, by):
    _, child = module._read(tmp_path)
    elsewhere.send_signal(number)
    output, _ = elsewhere.communicate(timeout=5)
    assert output == f"stopped sleeper by {by}\n"
    assert elsewhere.returncode == 0
    assert not child.alive


def test_whether_one_lives_is_told_by_its_record_without_its_lock(tmp_path, elsewhere):
    assert module.lives(tmp_path)
    elsewhere.kill()
    elsewhere.wait()
    assert not module.lives(tmp_path)


def test_it_is_stopped_from_another_terminal(tmp_path, elsewhere):
    _, child = module._read(tmp_path)
    assert stop_running(QUIET, state_dir=tmp_path)
    assert elsewhere.wait(timeout=5) == 0
    assert not child.alive
    assert not stop_running(QUIET, state_dir=tmp_path)


def test_programs_that_a_killed_supervisor_left_are_ended_by_the_next_one(tmp_path, elsewhere):
    _, orphan = module._read(tmp_path)
    elsewhere.kill()
    elsewhere.wait()
    assert orphan.alive
    assert running(tmp_path) is None
    with Supervisor(QUIET, [SLEEPER], state_dir=tmp_path):
        assert not orphan.alive


def test_programs_that_a_killed_supervisor_left_are_ended_by_make_down(tmp_path, elsewhere):
    _, orphan = module._read(tmp_path)
    elsewhere.kill()
    elsewhere.wait()
    assert stop_running(QUIET, state_dir=tmp_path)
    assert not orphan.alive


def test_an_engine_that_ocore_started_and_that_dies_is_seen_to_while_the_portal_runs(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(module, "GUARD_SECONDS", 0.01)
    monkeypatch.setattr(Guard, "look", lambda self, progress: looks.append(self._folder))
    with Supervisor(QUIET, [SLEEPER], state_dir=tmp_path):
        eventually(lambda: len(looks) > 2)
    assert set(looks) == {tmp_path / "engine"}
