"""How long a git host waits for the webhook's answer."""

from tests.bench.cast import BenchFailed, Cast, deliver
from tests.bench.report import Figure

COMMAND = ".venv/bin/python -m tests.bench webhook"
DELIVERIES = 200
UNMAPPED = "nobody-deploys-this"


def measure(cast: Cast, _rounds: int) -> list[Figure]:
    """Signed pushes to a branch that no environment is mapped to: verified, stored and decided, but nothing queued."""
    before, samples = "0" * 40, []
    for number in range(DELIVERIES):
        after = f"{number:040x}"
        call = deliver(cast.environment.project, UNMAPPED, before, after)
        if call.status != 200:
            raise BenchFailed(f"The webhook answered {call.status}: {call.content}")
        samples.append(call.seconds * 1000)
        before = after
    name = f"webhook's answer, {DELIVERIES} deliveries"
    return [
        Figure(f"{name}, median", "ms", tuple(samples), COMMAND),
        Figure(f"{name}, 99th percentile", "ms", tuple(samples), COMMAND, quantile=0.99),
    ]
