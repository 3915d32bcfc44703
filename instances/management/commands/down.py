"""`manage.py down`: stop everything on this machine that is ours; `make up` starts it again."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError
from django.utils import timezone

from instances.preparation import stop_containers
from instances.runtimes.base import ServerSpec
from ocore.errors import ExpectedError
from ocore.machine.engine import find_engine, running_containers, stop_engine
from ocore.machine.progress import Progress, told
from ocore.machine.supervisor import stop_running
from projects.models import Server


class Command(BaseCommand):
    help = (
        "Stop the portal, its workers, clock and Redis, and this installation's containers on this machine; "
        "and the Docker engine, if oCore started it and nobody else's containers run."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        progress = Progress()
        try:
            if not stop_running(progress):
                progress.say("The portal did not run")
            self._stop_containers(progress)
        except ExpectedError as error:
            raise CommandError(told(error)) from error
        progress.say("All that is ours is stopped; start it again with: make up")

    def _say_so(self, endpoint: str) -> None:
        """In the rows, for a clock that runs elsewhere and once this one runs again: somebody wanted it so."""
        try:
            Server.objects.filter(kind=Server.Kind.DOCKER, endpoint__in=["", endpoint]).update(
                stopped_at=timezone.now()
            )
        except (OperationalError, ProgrammingError):
            return  # the portal has not been set up

    def _stop_containers(self, progress: Progress) -> None:
        from instances.runtimes.docker import DockerRuntime

        engine = find_engine()
        if engine is None:
            progress.say("No Docker engine runs, so no containers")
            return
        spec = ServerSpec(name="this machine", endpoint=engine.endpoint, namespace=settings.OCORE_NAMESPACE)
        self._say_so(engine.endpoint)
        if not stop_containers(DockerRuntime(spec), progress):
            progress.say("None of our containers ran")
        others = running_containers(engine)
        if others:
            progress.say(f"The Docker engine goes on: containers that are not ours run on it ({others})")
        elif not stop_engine(progress):
            progress.say("The Docker engine goes on: it was not oCore that started it")
