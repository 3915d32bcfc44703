"""`manage.py cancel acme/production`: stop what is queued or running there."""

from argparse import ArgumentParser
from typing import Any

from deployments import services
from deployments.models import Deployment
from deployments.services import NotPossible
from deployments.states import ACTIVE, Status
from deployments.terminal import PortalCommand, find_environment, shell_account

EXIT_CODES = """exit codes:
  0  cancelled, or about to be: what was changed is put back
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Cancel a deployment that is queued or running."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "what", metavar="project/environment|ID", help="Such as acme/production, or a deployment's number."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        deployment = _find(options["what"].removeprefix("#"))
        services.cancel(deployment, shell_account())
        if deployment.status == Status.CANCELLED:
            self.stdout.write(f"{deployment} is cancelled by {deployment.cancelled_by}; it had not begun.")
        else:
            self.stdout.write(f"{deployment} is being cancelled: it stops soon, and what it changed is put back.")
            self.tell_trouble("But")


def _find(what: str) -> Deployment:
    if what.isdecimal():
        deployment = Deployment.objects.select_related("environment__project").filter(pk=int(what[:18])).first()
        if deployment is None:
            raise NotPossible(
                f"There is no deployment #{what[:18]}.",
                advice="Those of an environment are listed by: ./manage.py status project/environment",
            )
        return deployment
    environment = find_environment(what)
    active = list(
        Deployment.objects.select_related("environment__project")
        .filter(environment=environment, status__in=ACTIVE)
        .order_by("pk")
    )
    if not active:
        raise NotPossible(f"Nothing is queued or running in {environment}.")
    if len(active) > 1:
        told = " and ".join(f"#{one.pk} ({one.get_status_display().lower()})" for one in active)
        raise NotPossible(
            f"There are two in {environment}: {told}.", advice=f"Say which: ./manage.py cancel {active[-1].pk}"
        )
    return active[0]
