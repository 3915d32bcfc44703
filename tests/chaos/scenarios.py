"""What is going on while something dies."""

from collections.abc import Callable
from dataclasses import dataclass

from deployments import services
from deployments.models import Deployment, Snapshot
from deployments.states import Status
from tests.chaos.errands import ERRANDS, Errand
from tests.chaos.world import CHAOS, World


@dataclass(frozen=True)
class Scenario:
    name: str
    request: Callable[[World], Deployment]
    fresh: bool = False
    """In an environment of its own, which has never been live."""
    cancel_at: str = ""
    """A point at which somebody cancels it."""
    dies_first: str = ""
    """A point at which its worker dies first: what is then run, and may die too, is the recovery."""
    victim: str = ""
    """What dies at the points instead of who deploys; with the power, he dies too (`engine.strike`)."""


def _update(world: World) -> Deployment:
    world.commit_update()
    return world.push()


def _code_only(world: World) -> Deployment:
    world.commit_code_only()
    return world.push()


def _nothing(world: World) -> Deployment:
    world.remote.commit("Nothing that runs", {"README.md": world.remote.sha("main")})
    return world.push()


def _broken_update(world: World) -> Deployment:
    world.commit_update(fail_update=True)
    return world.push()


def _unhealthy(world: World) -> Deployment:
    world.commit_update(unhealthy=True)
    return world.push()


def _rollback_with_data(world: World) -> Deployment:
    """To a version that ran before, with the data of that instant; what was written since is kept in its snapshot."""
    while not (snapshot := _kept(world)):  # retention may have run
        world.commit_update()
        world.deploy()
    world.stop_writing()  # a moment must be chosen: what is accepted after it is not in the snapshot
    return services.roll_back(world.environment, CHAOS, target=snapshot.of, with_data=True)


def _kept(world: World) -> Snapshot | None:
    kept = Snapshot.objects.filter(
        environment=world.environment, state=Snapshot.State.READY, of__status=Status.SUCCEEDED, of__live=False
    ).order_by("-pk")
    return next((one for one in kept if one.of and one.of.content), None)


SCENARIOS: dict[str, Scenario | Errand] = {
    scenario.name: scenario
    for scenario in (
        Scenario("update", _update),
        Scenario("code-only", _code_only),
        Scenario("nothing", _nothing),
        Scenario("broken-update", _broken_update),
        Scenario("unhealthy", _unhealthy),
        Scenario("cancel", _update, cancel_at="databases.clone#1:after"),
        Scenario("recovery-after-clone", _update, dies_first="databases.clone#1:after"),
        Scenario("recovery-after-update", _update, dies_first="containers.run#2:after"),
        Scenario("recovery-of-rollback", _broken_update, dies_first="databases.put_back#1:after"),
        Scenario("first", _update, fresh=True),
        Scenario("recovery-of-first", _update, fresh=True, dies_first="databases.query#3:after"),
        Scenario("rollback-with-data", _rollback_with_data),
        Scenario("recovery-of-rollback-with-data", _rollback_with_data, dies_first="filestores.restore#1:during"),
        Scenario("recovery-of-complete", _update, dies_first="edge.open#1:before"),
        Scenario("update-engine-dies", _update, victim="engine"),
        Scenario("broken-update-engine-dies", _broken_update, victim="engine"),
        Scenario("update-containerd-dies", _update, victim="containerd"),
        Scenario("update-power-fails", _update, victim="power"),
        Scenario("broken-update-power-fails", _broken_update, victim="power"),
        Scenario("update-postgres-dies", _update, victim="postgres"),
        Scenario("broken-update-postgres-dies", _broken_update, victim="postgres"),
        *ERRANDS,
    )
}


def possible(world: World) -> list[str]:
    """Without those that kill an engine where it is not ours to kill."""
    return [name for name, one in SCENARIOS.items() if world.engine or one.victim in ("", "postgres", "edge")]
