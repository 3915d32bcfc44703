"""`manage.py clean_machine`: remove what carries our label from this machine's engine, and nothing else."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, ProgrammingError

from deployments.forget import forget
from instances.runtimes import runtime_for
from instances.runtimes.base import ServerSpec
from ocore import consent
from ocore.errors import ExpectedError
from ocore.machine.engine import Engine, find_engine
from ocore.machine.progress import Progress, told
from ocore.machine.supervisor import stop_running
from projects.models import Environment, Server

SAY_YES = "Say --yes if this is what you want: make clean-machine YES=1"


class Command(BaseCommand):
    help = (
        "Remove every container, image, volume, network and database of this installation from this machine. "
        "The clients' data on it is gone afterwards. The portal's own records, in its state folder, stay."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--yes", action="store_true", help="Don't ask.")
        parser.add_argument(
            "--every-installation",
            action="store_true",
            help=f"Not only what this one made (namespace {settings.OCORE_NAMESPACE}), but any oCore, the tests' too.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        from instances.runtimes.docker import Engine as Connection
        from instances.runtimes.docker import Inventory, everything_of, remove_everything

        progress = Progress()
        namespace = None if options["every_installation"] else settings.OCORE_NAMESPACE
        try:
            engine = find_engine()
            if engine is None:
                raise CommandError("No Docker engine answers here, so there is nothing to reach. Start it: make up")
            client = Connection(ServerSpec(name="this machine", endpoint=engine.endpoint)).api
            found = everything_of(client, namespace)
            databases = self._databases_elsewhere(engine)
            self._list(found, databases)
            if not found and not databases:
                progress.say("Nothing here carries our label")
                return
            progress.say("All of this is removed, and the data in it is gone afterwards.")
            consent.require(agreed=options["yes"], advice=SAY_YES)
            stop_running(progress)
            for server, database in databases:
                runtime_for(server).databases.drop(database)
                progress.say(f"database {database} removed")
            left: Inventory = remove_everything(client, namespace, say=progress.say)
        except ExpectedError as error:
            raise CommandError(told(error)) from error
        self._forget(engine)
        if left:
            raise CommandError("Some of it is in use by what is not ours and stays; the reasons are above.")
        progress.say(f"Clean. The portal's own records are still in {settings.STATE_DIR}")

    def _list(self, found: Any, databases: list[tuple[Server, str]]) -> None:
        for kind in ("containers", "images", "volumes", "networks"):
            for name in getattr(found, kind):
                self.stdout.write(f"  {kind.removesuffix('s'):10} {name}")
        for server, database in databases:
            self.stdout.write(f"  database   {database} on the PostgreSQL of {server}")

    def _databases_elsewhere(self, engine: Engine) -> list[tuple[Server, str]]:
        """Those of this machine's servers that use a PostgreSQL which is not our container: no volume takes them
        along."""
        try:
            servers = list(Server.objects.filter(kind=Server.Kind.DOCKER, endpoint__in=["", engine.endpoint]))
        except (OperationalError, ProgrammingError):
            return []  # the portal has not been set up: it has no servers
        return [
            (server, database)
            for server in servers
            if server.postgres_dsn
            for database in runtime_for(server).databases.list()
        ]

    def _forget(self, engine: Engine) -> None:
        """The portal's records no longer call live what was just removed."""
        try:
            servers = Server.objects.filter(kind=Server.Kind.DOCKER, endpoint__in=["", engine.endpoint])
            forget(Environment.objects.filter(server__in=servers))
        except (OperationalError, ProgrammingError):
            return  # the portal has not been set up
