"""What the commands about deployments share: naming an environment, who asks, and what the exit code says."""

import argparse
import logging
import os
import pwd
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db import OperationalError

from deployments import at_work, queues
from deployments.following import Follower, plain
from deployments.models import Deployment
from deployments.services import NotPossible, Who, superseded_words
from deployments.states import Status
from deployments.workforce import trouble
from ocore.errors import ExpectedError
from ocore.machine.progress import told
from projects.models import Environment, Project

EXIT_CODES = """exit codes:
  0    live; without --wait: queued
  1    failed and nothing was changed; also cancelled, superseded, refused, or nobody there to do it
  2    rolled back: the old version serves, with the data as it was
  3    a person must look: what was changed could not be put back
  130  Ctrl-C: stopped watching, the deployment goes on
"""
INTERRUPTED = 130
PIPE_CLOSED = 141
"""As a program that SIGPIPE ends."""
ALONE_SECONDS = 15.0
"""So long `--wait` waits for a worker where there is none: one that was killed is back within seconds."""


def exit_code(status: str) -> int:
    if status == Status.SUCCEEDED:
        return 0
    return {Status.ROLLED_BACK: 2, Status.ROLLBACK_FAILED: 3}.get(Status(status), 1)


def shell_account() -> Who:
    """Whoever sits at this shell, also behind sudo."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER", "")
    return Who(f"{behind} (as {name})" if behind and behind != name else name)


def find_project(slug: str) -> Project:
    """Raises `NotPossible` with the names that come near."""
    project = Project.objects.filter(slug=plain(slug)).first()
    if project is None:
        raise NotPossible(
            f"There is no project “{plain(slug)}”.",
            advice=_near(slug, list(Project.objects.values_list("slug", flat=True))),
        )
    return project


def find_environment(path: str) -> Environment:
    """By `project/environment`. Raises `NotPossible` with the names that come near."""
    project, _, slug = plain(path).partition("/")
    rows = Environment.objects.select_related("project", "server")
    environment = rows.filter(project__slug=project, slug=slug).first()
    if environment is None:
        paths = ["/".join(pair) for pair in Environment.objects.values_list("project__slug", "slug")]
        raise NotPossible(f"There is no environment “{plain(path)}”.", advice=_near(path, paths))
    return environment


def _near(name: str, names: list[str]) -> str:
    if not names:
        return "There is none yet: create one in the admin."
    inside = [one for one in names if name and name in one.split("/")]
    near = get_close_matches(name, names, n=3, cutoff=0.5) or inside[:3]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    shown = ", ".join(sorted(names)[:8])
    return f"There is: {shown}{', ...' if len(names) > 8 else ''}."


class PortalCommand(BaseCommand):
    """A command whose expected failures are told without a traceback, with exit code 1."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs.setdefault("epilog", EXIT_CODES)
        parser = super().create_parser(prog_name, subcommand, formatter_class=_Help, **kwargs)
        # argparse ends with 2 after a wrong argument, and that says “rolled back” here.
        parser.exit = _exit  # type: ignore[method-assign]
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        # What Redis answers is told in a sentence (`tell_trouble`), not as a line of log between the others.
        log = logging.getLogger(queues.__name__)
        log.disabled = True
        try:
            told_all = super().execute(*args, **options)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read it has had enough (`| head`); what Python flushes at its end goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(PIPE_CLOSED)
        except ExpectedError as error:
            raise CommandError(told(error)) from error
        except OperationalError as error:
            raise CommandError(
                f"oCore's database cannot be used: {error}\nStart oCore with `make up`; that also creates its tables."
            ) from error
        else:
            return told_all
        finally:
            log.disabled = False

    def tell_queued(self, deployment: Deployment) -> None:
        """What was queued, what that put out of the queue, and whether anybody is there to take it."""
        self.stdout.write(introduce(deployment))
        superseded = plain(superseded_words(deployment))
        if superseded:
            self.stdout.write(superseded)
        locked = plain(at_work.why_locked(deployment.environment))
        if locked:
            self.stdout.write(f"It waits: {locked}")
        self.tell_trouble(f"Queued as #{deployment.pk}, but")

    def tell_trouble(self, but: str) -> None:
        found = trouble()
        if found:
            self.stdout.write(f"{but} {found.reason}. {found.advice}.")

    def watch(self, deployment: Deployment) -> None:
        """Follow it to its end, and leave with the exit code that says how it ended."""
        try:
            ended = Follower(
                deployment,
                self.stdout.write,
                colours=self.colours,
                live=self.stdout.isatty(),
                patience=ALONE_SECONDS,
            ).follow()
        except KeyboardInterrupt:
            self.stdout.write(
                f"\nStopped watching. {deployment} goes on; see it with: "
                f"./manage.py status {deployment.environment.path}\nTo cancel it: ./manage.py cancel {deployment.pk}"
            )
            sys.exit(INTERRUPTED)
        code = exit_code(ended.status)
        if code:
            sys.exit(code)

    @property
    def colours(self) -> bool:
        """As Django decides it: a terminal that has them, NO_COLOR, --no-color, --force-color."""
        return bool(self.style.ERROR("x") != "x")


class _Help(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The table of exit codes keeps its lines."""


def _exit(status: int = 0, message: str | None = None) -> NoReturn:
    if message:
        sys.stderr.write(message)
    sys.exit(1 if status else 0)


def introduce(deployment: Deployment) -> str:
    """The line that says what was queued."""
    what = plain(deployment.ref) or "plain Odoo"
    if deployment.rollback_to_id:
        what = f"back to #{deployment.rollback_to_id}"
    elif deployment.commit and deployment.commit != deployment.ref:
        what = f"{what} at {deployment.short_commit}"
    if deployment.retries_id:
        what = f"#{deployment.retries_id} again, {what}"
    return f"#{deployment.pk} {deployment.environment}: {what}, queued by {plain(deployment.requester)}"
