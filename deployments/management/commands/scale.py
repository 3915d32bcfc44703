"""`manage.py scale acme/production 3`: so many instances of what is live, without a deployment."""

import time
from argparse import ArgumentParser
from typing import Any

from deployments import scaling
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_environment, shell_account

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 600.0


class Command(PortalCommand):
    help = "Make or take away instances, so that the environment has this many. They share its database and filestore."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        parser.add_argument("instances", type=int, metavar="N", help=f"1 to {scaling.MOST}.")
        parser.add_argument("--wait", action="store_true", help="Until it is so; exit code 1 when it is not.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment, count = find_environment(options["environment"]), options["instances"]
        scaling.request(environment, count, shell_account())
        self.stdout.write(f"{environment} is being scaled to {count}.")
        if not options["wait"]:
            return
        environment.refresh_from_db()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while environment.scale_to is not None:
            if time.monotonic() > deadline:
                raise NotPossible(f"{environment} was not scaled within {PATIENCE_SECONDS:.0f} s.")
            time.sleep(POLL_SECONDS)
            environment.refresh_from_db()
        if environment.scale_problem:
            raise NotPossible(f"{environment} was not scaled: {environment.scale_problem}")
        self.stdout.write(f"{environment} has {count} instance{'s' if count > 1 else ''}.")
