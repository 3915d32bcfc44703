"""What the webhook makes of a flood: how many deliveries a second beside a bare view of the same server, how long each
waits when 200 come at once, and what is left of a burst of 10,000: every one stored, none twice, the right
deployments.

It needs no engine and no portal: a web server as the portal's, with its Redis and a database of its own. No worker
runs, so that only the intake is measured.
"""

import hashlib
import hmac
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import surroundings
from tests.bench.flood import Flood, flood, post
from tests.bench.intake_world import BRANCHES, REACHES
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench intake"
PORT = 18414
AT_ONCE = 200
REQUESTS = 1000
"""Of a round, of each kind."""
BURST = 10_000
AGAIN = 500
"""Of the burst, delivered a second time."""
NOBODYS = "nobody/deploys-this"
UP_SECONDS = 60


class IntakeWrong(Exception):
    """A delivery was lost, counted twice or led elsewhere."""


@dataclass(frozen=True)
class Push:
    branch: str
    commit: str
    identifier: str

    def request(self, path: str, secret: str) -> bytes:
        commit = {"id": self.commit, "message": "Another version\n\nWith words.", "author": {"name": "Ann Author"}}
        document = {
            "ref": f"refs/heads/{self.branch}",
            "before": "f" * 40,
            "after": self.commit,
            "forced": False,
            "head_commit": commit,
            "commits": [commit],
            "pusher": {"name": "ann"},
            "repository": {"full_name": "acme/addons", "clone_url": "https://git.example.com/acme/addons.git"},
        }
        body = json.dumps(document).encode()
        proof = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return post(
            path,
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": "GitHub-Hookshot/bench",
                "X-GitHub-Event": "push",
                "X-GitHub-Delivery": self.identifier,
                "X-Hub-Signature-256": f"sha256={proof}",
            },
        )


def pushes(count: int, prefix: str, branches: Sequence[str]) -> list[Push]:
    """Each of a commit of its own, to the branches in turn."""
    return [
        Push(
            branches[number % len(branches)],
            hashlib.sha256(f"{prefix}{number}".encode()).hexdigest()[:40],
            f"{prefix}-{number}",
        )
        for number in range(count)
    ]


def burst() -> list[Push]:
    """In any order, some of them twice."""
    once = pushes(BURST - AGAIN, "burst", ["main", NOBODYS, "next", "release/17.1", "main-2", "release/a/b"])
    chance = random.Random(1)  # noqa: S311 - the same each time
    both = [*once, *chance.sample(once, AGAIN)]
    chance.shuffle(both)
    return both


def measure(state: Path, rounds: int) -> list[Figure]:
    site = _Site(state / "intake")
    world = site.world("seed")
    path, secret = world["path"], world["secret"]
    bares, kept, queued = list[Flood](), list[Flood](), list[Flood]()
    with site.serving():
        for number in range(rounds):
            turns = [(bares, "/bare/", "bare", "main"), (kept, path, "kept", NOBODYS), (queued, path, "queued", "main")]
            for found, where, kind, branch in turns if number % 2 else reversed(turns):
                found.append(_round(where, secret, f"{kind}{number}", branch))
        sent = burst()
        last = flood(PORT, [one.request(path, secret) for one in sent], AT_ONCE)
        left = site.world("look")
    _check_statuses(last)
    judge(sent, left)
    return _figures(bares, kept, queued, last)


def _round(path: str, secret: str, prefix: str, branch: str) -> Flood:
    sent = pushes(REQUESTS, prefix, [branch])
    found = flood(PORT, [one.request(path, secret) for one in sent], AT_ONCE)
    _check_statuses(found)
    return found


def _check_statuses(found: Flood) -> None:
    wrong = {one.status for one in found.answers} - {200, 202}
    if wrong:
        raise IntakeWrong(f"Some were answered with {sorted(wrong)}; 0 is no answer.")


