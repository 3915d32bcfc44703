"""`manage.py maintenance acme/production`: keep its clients out with a page, or let them in again."""

from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.dateparse import parse_datetime

from deployments import keep_out
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_environment, shell_account
from instances import maintenance
from projects.models import Environment

EXIT_CODES = """exit codes:
  0  set, or ended
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Answer an environment's clients with a maintenance page, at once; deployments go on and leave it as it is."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        parser.add_argument("--text", default="", help="What clients read.")
        end = parser.add_mutually_exclusive_group()
        end.add_argument("--until", metavar="WHEN", help="It ends by itself then: 2026-05-01T14:30, in UTC.")
        end.add_argument("--minutes", type=float, help="It ends by itself after so many.")
        end.add_argument("--end", action="store_true", help="Let the clients in again, now.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        who = shell_account().name
        if options["end"]:
            maintenance.end(environment, who)
            self.stdout.write(f"The clients of {environment} are let in again.")
        else:
            self._begin(environment, who, options)
        problem = keep_out.tell(environment)
        if problem:
            self.stdout.write(problem)

    def _begin(self, environment: Environment, who: str, options: dict[str, Any]) -> None:
        until = _end(options)
        maintenance.begin(environment, who, text=options["text"], until=until)
        when = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "until it is ended"
        self.stdout.write(
            f"{environment} is in maintenance {when}. To end it: ./manage.py maintenance {environment.path} --end"
        )


def _end(options: dict[str, Any]) -> datetime | None:
    if options["minutes"] is not None:
        if not 0 < options["minutes"] <= 366 * 24 * 60:
            raise NotPossible(f"It cannot end after {options['minutes']:g} minutes.")
        return timezone.now() + timedelta(minutes=options["minutes"])
    if not options["until"]:
        return None
    try:
        until = parse_datetime(options["until"])
    except ValueError:
        until = None
    if until is None:
        raise NotPossible(f"“{options['until']}” is no date and time.", advice="Write it as 2026-05-01T14:30, in UTC.")
    return until if timezone.is_aware(until) else timezone.make_aware(until)
