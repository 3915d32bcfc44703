"""A person goes back to the version before, with its data: oCore beside the same commands typed by hand, in turns."""

import time

from deployments import services
from deployments.services import Who
from tests.bench.cast import Cast
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench rollback"
ROUNDS = 2


def measure(cast: Cast, rounds: int) -> list[Figure]:
    ours: list[float] = []
    by_hand: list[float] = []
    for number in range(1, min(rounds, ROUNDS) + 1):
        sides = [lambda: ours.append(_through_ocore(cast)), lambda: by_hand.append(_by_hand(cast))]
        for side in sides if number % 2 else reversed(sides):
            side()
        cast.progress.say(f"Rollback {number}: {ours[-1]:.1f} s through oCore and {by_hand[-1]:.1f} s by hand")
    return [Figure("rollback with data", "s", tuple(ours), COMMAND, tuple(by_hand))]


def _through_ocore(cast: Cast) -> float:
    """To what was live before, as it was then; the next one comes back again."""
    cast.push(cast.change())
    cast.settle()
    began, clock = time.monotonic(), time.time()
    deployment = services.roll_back(cast.environment, Who("ann"), with_data=True)
    seconds = cast.follow(deployment, began, clock).seconds
    cast.settle()
    return seconds


def _by_hand(cast: Cast) -> float:
    cast.push_by_hand(cast.change())
    return cast.by_hand.roll_back(cast.by_hand.pushes).seconds
