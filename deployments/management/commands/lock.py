"""`manage.py lock acme/production --reason ...`: no deployment begins there until it is unlocked."""

from argparse import ArgumentParser
from typing import Any

from deployments import locking
from deployments.following import plain
from deployments.terminal import PortalCommand, find_environment, shell_account

EXIT_CODES = """exit codes:
  0  locked, or unlocked
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Let no deployment begin in an environment until it is unlocked; what is asked for meanwhile waits in line."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--reason", help="Why; everybody who waits reads it.")
        what.add_argument("--end", action="store_true", help="Unlock it: what waits there gets its turn.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        if options["end"]:
            locking.unlock(environment, shell_account())
            self.stdout.write(f"{environment} is unlocked.")
            return
        lock = locking.lock(environment, shell_account(), options["reason"])
        self.stdout.write(
            f"{environment} is locked: {plain(lock.reason)}\nTo unlock it: ./manage.py lock {environment.path} --end"
        )
