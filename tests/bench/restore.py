"""The safety copy and the way back, at several sizes: oCore's beside pg_dump, pg_restore and cp typed by hand."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from deployments.models import Snapshot
from deployments.run import Run
from deployments.steps import planning, snapshot
from instances import templates
from instances.runtimes import runtime_for
from instances.runtimes.base import aside_name
from projects.models import Environment
from tests.bench import sized
from tests.bench.cast import BenchFailed, Cast
from tests.bench.holding import hold
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench restore"
ROUNDS = 3
BIG = 2000
"""MB, from which one round has to do: by hand it takes minutes."""
ENOUGH_SECONDS = 120.0
"""At one size, after which no further round begins: on a slow machine too the bench comes to an end."""
AIMED_AT = 1000
"""MB, at which going back is to take at most a twentieth."""

Samples = Mapping[tuple[str, int], Sequence[float]]
"""By what was done and the database's MB: the seconds that it took."""


def measure(cast: Cast, rounds: int, sizes: Sequence[int]) -> list[Figure]:
    """Of databases of so many MB."""
    samples: dict[tuple[str, int], list[float]] = defaultdict(list)
    left_out: list[Figure] = []
    for megabytes in sorted(sizes):
        free = runtime_for(cast.environment.server).facts().disk_free_bytes
        needed = sized.needed_bytes(megabytes)
        if free < needed:
            cast.progress.say(f"{sized.label(megabytes)} is left out: it needs {needed / 1e9:.0f} GB of free disk.")
            left_out.append(no_room(megabytes, free, needed))
            continue
        began = time.monotonic()
        with sized.sized(cast, megabytes) as environment:
            for number in range(1, rounds_at(megabytes, rounds) + 1):
                if number > 1 and time.monotonic() - began > ENOUGH_SECONDS:
                    break
                sides = [_through_ocore, _by_hand]
                for side in sides if number % 2 else reversed(sides):
                    side(cast, environment, megabytes, samples)
                cast.progress.say(f"{sized.label(megabytes)}, round {number}: {_told(samples, megabytes)}")
    return [*figures(samples), *left_out]


def rounds_at(megabytes: int, rounds: int) -> int:
    return 1 if megabytes >= BIG else min(rounds, ROUNDS)


def no_room(megabytes: int, free: int, needed: int) -> Figure:
    name = f"{sized.label(megabytes)} left out: free disk, and what it needs"
    return Figure(name, "GB", (free / 1e9,), COMMAND, aim=f"{needed / 1e9:.0f} GB")


def figures(samples: Samples) -> list[Figure]:
    """What was measured at each size, and how many times longer it takes at the largest than at the smallest."""
    done = sorted({megabytes for _, megabytes in samples})
    found = []
    for what in ("snapshot", "rollback"):
        for size in done:
            name = f"{what}, {sized.label(size)}"
            aim = "ratio 0.05" if (what, size) == ("rollback", AIMED_AT) else ""
            ours, by_hand = samples[what, size], samples[f"{what}, by hand", size]
            found.append(Figure(name, "s", tuple(ours), COMMAND, tuple(by_hand), aim))
    if len(done) > 1:
        growth = f"{sized.label(done[-1])} beside {sized.label(done[0])}"
        for what, aim in (("snapshot", ""), ("rollback", "1 times")):
            least, most = (
                next(one for one in found if one.name == f"{what}, {sized.label(at)}") for at in (done[0], done[-1])
            )
            by_hand = (most.baseline or 0) / (least.baseline or 1)
            found.append(Figure(f"{what}, {growth}", "times", (most.value / least.value,), COMMAND, (by_hand,), aim))
    return found


def _through_ocore(
    cast: Cast, environment: Environment, megabytes: int, samples: dict[tuple[str, int], list[float]]
) -> None:
    """As the snapshot step does it behind the closed door, and as the undo of the deploy step does, checks included."""
    runtime = runtime_for(environment.server)
    base = templates.image_id(runtime, environment.base_image)
    with hold(environment, base_image_id=base) as run:
        planning.plan(run)
        kept = _row(run)
        cast.by_hand.settle()
        began = time.monotonic()
        snapshot.take(run, kept)
        samples["snapshot", megabytes].append(time.monotonic() - began)
        sized.update(environment)
        cast.by_hand.settle()
        began = time.monotonic()
        snapshot.put_back(run, kept)
        samples["rollback", megabytes].append(time.monotonic() - began)
        runtime.databases.drop(aside_name(environment.database))
        runtime.filestores.discard(environment.volume, kept.label)


def _row(run: Run) -> Snapshot:
    pk = run.deployment.pk
    return Snapshot.objects.create(
        environment=run.environment,
        deployment=run.deployment,
        database=f"{run.environment.database}__s{pk}",
        label=f"s{pk}",
    )


def _by_hand(cast: Cast, environment: Environment, megabytes: int, samples: dict[tuple[str, int], list[float]]) -> None:
    database, volume = environment.database, environment.volume
    before = _state(environment)
    cast.by_hand.settle()
    samples["snapshot, by hand", megabytes].append(cast.by_hand.dump(database, volume))
    sized.update(environment)
    cast.by_hand.settle()
    samples["rollback, by hand", megabytes].append(cast.by_hand.restore(database, volume))
    if _state(environment) != before:
        raise BenchFailed(f"What pg_restore and cp have made of {environment} is not what there was.")


def _state(environment: Environment) -> tuple[str, str]:
    """What oCore compares after a rollback."""
    runtime = runtime_for(environment.server)
    fingerprint = runtime.databases.query(environment.database, snapshot.FINGERPRINT_SQL)[0][0]
    return fingerprint, runtime.filestores.facts(environment.volume, environment.database).sha256


def _told(samples: Samples, megabytes: int) -> str:
    return ", ".join(
        f"{what} {samples[what, megabytes][-1]:.1f} s through oCore and "
        f"{samples[f'{what}, by hand', megabytes][-1]:.1f} s by hand"
        for what in ("snapshot", "rollback")
    )
