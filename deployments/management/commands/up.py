"""`manage.py up`: from a bare machine to a live Odoo, and keep serving. `make up` calls it."""

import contextlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from deployments import addresses, demo
from deployments.bring_back import bring_back
from deployments.following import Follower
from deployments.models import Deployment
from deployments.states import ACTIVE, Status
from instances.models import Door
from instances.preparation import base_images
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from ocore.machine.engine import EngineUnavailable, ensure_engine
from ocore.machine.packages import ProgramMissing
from ocore.machine.prepare import prepare_portal, prepare_programs
from ocore.machine.progress import Progress, told
from ocore.machine.supervisor import Supervisor, running
from projects.models import Server

ADMIN = "admin"
APPEAR_SECONDS = 30.0
WAIT_FOR_PUSH = 0.2
START_SECONDS = 15.0
"""So long an Odoo that has just been started may take to answer, before it is said that it doesn't."""


class Command(BaseCommand):
    help = (
        "Bring the portal up: install and start what is missing, migrate, start web, workers, clock and Redis, "
        "make a demo project, push to it, and keep serving until Ctrl-C."
    )
    # The checks want settings that hold; they run as the first thing that is done.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="without the demo project")

    def handle(self, *args: Any, **options: Any) -> None:
        self.progress = Progress()
        self.password = ""
        self.supervisor = Supervisor(self.progress)
        try:
            found = running()
            if found is not None:
                self.progress.say(f"oCore is up already, as process {found.pid}")
                self._tell_urls(patience=0)
                return
            self._bring_up(with_demo=not options["no_demo"])
        except ExpectedError as error:
            raise CommandError(told(error)) from error
        except KeyboardInterrupt:
            if not self.supervisor.stopped:
                self.progress.say("Stopped before anything was started. Go on with: make up")

    def _bring_up(self, *, with_demo: bool) -> None:
        prepare_programs(self.progress)
        prepare_portal(self.progress)
        self._ensure_admin()
        try:
            self._serve(with_demo=with_demo)
        finally:
            self._tell_stopped()

    def _serve(self, *, with_demo: bool) -> None:
        with self.supervisor as supervisor:
            supervisor.wait_for_web()
            self.progress.say(f"The portal answers at {settings.OCORE_BASE_URL}/admin/")
            portal_after = self.progress.seconds
            self._tell_login()
            server = self._ensure_server()
            live_after = self._ensure_demo(server) if with_demo else None
            self._tell_urls(patience=START_SECONDS)
            self._tell_login()
            figures = f"The portal answered after {portal_after:.0f} s"
            if live_after is not None:
                figures += f", the demo's Odoo was live after {live_after:.0f} s"
            self.progress.say(f"{figures}.")
            self.progress.say("Serving until Ctrl-C. Logs: " + str(settings.STATE_DIR / "log"))
            supervisor.wait()

    def _ensure_admin(self) -> None:
        users = get_user_model().objects
        if users.filter(is_superuser=True).exists():
            return
        given = settings.OCORE_ADMIN_PASSWORD
        if not given:
            self.password = secrets.token_urlsafe(12)
        users.create_superuser(ADMIN, "", given or self.password)

    def _tell_login(self) -> None:
        if self.password:
            self.progress.say(f"Log in as {ADMIN} with the password {self.password} (shown only now, not kept)")

    def _ensure_server(self) -> Server:
        """This machine's engine as a server; a simulated one where none can be had."""
        try:
            engine = ensure_engine(self.progress)
        except (EngineUnavailable, ProgramMissing) as error:
            self.progress.say("No Docker engine can be had here:\n" + told(error))
            self.progress.say("The portal goes on with a SIMULATED server: look around, nothing really runs.")
            return Server.objects.get_or_create(
                slug="simulated", defaults={"name": "Simulated", "kind": Server.Kind.SIMULATED}
            )[0]
        server, _ = Server.objects.get_or_create(
            slug="this-machine",
            defaults={
                "name": "This machine",
                "endpoint": engine.endpoint,
                "base_domain": settings.OCORE_BASE_DOMAIN,
                "edge_port": settings.OCORE_EDGE_HTTP_PORT,
            },
        )
        self._ensure_base_images(server)
        for here in Server.objects.filter(kind=Server.Kind.DOCKER, endpoint__in=["", engine.endpoint]):
            for name in bring_back(here, self.progress.log):
                self.progress.say(f"Started again: {name}")
        return server

    def _ensure_base_images(self, server: Server) -> None:
        """At once, since they come from the network and each waits for it most of its time."""
        runtime = runtime_for(server)
        missing = [reference for reference in base_images() if runtime.images.find(reference) is None]
        if not missing:
            return
        with (
            self.progress.step(f"Getting the base images {', '.join(missing)}"),
            ThreadPoolExecutor(max_workers=len(missing)) as pool,
        ):
            for image in pool.map(lambda one: runtime.images.ensure_base(one, self.progress.log), missing):
                self.progress.say(f"{image.reference} is there")

    def _ensure_demo(self, server: Server) -> float | None:
        """Seconds after which it was live in this run; None when it was live before, or did not get there."""
        made = demo.ensure(server)
        rows = Deployment.objects.filter(environment=made.environment)
        if rows.filter(live=True).exists():
            return None
        if not rows.filter(status__in=ACTIVE).exists():
            self.progress.say("Pushing the demo's addon: git calls the webhook, a worker takes the deployment")
            demo.push(made)
        deployment = self._wait_for_deployment(made.environment.pk)
        with self.progress.step(f"Deploying {deployment}"):
            ended = Follower(deployment, self._write).follow()
        if ended.status == Status.SUCCEEDED:
            return self.progress.seconds
        self.progress.say(
            f"The demo did not go live ({ended.get_status_display()}). The portal goes on; see "
            f"{settings.OCORE_BASE_URL}{ended.get_absolute_url()}"
        )
        return None

    def _write(self, text: str, ending: str = "\n") -> None:
        """The steps are told; of what is printed within them, the latest line when it goes on for long."""
        if text.startswith("    "):
            self.progress.log(text)
        elif text.strip():
            self.progress.say(text)

    def _wait_for_deployment(self, environment: int) -> Deployment:
        deadline = time.monotonic() + APPEAR_SECONDS
        while time.monotonic() < deadline:
            found = Deployment.objects.filter(environment=environment).first()
            if found:
                return found
            time.sleep(WAIT_FOR_PUSH)
        raise CommandError(
            "The demo was pushed, but no deployment appeared. See the project's deliveries in the admin."
        )

    def _tell_urls(self, *, patience: float) -> None:
        found = addresses.addresses()
        if found:
            with self.progress.step("Asking each Odoo whether it answers"):
                answers = addresses.ask(found, patience)
        else:
            answers = {}
        self.progress.say("\n".join(addresses.told(found, answers)))

    def _tell_stopped(self) -> None:
        """What ended and what goes on; to a terminal that is gone nothing can be said."""
        supervisor = self.supervisor
        if not supervisor.stopped:
            return
        why = f" by {supervisor.stopped_by}" if supervisor.stopped_by else ""
        lines = [
            f"Stopped{why} at {timezone.now():%Y-%m-%d %H:%M:%S} UTC: {', '.join(supervisor.stopped)}.",
            "Nothing is deployed until the next make up. Clients' containers go on serving; make down stops them too.",
        ]
        with contextlib.suppress(DatabaseError):
            rows = Deployment.objects.filter(status__in=ACTIVE).select_related("environment__project")
            held = set(Door.objects.values_list("environment", flat=True))
            for one in rows:
                wait = ", and requests wait for it" if one.environment_id in held else ""
                lines.append(f"{one} was {one.get_status_display().lower()}{wait}: the next make up {_then(one)}.")
        with contextlib.suppress(OSError):
            self.progress.say("\n".join(lines))


def _then(deployment: Deployment) -> str:
    """What becomes of it once somebody looks: a worker that was ended on purpose is a lost one too."""
    if deployment.status == Status.QUEUED:
        return "takes it up"
    return "completes it" if deployment.switched_at else "takes it back"
