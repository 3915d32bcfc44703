"""Every crash point once, in portions: what was recorded and tried is kept in a file, and the next portion goes on."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.crashing import Crash
from tests.chaos.errands import Errand
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.systematic import Say, chosen, points_of
from tests.chaos.world import World


class Sweep:
    def __init__(self, path: Path | None, minutes: float) -> None:
        """Without a path nothing is kept; without minutes it goes on to the end."""
        self._path = path
        self._deadline = time.monotonic() + minutes * 60 if minutes else float("inf")
        self._points: dict[str, list[str]] = {}
        self._tried: list[str] = []
        if path and path.exists():
            self._points, self._tried = json.loads(path.read_text())

    def points(
        self, world: World, names: list[str], count: int, seed: int, say: Say
    ) -> Iterator[tuple[Scenario | Errand, Crash]]:
        """`count` of those that were not tried yet, until time is up."""
        for name in names:
            if name not in self._points:
                self._points[name] = [str(crash) for crash in points_of(world, SCENARIOS[name])]
                self._keep()
                say(f"{name}: {len(self._points[name])} crash points")
        known = {name: [Crash.read(text) for text in self._points[name]] for name in names}
        every = [one for one in chosen(known, count, seed) if _key(*one) not in self._tried]
        while every:
            if time.monotonic() > self._deadline:
                say(f"{len(every)} points are left for the next portion")
                return
            scenario, crash = every.pop(0)
            yield scenario, crash
            self._tried.append(_key(scenario, crash))
            self._keep()
        say(f"all of the {len(self._tried)} points were tried")

    def _keep(self) -> None:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps([self._points, self._tried]))


def _key(scenario: Scenario | Errand, crash: Crash) -> str:
    return f"{scenario.name} {crash.point}"
