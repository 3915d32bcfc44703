"""The portal's programs as processes of their own, on the world's rows: to be killed, and brought back."""

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from django.conf import settings
from django.db import connection

from ocore.machine import programs
from ocore.machine.processes import Process, family, send
from projects.models import Project
from tests.chaos.engine import strike
from tests.chaos.outside import Broken
from tests.chaos.world import World

WEB_PORT = 18091
VICTIMS = ("horse", "horse", "horse", "worker", "worker", "web", "clock", "chores", "redis", "postgres", "edge", "all")
ENGINE_VICTIMS = ("engine", "engine", "containerd", "power")
"""Horses die most often: it is they who act. The engine's only where it may be killed (`engine.ours`)."""


@dataclass
class Portal:
    world: World
    state: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.state / "redis" / "redis.sock"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of this process, for others."""
        mine = {name: text for name, text in programs.environment().items() if not name.startswith("OCORE_")}
        names = ("NAMESPACE", "ODOO_IMAGE", "ROLLBACK_SECONDS", "DRAIN_SECONDS", "HOLD_SECONDS")
        return (
            mine
            | {f"OCORE_{name}": str(getattr(settings, f"OCORE_{name}")) for name in names}
            | {
                "DJANGO_SETTINGS_MODULE": "ocore.settings",
                "DJANGO_SECRET_KEY": settings.SECRET_KEY,
                "OCORE_ENCRYPTION_KEYS": ",".join(settings.OCORE_ENCRYPTION_KEYS),
                "OCORE_STATE_DIR": str(self.state),
                "OCORE_FILE_REPOSITORIES": str(self.world.remote.path.parent),
                "OCORE_EDGE_BIND": "127.0.0.1",
                "OCORE_WEB_BIND": f"127.0.0.1:{WEB_PORT}",
                "OCORE_BASE_URL": f"http://127.0.0.1:{WEB_PORT}",
                "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
                "REDIS_URL": f"unix://{self.socket}?db=0",
            }
        )

    def start(self) -> None:
        """What the Procfile says, as far as it doesn't run."""
        for name, argv in self._programs():
            running = self.running.get(name)
            if running is None or running.poll() is not None:
                log = (self.state / f"{name}.log").open("ab")
                self.running[name] = subprocess.Popen(
                    argv, env=self.environment, cwd=settings.BASE_DIR, stdout=log, stderr=log, start_new_session=True
                )
                if name == "redis":
                    self._wait_for_redis()

    def _programs(self) -> list[tuple[str, tuple[str, ...]]]:
        ours = ("redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no")
        rest = [(one.name, one.argv) for one in programs.portal_programs() if one.name != "redis"]
        return [("redis", ours), *rest]

    def _wait_for_redis(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError), redis.Redis(unix_socket_path=str(self.socket)) as client:
                client.ping()
                return
            time.sleep(0.05)
        raise Broken("Redis does not start")

    def stop(self) -> None:
        everyone = family([found for one in self.running.values() if (found := Process.of(one.pid))])
        send(everyone, signal.SIGKILL)
        for one in self.running.values():
            one.wait()

    def kill(self, victim: str) -> str:
        """-9, without a word before; what it met."""
        if victim in ("postgres", "edge", *ENGINE_VICTIMS):
            if self.world.engine:
                self.world.engine.wait_until_back()  # who it is, the engine knows
            strike(self.world, victim)
            if victim != "power":
                return victim
        names = (
            list(self.running)
            if victim in ("all", "power")
            else [one for one in self.running if one.startswith(victim)]
        )
        if victim == "horse":
            return self._kill_a_horse()
        victims = [found for name in names if (found := Process.of(self.running[name].pid))]
        # A web server's children end with it; a horse must by itself.
        send(family(victims) if victim in ("web",) else victims, signal.SIGKILL)
        return victim

    def _kill_a_horse(self) -> str:
        workers = [one.pid for name, one in self.running.items() if name.startswith("worker")]
        for pid in workers:
            horses = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for horse in horses:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(horse), signal.SIGKILL)
                    return f"horse {horse}"
        return "horse (none at work)"

    def announce(self, seconds: float = 60) -> None:
        """A push, as GitHub tells it; again until it is taken, as a git host's redelivery."""
        project = Project.objects.get(pk=self.world.environment.project_id)
        sha = self.world.remote.sha("main")
        commit = {"id": sha, "message": "chaos", "author": {"name": "chaos"}}
        body = json.dumps(
            {
                "ref": "refs/heads/main",
                "before": "1" * 40,
                "after": sha,
                "created": False,
                "deleted": False,
                "forced": False,
                "head_commit": commit,
                "commits": [commit],
                "pusher": {"name": "chaos"},
            }
        ).encode()
        signature = hmac.new(project.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": str(uuid.uuid4()),
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        deadline = time.monotonic() + seconds
        said = ""
        while time.monotonic() < deadline:
            client = http.client.HTTPConnection("127.0.0.1", WEB_PORT, timeout=20)
            try:
                client.request("POST", project.webhook_path, body, headers)
                answer = client.getresponse()
                said = f"{answer.status} {answer.read()[:300]!r}"
                if answer.status < 300:
                    return
            except (OSError, http.client.HTTPException) as error:
                said = str(error)
            finally:
                client.close()
            time.sleep(0.2)
        raise Broken(f"the webhook did not take a push within {seconds:.0f} s: {said}")


@contextmanager
def portal(world: World, state: Path) -> Iterator[Portal]:
    (state / "redis").mkdir(parents=True, exist_ok=True)
    made = Portal(world, state)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def some_victims(dice: random.Random, among: tuple[str, ...]) -> list[tuple[float, str]]:
    """One to three, each with the seconds after the push at which it dies."""
    return sorted((round(dice.uniform(0.0, 6.0), 2), dice.choice(among)) for _ in range(dice.choice((1, 1, 2, 3))))
