"""From a push to a live Odoo: oCore beside the same commands typed by hand, in turns."""

from collections import defaultdict

from tests.bench.cast import Cast
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench push"
PHASES = {
    "build": "of which build",
    "snapshot": "of which stop and safety copy",
    "deploy": "of which update and start",
    "health_check": "of which health check",
    "complete": "of which complete",
}
BY_HAND = {"health_check": "health"}


def measure(cast: Cast, rounds: int) -> list[Figure]:
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        sides = [_through_ocore, _by_hand]
        for side in sides if number % 2 else reversed(sides):
            side(cast, samples)
        told = ", ".join(
            f"{what} {samples[what][-1]:.1f} s through oCore and {samples[f'{what}, by hand'][-1]:.1f} s by hand"
            for what in ("changed", "readme")
        )
        cast.progress.say(f"Round {number} of {rounds}: {told}")
    return _figures(samples)


def _through_ocore(cast: Cast, samples: dict[str, list[float]]) -> None:
    live = cast.push(cast.change())
    samples["changed"].append(live.seconds)
    samples["waited"].append(live.waited)
    samples["answered"].append(live.answered * 1000)
    for phase, seconds in live.phases.items():
        samples[phase].append(seconds)
    cast.settle()
    live = cast.push(cast.readme())
    samples["readme"].append(live.seconds)
    samples["readme build"].append(live.phases["build"])
    cast.settle()


def _by_hand(cast: Cast, samples: dict[str, list[float]]) -> None:
    seconds, phases = cast.push_by_hand(cast.change())
    samples["changed, by hand"].append(seconds)
    for phase, took in phases.items():
        samples[f"{phase}, by hand"].append(took)
    seconds, phases = cast.push_by_hand(cast.readme())
    samples["readme, by hand"].append(seconds)
    samples["readme build, by hand"].append(phases["build"])


def _figures(samples: dict[str, list[float]]) -> list[Figure]:
    def figure(name: str, key: str, unit: str = "s", *, by_hand: str = "", aim: str = "") -> Figure:
        baseline = samples.get(f"{by_hand or key}, by hand", [])
        return Figure(name, unit, tuple(samples[key]), COMMAND, tuple(baseline), aim)

    return [
        figure("push to live, addon changed", "changed", aim="+1 s"),
        figure("of which webhook and queue", "waited"),
        *(figure(name, phase, by_hand=BY_HAND.get(phase, phase)) for phase, name in PHASES.items()),
        figure("push to live, nothing that runs changed", "readme", aim="+1 s"),
        figure("build, one file changed", "build", aim="1.05"),
        figure("build, nothing changed", "readme build", aim="1.05"),
        figure("webhook's answer, deployment queued", "answered", "ms"),
    ]
