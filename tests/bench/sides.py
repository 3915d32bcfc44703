"""Who serves the same clients while the same happens: oCore, and two who type it by hand."""

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployments import control
from deployments.states import Status, Way
from instances.models import Instance
from projects.inheritance import UpdatePolicy
from projects.models import Environment
from tests.bench.by_hand import MODULE, ByHand, Done
from tests.bench.cast import ADDON, LIVE_SECONDS, LOOK_SECONDS, MANIFEST, BenchFailed, Cast
from tests.bench.surroundings import EDGE_PORT
from tests.git_remote import GitRemote

VIEWS = f"{MODULE}/views/acme_note_views.xml"
CONTROLLER = f"{MODULE}/controllers/main.py"


Phases = Mapping[str, float]


def _addon(path: str) -> str:
    return (ADDON.parent / path).read_text()


@dataclass
class Pushes:
    """What is pushed to one remote; what an earlier one has broken is well again."""

    remote: GitRemote
    _number: int = field(default=1000, init=False)
    """Above every version that the other benches push."""

    def __post_init__(self) -> None:
        show = ["git", "--git-dir", str(self.remote.path), "show", f"main:{MANIFEST}"]
        self._manifest = subprocess.run(show, capture_output=True, text=True, check=True).stdout

    def code(self) -> dict[str, str]:
        """Another Python file under the same version: no module needs an update."""
        return {**self._next(), MANIFEST: self._manifest}

    def update(self) -> dict[str, str]:
        files = self._next()
        self._manifest = self._manifest_of(self._number)
        return {**files, MANIFEST: self._manifest}

    def broken(self) -> dict[str, str]:
        """A view with a field that isn't there: Odoo refuses the update."""
        views = _addon(VIEWS).replace('<field name="title"', '<field name="nothing"')
        return {**self._next(), MANIFEST: self._manifest_of(self._number), VIEWS: views}

    def _next(self) -> dict[str, str]:
        self._number += 1
        return {VIEWS: _addon(VIEWS), CONTROLLER: f"{_addon(CONTROLLER)}\n# In its {self._number}th wording.\n"}

    @staticmethod
    def _manifest_of(number: int) -> str:
        return _addon(MANIFEST).replace("1.0.0", f"1.{number}.0")


@dataclass(frozen=True)
class Side:
    """`acts` by case; each returns when it has ended well, with the seconds that its phases took."""

    name: str
    port: int
    host: str
    database: str
    password: str
    """Of Odoo's administrator."""
    acts: dict[str, Callable[[], Phases]]

    def log_in(self) -> str:
        """The cookie of a session that is logged in."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps({"params": {"db": self.database, "login": "admin", "password": self.password}})
        headers = {"Host": self.host, "Content-Type": "application/json"}
        try:
            connection.request("POST", "/web/session/authenticate", body, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        finally:
            connection.close()
        cookie = (answer.getheader("Set-Cookie") or "").partition("session_id=")[2].partition(";")[0]
        if not said.get("result", {}).get("uid") or not cookie:
            raise BenchFailed(f"Nobody can log in at {self.name}: {said}")
        return cookie


def through_ocore(cast: Cast) -> Side:
    pushes, environment = Pushes(cast.remote), cast.environment

    def code() -> Phases:
        live = cast.push(pushes.code())
        if live.deployment.way != Way.BLUE_GREEN:
            raise BenchFailed(f"{live.deployment} went {live.deployment.way}: {live.deployment.way_because}")
        return live.phases

    acts = {
        "code": code,
        "update": lambda: cast.push(pushes.update()).phases,
        "failing": lambda: cast.push(pushes.broken(), ends=Status.ROLLED_BACK).phases,
        "restart": lambda: restart(environment),
    }
    password = environment.odoo_admin_password
    return Side("oCore", EDGE_PORT, environment.hostname, environment.database, password, acts)


def typed(name: str, by_hand: ByHand) -> Side:
    pushes = Pushes(by_hand.remote)

    def push(files: dict[str, str], act: Callable[[], Done]) -> Phases:
        by_hand.remote.commit("Another version", files)
        return act().phases

    acts = {
        "code": lambda: push(pushes.code(), by_hand.push_code),
        "update": lambda: push(pushes.update(), by_hand.push),
        "failing": lambda: push(pushes.broken(), by_hand.push_in_vain),
        "restart": lambda: by_hand.restart().phases,
    }
    return Side(name, by_hand.port, by_hand.host, by_hand.database, by_hand.admin_password, acts)


def restart(environment: Environment) -> Phases:
    """As with the button of the admin, by a worker."""
    began = time.monotonic()
    instance = Instance.objects.get(environment=environment)
    control.request(instance, "restart")
    deadline = time.monotonic() + LIVE_SECONDS
    while instance.state == Instance.State.RESTARTING or Environment.objects.get(pk=environment.pk).busy:
        if time.monotonic() > deadline:
            raise BenchFailed(f"{instance} is still restarting after {LIVE_SECONDS} s.")
        time.sleep(LOOK_SECONDS)
        instance.refresh_from_db(fields=["state", "problem"])
    if instance.state != Instance.State.RUNNING:
        raise BenchFailed(f"{instance} was restarted and is {instance.state}: {instance.problem}")
    return {"restart": time.monotonic() - began}


@contextmanager
def only_versions_count(environment: Environment) -> Iterator[None]:
    """A module is updated where its manifest has another version: so a push of code alone leaves the database alone."""
    rows, before = Environment.objects.filter(pk=environment.pk), environment.update_policy
    rows.update(update_policy=UpdatePolicy.VERSION)
    try:
        yield
    finally:
        rows.update(update_policy=before)
