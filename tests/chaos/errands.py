"""What is done outside of a deployment, and may die as well: the keeper, control by hand, a removal, a dump, retention.

Whatever happens, nothing that was live changes its version or loses a write.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import override_settings
from django.utils import timezone

from deployments import control, removal, second
from deployments.models import Deployment, Snapshot
from deployments.recovery import DUMP
from deployments.states import ACTIVE, Status
from instances.models import Incident, Instance
from instances.runtimes.base import NAMESPACE_LABEL
from projects.models import Environment, Split
from tests.chaos.outside import Broken
from tests.chaos.world import CHAOS, DEPLOY_SECONDS, World

RETENTION = {
    "OCORE_KEEP_ROLLBACKS": 0,
    "OCORE_KEEP_SNAPSHOTS": 0,
    "OCORE_KEEP_IMAGES": 0,
    "OCORE_KEEP_DUMPS": 0,
    "OCORE_KEEP_DEPLOYMENTS": 2,
    "OCORE_KEEP_LOGS": 1,
}
State = Instance.State
SECOND_SECONDS = 60.0
"""Until a second version is gone once one is to be kept."""


@dataclass(frozen=True)
class Errand:
    name: str
    job: str
    prepare: Callable[[World], tuple[Any, ...]]
    """Bring about what calls for it; the job's arguments."""
    ended: Callable[[World], None]
    """After everything has settled: raises `Broken` unless it was done, or as if it had never begun."""
    fresh: bool = False
    """In an environment of its own, which is live."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Under which the job runs."""
    victim: str = ""


def _instance(world: World) -> Instance:
    return Instance.objects.select_related("environment__server", "environment__project").get(
        environment=world.environment
    )


# The keeper


def _down(act: Callable[[World, str], None], part: str = "") -> Callable[[World], tuple[Any, ...]]:
    def prepare(world: World) -> tuple[Any, ...]:
        act(world, f"{world.outside.namespace}-{part}" if part else _instance(world).container)
        return ()

    return prepare


def _kill(world: World, name: str) -> None:
    world.outside.api.kill(name)


def _gone(world: World, name: str) -> None:
    world.outside.api.remove_container(name, force=True)


def _runs(world: World) -> None:
    found = _instance(world)
    if found.state != State.RUNNING or found.problem:
        raise Broken(f"{found} is {found.state}: {found.problem}")
    incidents = list(Incident.objects.all())
    if not incidents:
        raise Broken("nobody has noticed that it was down")
    for incident in incidents:
        if not incident.ended_at or incident.outcome == Incident.Outcome.GIVEN_UP:
            raise Broken(f"{incident.subject}: {incident.outcome} {incident.problem}")


# Control by hand


def _asked(verb: str) -> Callable[[World], tuple[Any, ...]]:
    def prepare(world: World) -> tuple[Any, ...]:
        if verb == "start":
            _by_hand(world, "stop")
        instance = _instance(world)
        control.request(instance, verb)
        return instance.pk, verb

    return prepare


def _by_hand(world: World, verb: str) -> None:
    instance = _instance(world)
    control.request(instance, verb)
    world.settle(keeping=True)
    instance.refresh_from_db()
    wanted = State.STOPPED if verb == "stop" else State.RUNNING
    if instance.state != wanted:
        raise Broken(f"{verb} of {instance} by hand: {instance.state} {instance.problem}")


def _serves(world: World) -> None:
    found = _instance(world)
    if found.state != State.RUNNING:
        raise Broken(f"{found} is {found.state}: {found.problem}")


def _stopped_or_as_before(world: World) -> None:
    """What somebody stopped stays stopped, and can be started."""
    found = _instance(world)
    if found.state == State.STOPPED:
        world.run("keep_running")
        world.check_still("stopped", stopped=True)
        _by_hand(world, "start")
    _serves(world)


# A removal


