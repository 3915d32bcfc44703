"""A build that takes as long as builds usually do: a changed requirements.txt, by oCore and by hand, in turns."""

from tests.bench.cast import Cast
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench build"


def measure(cast: Cast, rounds: int) -> list[Figure]:
    ours: list[float] = []
    by_hand: list[float] = []

    def through_ocore() -> None:
        ours.append(cast.push(cast.requirements()).phases["build"])
        cast.settle()

    def typed() -> None:
        by_hand.append(cast.push_by_hand(cast.requirements())[1]["build"])

    through_ocore()
    typed()  # the first installs pip into a layer of its own, which the others reuse
    ours.clear()
    by_hand.clear()
    for number in range(1, rounds + 1):
        sides = [through_ocore, typed]
        for side in sides if number % 2 else reversed(sides):
            side()
        cast.progress.say(f"Round {number} of {rounds}: {ours[-1]:.1f} s through oCore and {by_hand[-1]:.1f} s by hand")
    return [Figure("build, a Python package to install", "s", tuple(ours), COMMAND, tuple(by_hand), aim="1.05")]
