"""What the portal, and what the tests need on this machine before they start."""

from contextlib import suppress

from django.core.management import call_command

from ocore.machine.chromium import ensure_chromium
from ocore.machine.engine import Engine, ensure_engine
from ocore.machine.packages import ProgramMissing, ensure_program
from ocore.machine.progress import Progress
from ocore.machine.redis import ensure_redis


def prepare_programs(progress: Progress) -> None:
    """What the portal runs besides itself, the engine apart (`ensure_engine`, which may fail where this may not)."""
    ensure_program("git", "git", progress, purpose="the repositories")
    with suppress(ProgramMissing):  # for ssh addresses only: who has one is told then
        ensure_program("ssh", "openssh-client", progress, purpose="repositories over ssh")
    ensure_redis(progress)


def prepare_portal(progress: Progress) -> None:
    """Settings checked, database migrated, static files in place. Does again only what is not done."""
    call_command("check")
    with progress.step("Migrating the portal's database"):
        call_command("migrate", verbosity=0, interactive=False)
    with progress.step("Collecting static files"):
        call_command("collectstatic", verbosity=0, interactive=False)


def prepare_tests(progress: Progress) -> Engine:
    """All that `make test` needs besides the base images."""
    ensure_program("git", "git", progress, purpose="the tests")
    ensure_program("redis-server", "redis-server", progress, purpose="the tests")
    ensure_program("sshd", "openssh-server", progress, purpose="the tests")
    ensure_chromium(progress)
    return ensure_engine(progress)
