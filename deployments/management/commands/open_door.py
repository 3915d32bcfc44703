"""`manage.py open_door acme/production`: a person has seen that what runs there is right, and lets the clients in."""

from argparse import ArgumentParser
from typing import Any

from deployments import at_work
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_environment
from instances import doors
from instances.models import Door
from instances.runtimes import runtime_for


class Command(PortalCommand):
    help = (
        "For a door that stayed closed after a rollback failed, once Odoo answers from inside: its clients get through "
        "again, to the containers that the rows name. Refuses while anybody is at work there."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        if hindrance := at_work.hindrance(environment, behind_doors=True):
            raise NotPossible(hindrance.message, advice=hindrance.advice)
        if not environment.instances.exclude(container="").exists():
            raise NotPossible(f"{environment} has never been live: there is nothing to let anybody in to.")
        doors.lead(environment, runtime_for(environment.server))
        Door.objects.filter(environment=environment).delete()
        self.stdout.write(f"The door of {environment} is open: {environment.url}")
