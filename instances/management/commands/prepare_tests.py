"""`manage.py prepare_tests`: everything that `make test` needs on this machine, installed, started or built."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from instances.preparation import prepare_base_images
from instances.runtimes.base import ServerSpec
from ocore.errors import ExpectedError
from ocore.machine.prepare import prepare_tests
from ocore.machine.progress import Progress, told


class Command(BaseCommand):
    help = "Install and start what the tests need (Docker Engine, Redis, Chromium), and get the base images."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        from instances.runtimes.docker import DockerRuntime

        progress = Progress()
        try:
            engine = prepare_tests(progress)
            runtime = DockerRuntime(ServerSpec(name="this machine", endpoint=engine.endpoint))
            prepare_base_images(runtime, progress)
        except ExpectedError as error:
            raise CommandError(told(error)) from error
        progress.say("This machine is ready for the tests")
