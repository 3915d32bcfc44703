"""What clients notice of an update: oCore's door beside the same commands typed by hand, in turns."""

from tests.bench.cast import Cast
from tests.bench.report import Figure
from tests.real.writer import Attempt, Writer

COMMAND = ".venv/bin/python -m tests.bench door"
ROUNDS = 2
WRITES_PER_SECOND = 10


def measure(cast: Cast, rounds: int) -> list[Figure]:
    """A client writes ten times a second, whatever became of its earlier requests, while a changed addon goes live."""
    ours: list[list[Attempt]] = []
    by_hand: list[list[Attempt]] = []
    for number in range(1, min(rounds, ROUNDS) + 1):
        sides = [lambda: ours.append(_through_ocore(cast)), lambda: by_hand.append(_by_hand(cast))]
        for side in sides if number % 2 else reversed(sides):
            side()
        told = [f"{longest_wait(side[-1]):.1f} s and {failures(side[-1])} failed requests" for side in (ours, by_hand)]
        cast.progress.say(f"Update {number}: {told[0]} through oCore, {told[1]} by hand")
    return [
        Figure(
            "longest wait of a client during an update",
            "s",
            tuple(map(longest_wait, ours)),
            COMMAND,
            tuple(map(longest_wait, by_hand)),
        ),
        Figure(
            "failed requests during an update",
            "requests",
            tuple(map(failures, ours)),
            COMMAND,
            tuple(map(failures, by_hand)),
            aim="0",
        ),
    ]


def _through_ocore(cast: Cast) -> list[Attempt]:
    with Writer(cast.url, cast.environment.hostname, per_second=WRITES_PER_SECOND) as writer:
        cast.push(cast.change())
    cast.settle()
    return writer.attempts


def _by_hand(cast: Cast) -> list[Attempt]:
    with Writer(cast.by_hand.url, cast.by_hand.host, per_second=WRITES_PER_SECOND) as writer:
        cast.push_by_hand(cast.change())
    return writer.attempts


def failures(attempts: list[Attempt]) -> int:
    return sum(attempt.status != 201 for attempt in attempts)


def longest_wait(attempts: list[Attempt]) -> float:
    """For how long a client that keeps asking got nothing, at most: from a request that was held, or from the first of
    those that failed in a row, to the next success. Seconds."""
    longest, since = 0.0, None
    for attempt in sorted(attempts, key=lambda attempt: attempt.started):
        since = attempt.started if since is None else since
        if attempt.status == 201:
            longest = max(longest, attempt.started + attempt.seconds - since)
            since = None
    return longest
