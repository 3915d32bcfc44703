"""`manage.py versions acme/production`: a second version beside it, as a standby or for an A/B test."""

from argparse import ArgumentParser
from typing import Any

from deployments import second
from deployments.terminal import PortalCommand, find_environment, shell_account
from instances.runtimes import runtime_for
from ocore import consent
from ocore.errors import ExpectedError
from projects.models import Environment, Split

EXIT_CODES = """exit codes:
  0  done, or shown
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Show the two versions of an environment side by side; set up a second one, lead clients to it, keep one."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        act = parser.add_mutually_exclusive_group()
        act.add_argument("--begin", metavar="NAME", help="Set up a second version, an environment of this name.")
        act.add_argument("--share", type=int, metavar="PERCENT", help="Lead so many of the clients to the second one.")
        act.add_argument("--keep", choices=["first", "second"], help="End it: the other version is removed.")
        parser.add_argument("--ref", default="", help="With --begin: branch, tag or commit.")
        parser.add_argument("--copy", action="store_true", help="With --begin: with a copy of the data of its own.")
        parser.add_argument("--yes", action="store_true", help="Don't ask before clients or data are moved.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment, who = find_environment(options["environment"]), shell_account()
        if options["begin"]:
            self.stdout.write(second.begin_consequences(shared=not options["copy"]))
            deployment = second.begin(
                environment, options["begin"], who, ref=options["ref"], shared=not options["copy"]
            )
            self.stdout.write(f"{deployment} is queued. To look at both: ./manage.py versions {environment.path}")
            return
        split = second.split_of(environment)
        if options["share"] is not None:
            self._sure(second.consequences(split, options["share"]), agreed=options["yes"])
            problem = second.lead(split, options["share"], who)
            self.stdout.write(f"{options['share']} % of the clients are led to {split.environment}.")
            if problem:
                self.stdout.write(problem)
        elif options["keep"]:
            self._sure(second.end_consequences(split, options["keep"]), agreed=options["yes"])
            second.end(split, options["keep"], who)
            split.refresh_from_db()
            kept = split.environment if options["keep"] == "second" else split.environment.second_of
            asked = f" #{split.deployment} is queued for that." if split.deployment else ""
            self.stdout.write(
                f"The version of {kept} is to stay; {split.environment} goes after that.{asked} "
                f"To look at it: ./manage.py versions {environment.path}"
            )
        else:
            self._show(split)

    def _sure(self, consequences: str, *, agreed: bool) -> None:
        self.stdout.write(consequences)
        consent.require(agreed=agreed)

    def _show(self, split: Split) -> None:
        there = split.environment
        first = there.second_of
        assert first is not None  # noqa: S101 - a split is of a second version
        try:
            figures = runtime_for(first.server).edge.figures(split.mark)
        except ExpectedError as error:
            figures = {}
            self.stdout.write(f"Requests could not be counted: {error.message}")
        for name, environment, share in (("first", first, 100 - split.share), ("second", there, split.share)):
            self.stdout.write(f"{name:<7}{environment.path:<32}{share:>4} %  {_runs(environment)}")
            if found := figures.get(name):
                self.stdout.write(
                    f"       {found.requests} requests, {found.failed} failed, {found.refused} refused, "
                    f"median {found.median * 1000:.0f} ms, p95 {found.p95 * 1000:.0f} ms"
                )
        last = there.deployments.first()
        if last and last.final and not last.live:
            self.stdout.write(f"{last}: {last.outcome}. {last.error} {last.advice}")
        if split.ending:
            self.stdout.write(f"Being ended: {split.get_ending_display().lower()}.")
        if split.problem:
            self.stdout.write(f"It could not be ended: {split.problem}")


def _runs(environment: Environment) -> str:
    live = second.live_of(environment)
    return f"{live} {live.short_commit} since {live.live_at:%Y-%m-%d %H:%M} UTC" if live else "nothing yet"