def _remove(world: World) -> tuple[Any, ...]:
    world.commit_update()
    deployment = world.deploy()
    if deployment.status != Status.SUCCEEDED:
        raise Broken(f"the environment to remove did not come up: {deployment.error} {deployment.detail}")
    removal.request(world.environment, CHAOS)
    return (world.environment.pk,)


def _removed(world: World) -> None:
    environment = world.environment
    if found := Environment.objects.filter(pk=environment.pk).first():
        raise Broken(f"it is still there: {found.removal_problem or 'no problem on record'}")
    databases = {name for name in world.outside.databases() if name.startswith(environment.database)}
    roles = world.outside.psql("postgres", f"SELECT rolname FROM pg_roles WHERE rolname = '{environment.database}'")  # noqa: S608
    dumps = Path(settings.STATE_DIR) / "dumps" / environment.key
    left = [*databases, *roles, *(["its volume"] if environment.volume in world.outside.volumes() else [])]
    if left or dumps.exists():
        raise Broken(f"of the removed environment there are left: {left or dumps}")
    if world.outside.door_is_open(f"{environment.key}--main"):
        raise Broken("the door of the removed environment is left open")


# A dump


def _undumped(world: World) -> tuple[Any, ...]:
    """The newest snapshot has none yet; its deployment is one of a moment ago."""
    if not Snapshot.objects.filter(environment=world.environment, state=Snapshot.State.READY).exists():
        world.commit_update()
        world.deploy()
    snapshot = Snapshot.objects.filter(environment=world.environment, state=Snapshot.State.READY).latest("pk")
    if snapshot.dump_path:
        (Path(settings.STATE_DIR) / snapshot.dump_path).unlink(missing_ok=True)
    Snapshot.objects.filter(pk=snapshot.pk).update(dump_path="", dump_sha256="", dump_bytes=None, dump_problem="")
    return (snapshot.deployment_id,)


def _dumped(world: World) -> None:
    """A quarter of an hour later the clock takes a dump that is still not there for lost."""
    newest = Snapshot.objects.filter(environment=world.environment, state=Snapshot.State.READY).latest("pk")
    Deployment.objects.filter(pk=newest.deployment_id).update(finished_at=timezone.now() - DUMP - timedelta(seconds=10))
    world.settle()
    newest.refresh_from_db()
    if not newest.dump_path:
        raise Broken(f"no dump of {newest}: {newest.dump_problem}")
    data = (Path(settings.STATE_DIR) / newest.dump_path).read_bytes()
    if hashlib.sha256(data).hexdigest() != newest.dump_sha256 or not data.startswith(b"PGDMP"):
        raise Broken(f"the dump of {newest} is not what its row says")
    _dumps_are_as_the_rows_say(world)


def _dumps_are_as_the_rows_say(world: World) -> None:
    root = Path(settings.STATE_DIR)
    files = {str(path.relative_to(root)) for path in (root / "dumps").rglob("*") if path.is_file()}
    rows = set(Snapshot.objects.exclude(dump_path="").values_list("dump_path", flat=True))
    if files != rows:
        raise Broken(f"dumps {sorted(files ^ rows)} are left over or lost")


# A second version


def _copy(world: World) -> tuple[Any, ...]:
    # The branch may have gone on to what could not be deployed.
    return (second.begin(world.environment, "Second", CHAOS, ref=world.live.commit, shared=False).pk,)


def _keep_the_second(world: World) -> tuple[Any, ...]:
    """With the data of an instant after which nobody writes."""
    world.stop_writing()
    (pk,) = _copy(world)
    world.settle(DEPLOY_SECONDS)
    deployment = Deployment.objects.get(pk=pk)
    if deployment.status != Status.SUCCEEDED:
        raise Broken(f"the second version did not come up: {deployment.error} {deployment.detail}")
    second.end(_split(), "second", CHAOS)
    return (_split().deployment,)


def _split() -> Split:
    return Split.objects.select_related("environment__second_of", "environment__server").get()


