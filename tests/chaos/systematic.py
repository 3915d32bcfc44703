"""Every crash point of every scenario: recorded once, then each is died at, and all that must hold is looked at."""

import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.test import override_settings

from deployments import services
from deployments.models import Deployment, Snapshot
from deployments.states import Status
from instances.models import Incident
from tests.chaos.crashing import Crash, Meanwhile, die, recorded
from tests.chaos.engine import strike
from tests.chaos.errands import Errand
from tests.chaos.outside import Broken, ledger
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.world import CHAOS, World

Say = Callable[[str], None]


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - progress, for who watches with -s


@dataclass
class Tally:
    runs: int = 0
    unreached: int = 0
    failures: list[str] = field(default_factory=list)
    pushes: int = 1
    """After so many runs another push must go live. Each run but the first is itself a push after the run before."""


def points_of(world: World, scenario: Scenario | Errand) -> list[Crash]:
    """From a run in which nobody dies (but whom the scenario itself lets die)."""
    journal = world.folder / f"{scenario.name}.journal"
    journal.unlink(missing_ok=True)
    _play(world, scenario, None, journal)
    return recorded(journal, own=not scenario.victim)


def chosen(points: dict[str, list[Crash]], count: int, seed: int) -> Iterator[tuple[Scenario | Errand, Crash]]:
    """`count` of all points, 0 for all of them; spread over the scenarios, the same for the same seed."""
    dice = random.Random(seed)
    piles = {name: dice.sample(crashes, len(crashes)) for name, crashes in points.items()}
    left = count or sum(map(len, piles.values()))
    while left and any(piles.values()):
        for name, pile in piles.items():
            if pile and left:
                left -= 1
                yield SCENARIOS[name], pile.pop()


def attempt(world: World, scenario: Scenario | Errand, crash: Crash, tally: Tally, say: Say, seed: int) -> None:
    """One run; what is wrong is told with the line that repeats it. The world goes on from a good state."""
    began = time.monotonic()
    tally.runs += 1
    try:
        reached = _play(world, scenario, crash)
        if tally.runs % tally.pushes == 0:
            _next_push(world)
        tally.unreached += not reached
        say(
            f"{tally.runs:4} {scenario.name} {crash} {'' if reached else '(not reached) '}"
            f"{time.monotonic() - began:.1f} s"
        )
    except Exception as error:
        what = str(error) if isinstance(error, Broken) else traceback.format_exc()
        line = f'make chaos ONLY="{scenario.name} {crash}" SEED={seed}'
        tally.failures.append(f"{scenario.name} {crash}:\n{what}\n    {line}")
        say(f"{tally.runs:4} BROKEN {tally.failures[-1]}")
        _mend(world)


def _play(world: World, scenario: Scenario | Errand, crash: Crash | None, journal: Path | None = None) -> bool:
    """Whether the crash point was reached."""
    struck = world.folder / "struck"
    struck.unlink(missing_ok=True)
    # Hundreds of accidents within minutes would be given up, and rightly.
    Incident.objects.all().delete()
    what: dict[str, Any] = {"crash": crash} if crash else {}
    if crash and scenario.victim:
        what["strike"] = lambda: _strike(world, scenario.victim, struck)
    with world.elsewhere() if scenario.fresh else nullcontext():
        if isinstance(scenario, Errand):
            killed = _run_errand(world, scenario, journal, what)
        else:
            killed = _play_here(world, scenario, journal, what)
        return killed or struck.exists()


def _strike(world: World, victim: str, struck: Path) -> None:
    struck.touch()
    strike(world, victim)
    if victim == "power":
        die()


def _run_errand(world: World, errand: Errand, journal: Path | None, what: dict[str, Any]) -> bool:
    version = version_of(world.live)
    arguments = errand.prepare(world)
    version = version_of(world.live) or version
    world.queues.take()  # it is run here
    with override_settings(**errand.settings):
        horse = world.run(errand.job, *arguments, journal=journal, **what)
        world.queues.lose()  # Redis died with it
        _settle(world, keeping=True)
        errand.ended(world)
    world.start_writing()
    world.check_still("" if errand.fresh else version)
    world.tidy()
    return horse.killed


def _settle(world: World, *, keeping: bool = False) -> None:
    """Within a minute of things being back."""
    if world.engine:
        world.engine.wait_until_back()
    world.settle(keeping=keeping)


def _play_here(world: World, scenario: Scenario, journal: Path | None, what: dict[str, Any]) -> bool:
    old = version_of(world.live)
    deployment = scenario.request(world)
    world.queues.take()  # it is run here
    if scenario.cancel_at:
        what["meanwhile"] = Meanwhile(scenario.cancel_at, lambda: _cancel(deployment.pk))
    if scenario.dies_first:
        if not world.run("run_deployment", deployment.pk, crash=Crash(scenario.dies_first, 0.1)).killed:
            raise Broken(f"{scenario.dies_first} was not reached in {scenario.name}:\n{world.log_of(deployment)}")
        horse = world.run("recover_deployment", deployment.pk, journal=journal, **what)
    else:
        horse = world.run("run_deployment", deployment.pk, journal=journal, **what)
    world.queues.lose()  # Redis died with it
    # Where PostgreSQL or the edge died after the deployment was done with it, it is the keeper who brings it back.
    _settle(world, keeping=bool(scenario.victim))
    new = version_of(deployment.rollback_to) or f"19.0.1.0.{world.version}"
    if deployment.restores_id and Deployment.objects.get(pk=deployment.pk).status == Status.SUCCEEDED:
        _rebase(world, deployment)
    world.start_writing()
    world.check(deployment, old, new)
    world.tidy()
    return horse.killed


def version_of(deployment: Deployment | None) -> str:
    return str(deployment.addons["acme_notes"]["version"]) if deployment else ""


def _cancel(pk: int) -> None:
    with suppress(services.NotPossible):
        services.cancel(Deployment.objects.get(pk=pk), CHAOS)


def _rebase(world: World, deployment: Deployment) -> None:
    """The data of an earlier instant was asked for: what was accepted since is in the deployment's own snapshot."""
    kept = Snapshot.objects.get(deployment=deployment).database
    accepted = set(ledger(world.ledger_path))
    if lost := accepted - world.outside.notes(kept):
        raise Broken(f"{len(lost)} accepted writes are not in the snapshot before the rollback")
    restored = accepted & world.outside.notes(world.environment.database)
    world.ledger_path.write_text("".join(f"{title}\n" for title in restored))


def _next_push(world: World) -> None:
    """What must always be possible; from a good version, since the last push may have been a bad one."""
    old = version_of(world.live)
    world.commit_update()
    deployment = world.deploy()
    if deployment.status != Status.SUCCEEDED:
        raise Broken(f"the next push did not go live: {deployment.status} {deployment.error} {deployment.detail}")
    world.check(deployment, old, f"19.0.1.0.{world.version}")
    world.tidy()


def _mend(world: World) -> None:
    """After a failure: bring the world to a state in which other points can be tried."""
    Deployment.objects.filter(environment=world.environment, status=Status.QUEUED).delete()
    world.commit_update()
    Incident.objects.all().delete()
    world.remove_leftovers()
    services.request_deployment(world.environment, "manual", CHAOS, forced=True)  # type: ignore[arg-type]
    world.settle(keeping=True)
    world.tidy()
