"""`python -m tests.bench [BENCH ...]`: measure, print a table each,
write `bench/<name>.json` in the state folder, and leave nothing else behind."""

import argparse
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import surroundings

if TYPE_CHECKING:
    from ocore.machine.progress import Progress
    from tests.bench.report import Figure

BENCHES = (
    "push",
    "build",
    "door",
    "traffic",
    "limiter",
    "webhook",
    "intake",
    "rollback",
    "restore",
    "guard",
    "schedule",
)
ALONE = {"intake"}
"""Those that need neither a portal nor an engine."""
SIZES = (35, 1000, 5000)

NEEDED = ("bash", "curl", "docker", "git")


def main() -> int:
    chosen = arguments(sys.argv[1:])
    results = surroundings.results_folder()
    state = surroundings.enter(results)
    import django

    django.setup()
    from ocore.errors import ExpectedError
    from ocore.machine.progress import Progress, told
    from tests.bench.by_hand import ByHandFailed
    from tests.bench.intake import IntakeWrong

    alone = set(chosen.benches or BENCHES) <= ALONE
    missing = [program for program in NEEDED if shutil.which(program) is None and not alone]
    if missing:
        sys.stderr.write(f"The baseline needs {', '.join(missing)} on this machine.\n")
        return 1
    progress = Progress()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with surroundings.only_one(results):
            try:
                surroundings.clean(state, engine=not alone)
                (_measure_alone if alone else _measure)(progress, chosen, results, state)
            except BaseException:
                surroundings.keep_logs(state, results)
                raise
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                with progress.step("Removing what the bench has made"):
                    surroundings.clean(state, engine=not alone)
    except KeyboardInterrupt:
        progress.say("Interrupted.")
        return 130
    except ExpectedError as error:
        progress.say(told(error))
        return 1
    except (ByHandFailed, IntakeWrong, surroundings.PortalDown) as error:
        progress.say(str(error))
        return 1
    return 0


def _measure(progress: "Progress", chosen: argparse.Namespace, results: Path, state: Path) -> None:
    from tests.bench import (
        build,
        cast,
        door,
        guard,
        intake,
        limiter,
        push,
        restore,
        rollback,
        schedule,
        traffic,
        webhook,
    )

    measures = {
        "push": push.measure,
        "build": build.measure,
        "door": door.measure,
        "traffic": partial(traffic.measure, rate=chosen.rate),
        "limiter": limiter.measure,
        "webhook": webhook.measure,
        "intake": lambda _, rounds: intake.measure(state, rounds),
        "rollback": rollback.measure,
        "restore": partial(restore.measure, sizes=chosen.sizes),
        "guard": guard.measure,
        "schedule": schedule.measure,
    }
    with contextlib.ExitStack() as stack:
        with progress.step("Starting a portal"):
            stack.enter_context(surroundings.Portal(state))
        everybody = cast.assemble(state, progress)
        for name in chosen.benches or BENCHES:
            progress.say(f"Measuring: {name}")
            _tell(progress, measures[name](everybody, chosen.rounds), results, name)


def _measure_alone(progress: "Progress", chosen: argparse.Namespace, results: Path, state: Path) -> None:
    from tests.bench import intake

    progress.say("Measuring: intake")
    _tell(progress, intake.measure(state, chosen.rounds), results, "intake")


def _tell(progress: "Progress", figures: "list[Figure]", results: Path, name: str) -> None:
    from tests.bench import report

    report.write(figures, results / f"{name}.json")
    progress.say(f"{results / name}.json")
    sys.stdout.write("\n" + report.table(figures) + "\n")
    sys.stdout.flush()


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"of: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each push is measured (default: 5)")
    parser.add_argument(
        "--rate", type=int, default=50, help="requests a second of traffic; less on a machine at work (default: 50)"
    )
    parser.add_argument(
        "--sizes", type=_sizes, default=SIZES, help="MB of the databases of restore (default: 35,1000,5000)"
    )
    chosen = parser.parse_args(words)
    unknown = set(chosen.benches) - set(BENCHES)
    if unknown or chosen.rounds < 1 or chosen.rate < 1:
        parser.error(f"there is no bench {', '.join(unknown)}" if unknown else "at least one round, of one request")
    return chosen


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(sorted({int(part) for part in text.split(",")}))
    if sizes[0] < 1:
        raise ValueError
    return sizes


if __name__ == "__main__":
    sys.exit(main())
