"""`manage.py deploy acme/production`: bring a branch, tag or commit live."""

from argparse import ArgumentParser
from typing import Any

from deployments import services
from deployments.states import Trigger
from deployments.terminal import PortalCommand, find_environment, shell_account


class Command(PortalCommand):
    help = "Deploy an environment: the tip of its branch, or --ref."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        parser.add_argument("--ref", default="", help="Branch, tag or commit (default: the environment's branch).")
        parser.add_argument("--force", action="store_true", help="Also when nothing differs from what is live.")
        parser.add_argument("--wait", action="store_true", help="Follow it to its end.")

    def handle(self, *args: Any, **options: Any) -> None:
        deployment = services.request_deployment(
            find_environment(options["environment"]),
            Trigger.COMMAND_LINE,
            shell_account(),
            ref=options["ref"].strip(),
            forced=options["force"],
        )
        self.tell_queued(deployment)
        if options["wait"]:
            self.watch(deployment)
