"""`manage.py start_over acme/production`: its data is gone from the server, and it is to begin anew."""

from argparse import ArgumentParser
from typing import Any

from deployments import forget
from deployments.terminal import PortalCommand, find_environment, shell_account


class Command(PortalCommand):
    help = (
        "For an environment whose database is gone from its server (removed by hand, or the server was made anew): "
        "the next deployment is its first one again. Refuses while the database is there."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        forget.start_over(environment, shell_account())
        self.stdout.write(f"{environment} starts over: its next deployment makes a new database.")
