"""Where a bench runs: an installation of its own, beside whatever else runs on the machine, gone afterwards."""

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import environ
from cryptography.fernet import Fernet

BASE_DIR = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "ocore-bench"
EDGE_PORT = 18410
WEB_PORT = 18411
BY_HAND_PORT = 18412
CHOREOGRAPHY_PORT = 18413
UP_SECONDS = 120
DOWN_SECONDS = 40


def results_folder() -> Path:
    """Below the developer's own state folder: the figures stay when the installation goes."""
    environ.Env.read_env(BASE_DIR / ".env", overwrite=False)
    return Path(os.environ.get("OCORE_STATE_DIR") or BASE_DIR / "var").resolve() / "bench"


def enter(results: Path) -> Path:
    """Set this process's environment, and so that of all that it starts, to an installation of its own. Before Django
    reads its settings. Returns the state folder."""
    state = results / "run"
    os.environ.update(
        OCORE_STATE_DIR=str(state),
        OCORE_NAMESPACE=NAMESPACE,
        OCORE_EDGE_BIND="127.0.0.1",
        OCORE_EDGE_HTTP_PORT=str(EDGE_PORT),
        OCORE_BASE_DOMAIN="localhost",
        OCORE_WEB_BIND=f"127.0.0.1:{WEB_PORT}",
        OCORE_BASE_URL=f"http://localhost:{WEB_PORT}",
        OCORE_FILE_REPOSITORIES=str(state),
        DATABASE_URL=f"sqlite:///{state / 'ocore.sqlite3'}",
        REDIS_URL=f"unix://{state / 'redis' / 'redis.sock'}?db=0",
        # Not kept in the state folder: what an interrupted bench has left there goes after our settings were read.
        OCORE_ENCRYPTION_KEYS=Fernet.generate_key().decode(),
        DJANGO_SECRET_KEY=secrets.token_urlsafe(50),
        DJANGO_ALLOWED_HOSTS="localhost,127.0.0.1",
        DJANGO_DEBUG="False",
        DJANGO_SETTINGS_MODULE="ocore.settings",
    )
    return state


@contextmanager
def only_one(results: Path) -> Iterator[None]:
    """Two at once would share names and ports, and measure each other."""
    from ocore.errors import ExpectedError

    results.mkdir(parents=True, exist_ok=True)
    lock: IO[str]
    with (results / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExpectedError("Another bench is running.", advice="Wait for its end.") from None
        yield


def keep_logs(state: Path, results: Path) -> None:
    """What the portal's programs said, for whoever looks why a bench failed."""
    shutil.rmtree(results / "log", ignore_errors=True)
    if (state / "log").exists():
        shutil.copytree(state / "log", results / "log")


def clean(state: Path, *, engine: bool = True) -> None:
    """End and remove what a bench has made on this machine, an interrupted one's too; the base images stay. Without
    `engine` nothing of that is looked at."""
    from instances.runtimes.base import ServerSpec
    from instances.runtimes.docker import Engine, remove_everything
    from ocore.machine.engine import find_engine
    from ocore.machine.progress import Progress
    from ocore.machine.supervisor import stop_running
    from tests.bench import by_hand

    stop_running(Progress(), state_dir=state)
    found = find_engine() if engine else None
    if found is not None:
        client = Engine(ServerSpec(name="this machine", endpoint=found.endpoint)).api
        by_hand.remove(client)
        remove_everything(client, NAMESPACE)
    shutil.rmtree(state, ignore_errors=True)


class PortalDown(Exception):
    """It did not come up, or went away; the message ends with what it said last."""


class Portal:
    """`make up` without the demo, as a process of its own: web, workers, clock and Redis under their supervisor."""

    def __init__(self, state: Path) -> None:
        self._log = state / "up.log"

    def __enter__(self) -> "Portal":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        # In a session of its own: a Ctrl-C is ours to pass on, when what it serves is no longer needed.
        self._process = subprocess.Popen(
            [sys.executable, str(BASE_DIR / "manage.py"), "up", "--no-demo"],
            cwd=BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=self._log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + UP_SECONDS
        while "Serving until Ctrl-C" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PortalDown("The portal did not come up. It said:\n" + self._log.read_text()[-3000:])
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(DOWN_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
