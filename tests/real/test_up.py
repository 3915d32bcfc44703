"""`make up` as a person runs it: from nothing to a live Odoo, pushes, a bad push, down, and up again."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import requests

from tests.real.portal import PASSWORD, Portal, Up, clean, serving

pytestmark = pytest.mark.real

NAMESPACE = "ocore-test-up"
WEB, EDGE = 18101, 18081
HOST = f"production-demo.localhost:{EDGE}"


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    with clean(Portal(tmp_path_factory.mktemp("up"), NAMESPACE, WEB, EDGE)) as made:
        yield made


@pytest.fixture(scope="module")
def up(portal: Portal) -> Iterator[Up]:
    with serving(portal) as started:
        yield started


def push(portal: Portal, message: str, changes: dict[str, tuple[str, str]]) -> str:
    """Change files of the demo's work folder, commit and push, as a developer does; what git printed."""
    work = portal.state / "demo" / "work"
    for name, (old, new) in changes.items():
        path = work / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for arguments in (["commit", "--quiet", "--all", "-m", message], ["push", "--quiet", "origin", "main"]):
        done = subprocess.run(["git", *who, *arguments], cwd=work, capture_output=True, text=True, check=True)
    return done.stderr


def ended(portal: Portal, number: int) -> str:
    """The status line of a deployment once it has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        said = portal.run("status", "demo/production").stdout
        line = next((line for line in said.splitlines() if line.strip().startswith(f"#{number} ")), "")
        if line and not re.search("Queued|Running|Rolling back|Cancelling", line):
            return line
        time.sleep(0.5)
    raise AssertionError(said)


def odoo(path: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{EDGE}{path}", headers={"Host": HOST}, timeout=60)


def test_one_command_brings_a_real_odoo_live_through_the_webhook(portal: Portal, up: Up) -> None:
    said = up.log.read_text()
    assert "The portal answers at" in said
    assert "git calls the webhook" in said
    assert re.search(r"The portal answered after \d+ s, the demo's Odoo was live after \d+ s", said)
    assert odoo("/web/login").status_code == 200
    assert PASSWORD not in said
    assert "by Demo Developer (push)" in portal.run("status", "demo/production").stdout


def test_no_minute_is_silent(up: Up) -> None:
    stamps = [float(stamp) for stamp in re.findall(r"^\[ *([\d.]+) s\]", up.log.read_text(), re.MULTILINE)]
    assert max(later - earlier for earlier, later in pairwise(stamps)) < 15


def test_a_second_up_is_there_at_once_and_repeats_nothing(portal: Portal, up: Up) -> None:
    began = time.monotonic()
    again = portal.run("up")
    assert again.returncode == 0
    assert "is up already" in again.stdout
    assert HOST in again.stdout
    assert time.monotonic() - began < 15


def test_a_git_push_becomes_live(portal: Portal, up: Up) -> None:
    said = push(portal, "Raise the version", {"acme_notes/__manifest__.py": ("19.0.1.0.0", "19.0.1.1.0")})
    assert "Queued: demo/production" in said
    assert "Succeeded, live" in ended(portal, 2)


def test_a_bad_push_is_taken_back_by_itself(portal: Portal, up: Up) -> None:
    push(portal, "Break the view", {"acme_notes/views/acme_note_views.xml": ('name="title"', 'name="nothing"')})
    assert "Rolled back" in ended(portal, 3)
    assert odoo("/web/login").status_code == 200
    assert odoo("/acme_notes/count").json() == {"count": 0, "last_id": 0}


def test_the_command_line_deploys_and_tells_by_its_exit_code(portal: Portal, up: Up) -> None:
    broken = portal.run("deploy", "demo/production", "--wait", timeout=180)
    assert broken.returncode == 2, broken.stdout
    assert "nothing" in broken.stdout
    refused = portal.run("deploy", "demo/production", "--ref", "main~1", "--wait", timeout=180)
    assert refused.returncode == 1, refused.stdout
    back = portal.run("rollback", "demo/production", "--yes", "--wait", timeout=180)
    assert back.returncode == 0, back.stdout


def test_the_status_page_and_the_portals_health_answer(portal: Portal, up: Up) -> None:
    page = re.search(r"http://localhost:\d+(/status/\S+/)", up.log.read_text())
    assert page is not None
    answer = requests.get(f"http://127.0.0.1:{WEB}{page[1]}", headers={"Host": "localhost"}, timeout=10)
    assert answer.status_code == 200
    assert "Production" in answer.text
    assert requests.get(f"http://127.0.0.1:{WEB}/healthz", timeout=10).json()["status"] == "pass"


def test_a_deployment_whose_worker_is_killed_is_taken_back_without_a_person(portal: Portal, up: Up) -> None:
    before = odoo("/acme_notes/count").json()
    work = portal.state / "demo" / "work" / "acme_notes"
    (work / "__init__.py").write_text((work / "__init__.py").read_text() + "\n# another file, so that it is updated\n")
    (work / "views" / "acme_note_views.xml").write_text(
        (work / "views" / "acme_note_views.xml").read_text().replace('name="nothing"', 'name="title"')
    )
    push(portal, "Mend the view", {})
    number = latest(portal)
    deadline = time.monotonic() + 60
    while (
        "door" not in (said := portal.run("status", "demo/production").stdout).lower() and time.monotonic() < deadline
    ):
        if step(portal, number) in {"deploy", "snapshot"}:
            break
    for pid in workers(portal):
        os.kill(pid, signal.SIGKILL)
    line = ended(portal, number)
    assert re.search("Rolled back|Succeeded", line), said
    assert odoo("/acme_notes/count").json() == before


def latest(portal: Portal) -> int:
    numbers = re.findall(r"^ *#(\d+) ", portal.run("status", "demo/production").stdout, re.MULTILINE)
    return max(int(number) for number in numbers)


def step(portal: Portal, number: int) -> str:
    import sqlite3

    with sqlite3.connect(portal.state / "ocore.sqlite3") as rows:
        found = rows.execute(
            "SELECT kind FROM deployments_step WHERE deployment_id = ? ORDER BY id DESC LIMIT 1", (number,)
        ).fetchone()
    return str(found[0]) if found else ""


def workers(portal: Portal) -> list[int]:
    """The processes that run deployments, horses included."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if f"OCORE_STATE_DIR={portal.state}".encode() in environment and b"urgent\0deployments" in command:
                found.append(int(folder.name))
    return found


def test_after_down_and_up_everything_serves_again(portal: Portal, up: Up) -> None:
    assert up.interrupt() == 0
    assert odoo("/web/login").status_code == 200, "containers go on serving"
    assert portal.run("down").returncode == 0
    with pytest.raises(requests.ConnectionError):
        odoo("/web/login")

    again = portal.up()
    said = again.wait_for("Serving until Ctrl-C", 60)

    assert "Started again: Demo / Production / main" in said
    assert "Pushing the demo" not in said
    deadline = time.monotonic() + 30
    while odoo("/web/login").status_code != 200:
        assert time.monotonic() < deadline
    assert again.interrupt() == 0


def test_without_an_engine_it_says_why_and_simulates(tmp_path: Path) -> None:
    portal = Portal(tmp_path, NAMESPACE, WEB, EDGE, {"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    up = portal.up()
    try:
        said = up.wait_for("Serving until Ctrl-C", 120)
    finally:
        up.interrupt()
    assert "Nothing answers at DOCKER_HOST" in said
    assert "SIMULATED" in said
    assert "(simulated)" in said
