"""A real portal for tests: `manage.py up` in a process, with a state folder, namespace and ports of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings

from instances.runtimes.base import ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.inventory import everything_of, remove_everything

PASSWORD = "a password for the tests"


@dataclass
class Portal:
    """A state folder of its own, and `manage.py` run in it."""

    state: Path
    namespace: str
    web: int
    edge: int
    more: dict[str, str] = field(default_factory=dict)
    """Further settings, by the names of their variables."""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.web}"

    @property
    def environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("OCORE_", "DATABASE_"))}
        return (
            mine
            | {
                "DJANGO_SETTINGS_MODULE": "ocore.settings",
                "OCORE_STATE_DIR": str(self.state),
                "OCORE_NAMESPACE": self.namespace,
                "OCORE_WEB_BIND": f"127.0.0.1:{self.web}",
                "OCORE_BASE_URL": self.url,
                "OCORE_EDGE_HTTP_PORT": str(self.edge),
                "OCORE_EDGE_BIND": "127.0.0.1",
                "OCORE_ADMIN_PASSWORD": PASSWORD,
            }
            | self.more
        )

    @property
    def manage(self) -> list[str]:
        return [sys.executable, str(settings.BASE_DIR / "manage.py")]

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.manage, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def up(self, *options: str) -> "Up":
        log = self.state / "up.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*self.manage, "up", *options], env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
        return Up(process, log)


@dataclass
class Up:
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, text: str, seconds: float = 300) -> str:
        deadline = time.monotonic() + seconds
        while text not in (said := self.log.read_text()):
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        return said

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


@contextmanager
def clean(portal: Portal) -> Iterator[Portal]:
    """Nothing of an earlier run is on the engine, and nothing stays there."""
    api = Engine(ServerSpec("this machine", namespace=portal.namespace)).api
    remove_everything(api, portal.namespace)
    try:
        yield portal
    finally:
        remove_everything(api, portal.namespace)  # before, so that nobody waits for what ends politely
        portal.run("down")
        remove_everything(api, portal.namespace)
    assert not everything_of(api, portal.namespace)


@contextmanager
def serving(portal: Portal, *options: str) -> Iterator[Up]:
    """`manage.py up`, ended as by Ctrl-C if it still runs then."""
    started = portal.up(*options)
    try:
        started.wait_for("Serving until Ctrl-C")
        yield started
    finally:
        if started.process.poll() is None:
            started.interrupt()
