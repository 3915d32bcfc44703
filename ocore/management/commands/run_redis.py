"""`manage.py run_redis`: become the portal's own Redis server; a line of the Procfile."""

from typing import Any

from django.core.management.base import BaseCommand

from ocore.machine.redis import run


class Command(BaseCommand):
    help = "Become the portal's own Redis server (in the foreground)."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        run()