def _one_again(world: World) -> None:
    """Whatever became of it, one of the two can be kept, and nothing of the other is left."""
    ended = Deployment.objects.exclude(status__in=ACTIVE).latest("pk")
    if Split.objects.exists():
        if ended.status == Status.ROLLBACK_FAILED:
            raise Broken(f"{ended}: {ended.error}")
        if not _split().ending:
            second.end(_split(), "first", CHAOS)
    deadline = time.monotonic() + SECOND_SECONDS
    while Split.objects.exists():
        world.settle(keeping=True)
        if time.monotonic() > deadline:
            raise Broken(f"it does not end: {_split().ending} {_split().problem}")
        time.sleep(0.2)
    volumes = [name for name in world.outside.volumes() if name.endswith("second")]
    if volumes:
        raise Broken(f"of the second version are left: {volumes}")


# Retention


def _old_things(world: World, pk: int) -> tuple[Any, ...]:
    """On the server not more of them each time: what is there from before goes first."""
    with override_settings(**RETENTION):
        world.run("sweep", world.environment.server_id)
    old = 0
    while not old or (pk == 0 and Snapshot.objects.exclude(dump_path="").count() < 2):
        world.commit_update()
        if world.deploy().status != Status.SUCCEEDED:
            raise Broken("what was to become old did not go live")
        old += 1
    return (pk,)


def _swept(world: World, pk: int) -> None:
    """Nothing that the rows speak of is missing; and the clock's next sweep has removed what may go."""
    images = {
        tag for one in world.outside.api.images(filters={"label": _label(world)}) for tag in one["RepoTags"] or ()
    }
    live = world.live
    if live is None or live.image not in images:
        raise Broken(f"the image of {live} is gone")
    if pk == 0:
        _dumps_are_as_the_rows_say(world)
        kept = Snapshot.objects.exclude(dump_path="").count()
        if kept > Environment.objects.count():
            raise Broken(f"{kept} dumps were kept")
        return
    left = Snapshot.objects.filter(state__in=[Snapshot.State.READY, Snapshot.State.REMOVING])
    # The newest may wait for its dump.
    if left.count() > 1 or left.filter(state=Snapshot.State.REMOVING).exists():
        raise Broken(f"snapshots were kept: {list(left)}")
    built = [one for one in images if f"/{world.environment.project.slug}:" in one]
    if len(built) > 1:
        raise Broken(f"images were kept: {built}")


def _label(world: World) -> list[str]:
    return [f"{NAMESPACE_LABEL}={world.outside.namespace}"]


def _sweep_of_server(world: World) -> tuple[Any, ...]:
    return _old_things(world, world.environment.server_id)


def _sweep_of_portal(world: World) -> tuple[Any, ...]:
    return _old_things(world, 0)


def _server_swept(world: World) -> None:
    world.run("sweep", world.environment.server_id)
    _swept(world, world.environment.server_id)


def _portal_swept(world: World) -> None:
    world.run("sweep", 0)
    _swept(world, 0)


ERRANDS = (
    Errand("keeper-instance-down", "keep_running", _down(_kill), _runs),
    Errand("keeper-instance-gone", "keep_running", _down(_gone), _runs),
    Errand("keeper-postgres-gone", "keep_running", _down(_gone, "postgres"), _runs),
    Errand("keeper-edge-down", "keep_running", _down(_kill, "edge"), _runs),
    Errand("restart", "control_instance", _asked("restart"), _serves),
    Errand("stop", "control_instance", _asked("stop"), _stopped_or_as_before),
    Errand("start", "control_instance", _asked("start"), _serves),
    Errand("removal", "remove_environment", _remove, _removed, fresh=True),
    Errand("second-copy", "run_deployment", _copy, _one_again),
    Errand("second-takes-place", "run_deployment", _keep_the_second, _one_again),
    Errand("dump", "dump_snapshots", _undumped, _dumped),
    Errand("retention-of-server", "sweep", _sweep_of_server, _server_swept, settings=RETENTION),
    Errand("retention-of-portal", "sweep", _sweep_of_portal, _portal_swept, settings=RETENTION),
)
