"""How long a step may take in all, and how long without a word; past either it is ended as by a cancellation."""

import time

from django.conf import settings

from deployments.states import StepKind
from ocore.errors import ExpectedError

LAST_LINES = 20


class TookTooLong(ExpectedError):
    """A step, or the whole deployment, went past its deadline. What was running has been ended; `detail` has its last
    words."""


class StepClock:
    """Watches one step. What it says puts off the deadline for silence, and nothing puts off the one in all."""

    def __init__(self, kind: StepKind) -> None:
        self._kind = kind
        self._began = self._heard = time.monotonic()
        self._words: list[str] = []

    def hear(self, text: str) -> None:
        if text.strip():
            self._heard = time.monotonic()
            self._words = [*self._words, *text.splitlines()][-LAST_LINES:]

    def check(self) -> None:
        """Raises `TookTooLong`."""
        total, silence = settings.OCORE_DEADLINES[self._kind]
        now = time.monotonic()
        if now - self._began > total:
            raise self._late(f"took longer than {total:g} s")
        if now - self._heard > silence:
            raise self._late(f"said nothing for {silence:g} s")

    def _late(self, how: str) -> TookTooLong:
        total, silence = settings.OCORE_DEADLINES[self._kind]
        ago = f"{time.monotonic() - self._heard:.0f} s ago"
        return TookTooLong(
            f"The step “{self._kind.label}” {how} and was ended.",
            detail="\n".join([f"Its last words, {ago}:", *self._words]) if self._words else "It had said nothing yet.",
            advice="See in its last words what it was at. If that only needs more time, raise its deadline: "
            f"OCORE_DEADLINES={self._kind}={total:g}/{silence:g} (seconds in all / of silence) is what holds now.",
        )
