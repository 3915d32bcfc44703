"""What 50 requests a second notice of a push, of one that is taken back, and of a restart: oCore beside what people do
today, and beside the choreography typed by hand, in turns."""

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from django.conf import settings

from instances.runtimes import runtime_for
from tests.bench import clients, sides
from tests.bench.by_hand import Choreography
from tests.bench.cast import BenchFailed, Cast, addon
from tests.bench.clients import Aim, Request, longest_wait
from tests.bench.report import Figure
from tests.bench.sides import Phases, Side
from tests.git_remote import GitRemote

COMMAND = ".venv/bin/python -m tests.bench traffic"
ROUNDS = 2
CASES = {
    "code": "push of code alone",
    "update": "push that updates a module",
    "failing": "push that is taken back",
    "restart": "restart",
}
OURS, COMPOSE, BESIDE = "oCore", "stop and start", "choreography"


class WritesLost(BenchFailed):
    """What was answered with success and what is in the database are not the same."""


@dataclass(frozen=True)
class Measured:
    requests: tuple[Request, ...]
    accepted: int
    """Writes that were answered with success."""
    found: int
    """How many of these are in the database afterwards."""
    unanswered: int
    """Writes that are there though no client was told so."""
    phases: Phases = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(not one.ok for one in self.requests)

    @property
    def waits(self) -> list[float]:
        return [one.seconds for one in self.requests if one.ok]


Reading = Callable[[Measured], float]


def measure(cast: Cast, rounds: int, rate: int) -> list[Figure]:
    found: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    with sides.only_versions_count(cast.environment):
        everybody = [sides.through_ocore(cast), sides.typed(COMPOSE, cast.by_hand), sides.typed(BESIDE, _beside(cast))]
        for number in range(min(rounds, ROUNDS)):
            for case, what in CASES.items():
                for side in everybody[number % 3 :] + everybody[: number % 3]:
                    found[case, side.name].append(_one(cast, side, case, rate))
                for name in (OURS, COMPOSE, BESIDE):
                    cast.progress.say(f"{what.capitalize()}, {name}: {_told(found[case, name][-1])}")
    return [
        figure for case in CASES for figure in figures(case, *[found[case, name] for name in (OURS, COMPOSE, BESIDE)])
    ]


def _beside(cast: Cast) -> Choreography:
    """The twin's twin, as it was pushed first."""
    twin = cast.by_hand.remote
    remote = GitRemote(twin.path.with_name("beside.git"))
    remote.commit("Notes", addon())
    version = settings.OCORE_DEFAULTS["odoo_version"]
    made = Choreography(twin.path.parent.with_name("beside"), remote, settings.OCORE_ODOO_IMAGE.format(version=version))
    with cast.progress.step("Installing the same by hand, behind an edge of its own"):
        made.install(runtime_for(cast.environment.server), version)
    return made


def _one(cast: Cast, side: Side, case: str, rate: int) -> Measured:
    cast.by_hand.settle()
    prefix = f"{case}-{secrets.token_hex(4)}"
    with clients.at_work(Aim(side.port, side.host, side.log_in(), prefix, rate)) as seen:
        phases = side.acts[case]()
    if side.name == OURS:
        cast.settle()
    titles = runtime_for(cast.environment.server).databases.query(side.database, "SELECT title FROM acme_note")
    found = [row[0] for row in titles if row[0].startswith(f"{prefix}-")]
    return replace(compare(side.name, seen.requests, found), phases=phases)


def compare(name: str, requests: Sequence[Request], found: Sequence[str]) -> Measured:
    """Raises `WritesLost` unless every write that was answered with success is found once, and each only once."""
    accepted = {one.title for one in requests if one.ok and one.title}
    lost = sorted(accepted - set(found))
    twice = sorted(title for title, times in Counter(found).items() if times > 1)
    if not accepted or lost or twice:
        raise WritesLost(
            f"{name}: {len(accepted)} writes were answered with success, of which {len(lost)} are not found; "
            f"{len(twice)} are found twice.",
            detail="\n".join([*(f"lost: {one}" for one in lost[:50]), *(f"twice: {one}" for one in twice[:50])]),
        )
    there = len(accepted & set(found))
    return Measured(tuple(requests), len(accepted), there, len(set(found) - accepted))


def _told(measured: Measured) -> str:
    reasons = Counter(one.said for one in measured.requests if not one.ok)
    why = f" ({', '.join(f'{times} {said}' for said, times in reasons.most_common(3))})" if reasons else ""
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in measured.phases.items())
    waited = f"longest wait {longest_wait(measured.requests):.1f} s"
    return f"{measured.failed} of {len(measured.requests)} failed{why}, {waited} ({phases})"


def figures(
    case: str, ours: Sequence[Measured], compose: Sequence[Measured], beside: Sequence[Measured]
) -> list[Figure]:
    what = CASES[case]

    def each(name: str, unit: str, of: Reading, aim: str = "", other: Sequence[Measured] = compose) -> Figure:
        return Figure(f"{what}: {name}", unit, tuple(map(of, ours)), COMMAND, tuple(map(of, other)), aim)

    def spread(name: str, quantile: float) -> Figure:
        waits = [tuple(1000 * wait for one in side for wait in one.waits) for side in (ours, compose)]
        return Figure(f"{what}: {name}", "ms", waits[0], COMMAND, waits[1], quantile=quantile)

    return [
        each("failed requests", "requests", lambda one: one.failed, "0"),
        each("failed requests, beside the choreography", "requests", lambda one: one.failed, "0", beside),
        each("longest wait", "s", lambda one: longest_wait(one.requests)),
        each("longest wait, beside the choreography", "s", lambda one: longest_wait(one.requests), "ratio 1", beside),
        spread("wait, median", 0.5),
        spread("wait, 99th percentile", 0.99),
        each("writes answered with success", "writes", lambda one: one.accepted),
        each("of these found afterwards", "writes", lambda one: one.found),
        each("of these lost", "writes", lambda one: one.accepted - one.found, "0"),
        each("writes done though the client was told otherwise", "writes", lambda one: one.unanswered),
    ]