def judge(sent: Sequence[Push], left: dict[str, Any]) -> None:
    """Raises `IntakeWrong` unless each was stored once, and the right ones were deployed. What the rounds before have
    left is not looked at."""
    ids = [one for one in left["ids"] if one.startswith("burst-")]
    expected = sorted({one.identifier for one in sent})
    if sorted(ids) != expected:
        raise IntakeWrong(f"{len(ids)} deliveries were kept as new, of {len(expected)} that were.")
    twice = left["deliveries"].get("duplicate", 0)
    if twice != len(sent) - len(expected):
        raise IntakeWrong(f"{twice} deliveries were kept as duplicates, of {len(sent) - len(expected)} that were.")
    wanted = sorted([REACHES[one.branch], one.commit, one.identifier] for one in set(sent) if one.branch in REACHES)
    found = sorted(one for one in left["deployments"] if one[2].startswith("burst-"))
    if found != wanted:
        raise IntakeWrong(f"{len(found)} deployments, of {len(wanted)} that were to be, or others than those.")
    if left["queued"] != dict.fromkeys(BRANCHES, 1):
        raise IntakeWrong(f"Waiting at the end: {left['queued']}, and one in each environment was to.")


def _figures(bares: Sequence[Flood], kept: Sequence[Flood], queued: Sequence[Flood], last: Flood) -> list[Figure]:
    beside = tuple(one.per_second for one in bares)
    bare_waits = tuple(wait for one in bares for wait in one.milliseconds())
    figures = []
    for what, floods in (("nothing queued", kept), ("a deployment queued", queued)):
        rates = tuple(one.per_second for one in floods)
        waits = tuple(wait for one in floods for wait in one.milliseconds())
        name = f"answer, {AT_ONCE} at once, {what}"
        figures += [
            Figure(f"deliveries a second, {what}", "/s", rates, COMMAND, beside, aim="0.5 of the bare view's"),
            Figure(f"{name}, median", "ms", waits, COMMAND, bare_waits),
            Figure(f"{name}, 99th percentile", "ms", waits, COMMAND, bare_waits, aim="50 ms", quantile=0.99),
        ]
    return [
        *figures,
        Figure(f"burst of {BURST}, deliveries a second", "/s", (last.per_second,), COMMAND),
        Figure(f"burst of {BURST}, 99th percentile", "ms", last.milliseconds(), COMMAND, quantile=0.99),
    ]


class _Site:
    """The web server as the portal has it, with its Redis, in an environment of its own: other benches have theirs."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._log = folder / "programs.log"
        self._environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.bench.intake_settings",
            "OCORE_STATE_DIR": str(folder),
            "OCORE_WEB_BIND": f"127.0.0.1:{PORT}",
            "OCORE_BASE_URL": f"http://localhost:{PORT}",
            "DATABASE_URL": f"sqlite:///{folder / 'ocore.sqlite3'}",
            "REDIS_URL": f"unix://{folder / 'redis' / 'redis.sock'}?db=0",
        }

    def world(self, verb: str) -> dict[str, Any]:
        argv = [sys.executable, "-m", "tests.bench.intake_world", verb]
        done = subprocess.run(
            argv, cwd=surroundings.BASE_DIR, env=self._environment, check=True, stdout=subprocess.PIPE
        )
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    @contextmanager
    def serving(self) -> Iterator[None]:
        gunicorn = str(Path(sys.executable).with_name("gunicorn"))
        with (
            self._program(sys.executable, "manage.py", "run_redis"),
            self._program(gunicorn, "--config", "python:ocore.machine.gunicorn_conf", "ocore.wsgi"),
        ):
            _wait_until_it_answers()
            yield

    @contextmanager
    def _program(self, *argv: str) -> Iterator[None]:
        with self._log.open("a") as log:
            process = subprocess.Popen(
                argv,
                cwd=surroundings.BASE_DIR,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield
            finally:
                process.terminate()
                process.wait(surroundings.DOWN_SECONDS)


def _wait_until_it_answers() -> None:
    """Bare and with everything that it loads at its first call."""
    deadline = time.monotonic() + UP_SECONDS
    warm = [post("/bare/", b"{}", {"Content-Type": "application/json"})] * 20
    while {one.status for one in flood(PORT, warm, 4).answers} != {202}:
        if time.monotonic() > deadline:
            raise surroundings.PortalDown("The web server of the bench does not answer; programs.log says why.")
        time.sleep(0.2)
