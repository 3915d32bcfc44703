"""`manage.py tester_link acme/production --for Ann`: links with which testers pass maintenance."""

from argparse import ArgumentParser
from typing import Any

from deployments import keep_out
from deployments.following import plain
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_environment, shell_account
from instances import testers
from instances.models import TesterLink

EXIT_CODES = """exit codes:
  0  made, revoked or told
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Make a link with which a tester passes maintenance; list those that are valid, or revoke one."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        parser.add_argument("--for", dest="for_whom", default="", metavar="WHOM", help="Make one for this person.")
        parser.add_argument("--hours", type=float, default=testers.HOURS, help="How long it is valid.")
        parser.add_argument("--revoke", type=int, metavar="NUMBER", help="From now on this one leads nowhere.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        who = shell_account().name
        if options["revoke"] is not None:
            link = TesterLink.objects.filter(environment=environment, pk=options["revoke"]).first()
            if link is None:
                raise NotPossible(f"{environment} has no tester's link {options['revoke']}.")
            testers.revoke(link, who)
            self.stdout.write(f"The link {link.pk}, for {plain(link.for_whom)}, is revoked.")
        elif options["for_whom"]:
            link = testers.make(environment, who, for_whom=options["for_whom"], hours=options["hours"])
            self.stdout.write(f"For {plain(link.for_whom)}, until {link.expires_at:%Y-%m-%d %H:%M} UTC:")
            self.stdout.write(testers.address(link))
        else:
            valid = [one for one in environment.tester_links.all() if one.valid]
            for one in valid:
                until = f"until {one.expires_at:%Y-%m-%d %H:%M} UTC"
                self.stdout.write(f"{one.pk}  for {plain(one.for_whom)}, by {plain(one.made_by)}, {until}")
            if not valid:
                self.stdout.write(f"No tester's link to {environment} is valid.")
            return
        problem = keep_out.tell(environment)
        if problem:
            self.stdout.write(problem)
