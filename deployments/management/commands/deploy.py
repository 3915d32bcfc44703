"""`manage.py deploy acme/production`: bring a branch, tag or commit live."""

from argparse import ArgumentParser
from typing import Any

from deployments import retries, services
from deployments.following import plain
from deployments.models import Deployment
from deployments.services import NotPossible
from deployments.states import Trigger
from deployments.terminal import PortalCommand, find_environment, shell_account
from projects.models import Environment


class Command(PortalCommand):
    help = "Deploy an environment: the tip of its branch, or --ref."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        parser.add_argument("--ref", default="", help="Branch, tag or commit (default: the environment's branch).")
        parser.add_argument("--again", metavar="ID", help="An ended deployment's commit again, with today's settings.")
        parser.add_argument("--force", action="store_true", help="Also when nothing differs from what is live.")
        parser.add_argument("--wait", action="store_true", help="Follow it to its end.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        if options["again"]:
            deployment = self._again(environment, options)
        else:
            deployment = services.request_deployment(
                environment,
                Trigger.COMMAND_LINE,
                shell_account(),
                ref=options["ref"].strip(),
                forced=options["force"],
            )
        self.tell_queued(deployment)
        if options["wait"]:
            self.watch(deployment)

    def _again(self, environment: Environment, options: dict[str, Any]) -> Deployment:
        if options["ref"] or options["force"]:
            raise NotPossible("--again says what to deploy already.", advice="Leave --ref and --force out.")
        digits = options["again"].removeprefix("#")
        ended = Deployment.objects.filter(pk=int(digits[:18])).first() if digits.isdecimal() else None
        if ended is None or ended.environment_id != environment.pk:
            raise NotPossible(f"“{plain(options['again'])}” is no deployment of {environment}.")
        offer = retries.retry_offer(ended)
        for title, lines in (("Used again", offer.reuses), ("Done anew", offer.anew)):
            for line in lines:
                self.stdout.write(f"  {title:10}  {plain(line)}")
        for one in offer.settings:
            self.stdout.write(f"  Setting     {plain(f'{one.holder}, {one.label}: {one.running} -> {one.next}')}")
        return retries.retry(ended, shell_account(), Trigger.COMMAND_LINE)
