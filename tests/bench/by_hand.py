"""The baseline: a script on the same engine, PostgreSQL, images and addon, with a database of its own: `by_hand.sh`, or
`choreography.sh`, which has an edge of its own as well."""

import os
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from tests.bench.surroundings import BY_HAND_PORT, CHOREOGRAPHY_PORT, NAMESPACE
from tests.git_remote import GitRemote

NAME = f"{NAMESPACE}-byhand"
DATABASE = "byhand"
MODULE = "acme_notes"


class ByHandFailed(Exception):
    """The script ended with an error; the message is what it said."""


@dataclass(frozen=True)
class Done:
    seconds: float
    phases: dict[str, float]
    """Seconds that each phase took."""


class ByHand:
    """Needs a server that oCore has deployed to: it shares its PostgreSQL, its network and its template database."""

    script = "by_hand.sh"
    name = NAME
    database = DATABASE
    port = BY_HAND_PORT

    def __init__(self, folder: Path, remote: GitRemote, base_image: str) -> None:
        self._folder = folder
        self.remote = remote
        self._base_image = base_image
        self.pushes = 0
        """Also the number of the latest safety copy."""
        self._rollbacks = 0
        self.admin_password = secrets.token_urlsafe(24)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def install(self, runtime: Any, version: str) -> None:
        from instances import templates
        from instances.odoo import queries
        from instances.odoo.config import password_hash

        template = templates.ensure(runtime, self._base_image, version, lambda _: None, lambda: None)
        password = secrets.token_urlsafe(24)
        runtime.databases.create_role(self.database, password)
        runtime.databases.create(self.database, self.database, template.database, template.owner)
        admin = queries.set_admin_sql("admin", password_hash(self.admin_password))
        runtime.databases.query(self.database, admin)
        self._folder.mkdir()
        self._write_conf(runtime, version, password)
        _run("git", "clone", "--quiet", "--mirror", self.remote.url, str(self._folder / "mirror.git"))
        _run("docker", "volume", "create", "--label", f"io.ocore.namespace={NAMESPACE}", self.name)
        self._script("install")

    def push(self) -> Done:
        """What is at the tip of the remote's branch goes live."""
        self.pushes += 1
        return self._script("push", str(self.pushes))

    def push_code(self) -> Done:
        """The same, where no module needs an update."""
        return self._script("code")

    def push_in_vain(self) -> Done:
        """What is at the tip cannot be updated: what was before is put back."""
        self.pushes += 1
        return self._script("failing", str(self.pushes))

    def restart(self) -> Done:
        return self._script("restart")

    def roll_back(self, push: int) -> Done:
        """To what that push replaced."""
        self._rollbacks += 1
        return self._script("rollback", str(push), str(self._rollbacks))

    def dump(self, database: str, volume: str) -> float:
        """A database and its filestore are copied for keeping; the seconds it took."""
        return self._script("dump", DATABASE=database, VOLUME=volume).phases["dump"]

    def restore(self, database: str, volume: str) -> float:
        """Both become what `dump` has kept, which goes; the seconds it took."""
        return self._script("restore", DATABASE=database, VOLUME=volume).phases["restore"]

    def settle(self) -> None:
        """What was written before is on the disk: nobody who is measured next waits for that."""
        self._script("settle")

    def _write_conf(self, runtime: Any, version: str, password: str) -> None:
        from instances.odoo import config
        from instances.odoo.versions import series

        conf = config.render_config(
            config.OdooConfig(
                series=series(version),
                db_host=runtime.databases.host,
                db_port=runtime.databases.port,
                db_user=self.database,
                db_password=password,
                db_name=self.database,
                admin_passwd=config.password_hash(secrets.token_urlsafe(24), rounds=1000),
            )
        )
        (self._folder / "odoo.conf").write_text(conf)

    def _more(self) -> dict[str, str]:
        return {}

    def _script(self, *arguments: str, **instead: str) -> Done:
        environment = {
            **os.environ,
            "FOLDER": str(self._folder),
            "NAME": self.name,
            "BRANCH": "main",
            "MODULE": MODULE,
            "BASE": self._base_image,
            "DATABASE": self.database,
            "NETWORK": NAMESPACE,
            "POSTGRES": f"{NAMESPACE}-postgres",
            "VOLUME": self.name,
            "PORT": str(self.port),
            "CERTIFICATES": settings.OCORE_BUILD_CERTIFICATES,
            "LABEL": f"io.ocore.namespace={NAMESPACE}",
            **self._more(),
            **instead,
        }
        began, clock = time.monotonic(), time.time()
        said = _run("bash", str(Path(__file__).with_name(self.script)), *arguments, environment=environment)
        seconds = time.monotonic() - began
        phases = {}
        for line in said.splitlines():
            name, instant = line.split()
            phases[name] = float(instant) - clock
            clock = float(instant)
        return Done(seconds, phases)


class Choreography(ByHand):
    script = "choreography.sh"
    name = f"{NAME}-beside"
    database = "beside"
    port = CHOREOGRAPHY_PORT

    def _more(self) -> dict[str, str]:
        return {"EDGE": f"{self.name}-edge", "EDGE_IMAGE": settings.OCORE_EDGE_IMAGE, "BACKEND": "odoo"}


def remove(client: Any) -> None:
    """What the scripts made: the name that only it gives tells, since it sets containers aside under another than their
    label says, and its images carry none."""
    for container in client.containers(all=True, filters={"name": f"^/{NAME}"}):
        client.remove_container(container["Id"], force=True, v=True)
    for name in (NAME, Choreography.name):
        for image in client.images(name=name):
            for tag in image["RepoTags"] or []:
                client.remove_image(tag)


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ByHandFailed(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
