"""A program that is loaded waits at its gate until its turn has come, and is then itself."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from instances.odoo import commands

PYTHON = f"#!{sys.executable}\nimport sys\nprint(sys.argv, sys.path[0], __name__, flush=True)\nsys.exit(7)\n"
SHELL = '#!/bin/sh\necho "$0 $*"\nexit 7\n'


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "begin"


@pytest.fixture
def started(tmp_path: Path, gate: Path) -> Iterator[list[subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for one in made:
        one.kill()
        one.wait()


def start(tmp_path: Path, gate: Path, program: str, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    path = tmp_path / "odoo"
    path.write_text(program)
    path.chmod(0o755)
    wings = Path(commands.__file__).with_name("in_the_wings.py")
    argv: Sequence[str] = commands.in_the_wings(commands.serve())
    argv = [word.replace(commands.WINGS_PATH, str(wings)).replace(commands.GATE_PATH, str(gate)) for word in argv]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    started.append(subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True))
    return started[-1]


@pytest.mark.parametrize("program", [PYTHON, SHELL])
def test_it_begins_when_its_gate_opens_and_ends_as_it_would(
    program: str, tmp_path: Path, gate: Path, started: list[subprocess.Popen[str]]
) -> None:
    waiting = start(tmp_path, gate, program, started)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    gate.touch()
    said, _ = waiting.communicate(timeout=20)
    path, config = str(tmp_path / "odoo"), "--config=/etc/odoo/odoo.conf"
    assert said.strip() == (f"{[path, config]} {tmp_path} __main__" if program == PYTHON else f"{path} {config}")
    assert waiting.returncode == 7


def test_it_hears_of_its_end_while_it_waits(tmp_path: Path, gate: Path, started: list[subprocess.Popen[str]]) -> None:
    waiting = start(tmp_path, gate, PYTHON, started)
    deadline = time.monotonic() + 20
    while "SigCgt:\t0000000000000000" in (status := Path(f"/proc/{waiting.pid}/status").read_text()) or (
        int(status.split("SigCgt:\t")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1) == 0
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    waiting.terminate()
    assert waiting.wait(20) == 0


def test_only_what_is_odoo_waits() -> None:
    with pytest.raises(ValueError, match="not one of these"):
        commands.in_the_wings(["sh", "-c", "true"])
