"""A deployment's progress at a terminal or in a log: steps, durations and output, as they happen."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from django.utils import timezone

from deployments import schedule
from deployments.models import Deployment, LogChunk, Step
from deployments.run import STALE
from deployments.services import NotPossible
from deployments.states import Status, StepStatus
from deployments.workforce import Trouble, trouble

POLL_SECONDS = 0.3
SILENCE_SECONDS = 15.0
"""After so long without a line, one says what is still going on."""
LOOK_SECONDS = 3.0
"""Between two looks whether there is anybody who takes it."""
SETTLE_SECONDS = 3.0
"""The last step's log and end are written just after the deployment's own."""
_ESCAPES = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]?")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MARKS = {
    StepStatus.SUCCEEDED: "✓",
    StepStatus.SKIPPED: "–",
    StepStatus.FAILED: "✗",
    StepStatus.UNDONE: "↶",
}


def plain(text: str, *, colours: bool = False) -> str:
    """Fit for a terminal, whatever a build printed: no escape sequence gets through except, if wanted, for colours."""

    def keep(match: re.Match[str]) -> str:
        return match[0] if colours and _COLOURS.fullmatch(match[0]) else ""

    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    cleaned = _ESCAPES.sub(keep, "\n".join(lines))
    return "".join(one for one in cleaned if one in "\n\t\x1b" or one.isprintable())


class Follower:
    """Tells a deployment's steps, their durations and logs as they happen; plain lines unless `live`."""

    def __init__(
        self,
        deployment: Deployment,
        write: Callable[..., Any],
        *,
        colours: bool = False,
        live: bool = False,
        patience: float | None = None,
    ) -> None:
        """`patience`: seconds for which nobody may be there who works on it; None: for ever."""
        self._pk = deployment.pk
        self._write = write
        self._colours = colours
        self._live = live
        self._patience = patience
        self._trouble: Trouble | None = None
        self._alone_since: float | None = None
        self._looked_at = -LOOK_SECONDS
        self._offset = 0
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._undone: set[int] = set()
        self._said_at = time.monotonic()
        self._line = ""

    def follow(self) -> Deployment:
        """Returns the deployment in its final status. Raises `NotPossible` when the patience is over."""
        final_since: float | None = None
        while True:
            deployment = self._load()
            steps = self._tell_news()
            running = [step for step in steps if step.status == StepStatus.RUNNING]
            if deployment.final:
                final_since = final_since or time.monotonic()
                if not running or time.monotonic() - final_since > SETTLE_SECONDS:
                    self._tell_end(deployment)
                    return deployment
            self._look_for_workers(deployment)
            self._tell_waiting(deployment, running)
            time.sleep(POLL_SECONDS)

    def _look_for_workers(self, deployment: Deployment) -> None:
        now = time.monotonic()
        beating = deployment.heartbeat_at is not None and timezone.now() - deployment.heartbeat_at < STALE
        if deployment.final or (beating and deployment.status != Status.QUEUED):
            self._trouble = self._alone_since = None
            return
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._trouble = trouble()
        if self._trouble is None:
            self._alone_since = None
            return
        self._alone_since = now if self._alone_since is None else self._alone_since
        if self._patience is not None and now - self._alone_since >= self._patience:
            self._clear()
            queued = deployment.status == Status.QUEUED
            cancel = f" Or take it out of the queue: ./manage.py cancel {deployment.pk}" if queued else ""
            raise NotPossible(
                f"{deployment} stays {deployment.get_status_display().lower()}: for {self._patience:.0f} s "
                f"nobody has worked on it. {self._trouble}",
                advice=f"{self._trouble.advice}. It goes on by itself then.{cancel}",
            )

    def _load(self) -> Deployment:
        return Deployment.objects.select_related("environment__project", "environment__server", "superseded_by").get(
            pk=self._pk
        )

    def _tell_news(self) -> list[Step]:
        steps = list(Step.objects.filter(deployment=self._pk))
        chunks = list(
            LogChunk.objects.filter(step__deployment=self._pk, pk__gt=self._offset)
            .select_related("step")
            .order_by("pk")
        )
        for step in steps:
            if step.pk not in self._begun:
                self._begun.add(step.pk)
                self._say(f"▸ {step.get_kind_display()}")
            for chunk in (one for one in chunks if one.step_id == step.pk):
                self._log(chunk.text)
            self._tell_step_end(step)
        if chunks:
            self._offset = chunks[-1].pk
        return steps

    def _tell_step_end(self, step: Step) -> None:
        if step.status == StepStatus.UNDONE and step.pk in self._ended and step.pk not in self._undone:
            self._undone.add(step.pk)
            self._say(f"  {MARKS[StepStatus.UNDONE]} {step.get_kind_display()}: taken back")
        if step.status == StepStatus.RUNNING or step.pk in self._ended:
            return
        self._ended.add(step.pk)
        outcome = plain(step.outcome).strip().replace("\n", " ") or step.get_status_display()
        if step.status == StepStatus.UNDONE:
            self._undone.add(step.pk)
            outcome = f"{outcome.rstrip('.')}; taken back"
        self._say(f"  {MARKS[StepStatus(step.status)]} {step.get_kind_display()}: {outcome} ({step.seconds:.1f} s)")

    def _log(self, text: str) -> None:
        for line in plain(text, colours=self._colours).splitlines():
            reset = "\x1b[0m" if "\x1b" in line else ""
            self._say(f"    {line.rstrip()}{reset}")

    def _say(self, text: str) -> None:
        self._clear()
        self._write(text)
        self._said_at = time.monotonic()

    def _tell_waiting(self, deployment: Deployment, running: list[Step]) -> None:
        """What it is at, on the terminal's last line; in a log, a line when it has been silent for long."""
        step = running[-1] if running else None
        what = f"{step.get_kind_display()}, {step.seconds:.0f} s" if step else self._queued(deployment)
        if self._live:
            self._clear()
            self._line = f"… {what}"
            self._write(self._line, ending="")
            sys.stdout.flush()
        elif time.monotonic() - self._said_at > SILENCE_SECONDS:
            self._say(f"  … still {what}")

    def _queued(self, deployment: Deployment) -> str:
        if deployment.status != Status.QUEUED:
            return deployment.get_status_display().lower()
        seconds = (timezone.now() - deployment.created_at).total_seconds()
        why = f": {self._trouble.reason}" if self._trouble else ""
        return f"queued for {seconds:.0f} s. {schedule.why_waiting(deployment).rstrip('.')}{why}"

    def _clear(self) -> None:
        if self._line:
            self._write("\r\x1b[2K", ending="")
            self._line = ""

    def _tell_end(self, deployment: Deployment) -> None:
        took = f" after {deployment.seconds:.1f} s" if deployment.seconds is not None else ""
        if deployment.status == Status.SUCCEEDED:
            self._say(f"Live at {deployment.environment.url}{took}")
            return
        self._say(f"{plain(deployment.outcome)}{took}")
        for text in (deployment.error, deployment.advice):
            for line in plain(text).strip().splitlines():
                self._say(f"  {line}")
