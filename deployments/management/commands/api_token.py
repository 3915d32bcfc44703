"""`manage.py api_token --make 'CI of acme' --user ada --for read deploy --project acme`: tokens for the HTTP API."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User

from deployments import tokens
from deployments.following import plain
from deployments.models import ApiToken
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_project, shell_account
from deployments.tokens import DAYS, Verb

EXIT_CODES = """exit codes:
  0  made, revoked or told
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Make a token with which a program uses the API for a user; list those that are valid, or revoke one."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--make", metavar="NAME", help="Make one: who uses it, for what. It is printed once, alone.")
        what.add_argument("--revoke", metavar="PREFIX", help="From now on the one that begins like this is nobody's.")
        parser.add_argument("--user", default="", help="For whom it acts: never more than they may at that moment.")
        parser.add_argument("--for", dest="verbs", nargs="+", choices=Verb.values, default=[], metavar="VERB")
        parser.add_argument(
            "--project", action="append", default=[], metavar="SLUG", help="Where it holds; repeatable."
        )
        parser.add_argument("--every-project", action="store_true", help="Also those that there are not yet.")
        parser.add_argument("--days", type=float, default=DAYS, help="How long it is valid.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["make"] is not None:
            self._make(options)
        elif options["revoke"] is not None:
            self._revoke(options["revoke"])
        else:
            for one in tokens.unexpired(ApiToken.objects.select_related("user").prefetch_related("projects")):
                self.stdout.write(_line(one))

    def _make(self, options: dict[str, Any]) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise NotPossible(f"There is no user “{plain(options['user'])}”.", advice="Say for whom it acts: --user.")
        if options["every_project"] and options["project"]:
            raise NotPossible("--every-project says where it holds already.", advice="Leave --project out.")
        projects = None if options["every_project"] else [find_project(slug) for slug in options["project"]]
        token, secret = tokens.make(
            user,
            shell_account().name,
            name=options["make"],
            verbs=options["verbs"],
            projects=projects,
            days=options["days"],
        )
        self.stderr.write(f"{_line(token)}\nThis is shown once:")
        self.stdout.write(secret)

    def _revoke(self, prefix: str) -> None:
        found = list(ApiToken.objects.filter(prefix=prefix, revoked_at=None)[:2])
        if len(found) != 1:
            raise NotPossible(f"There is no valid token that begins with “{plain(prefix)}”.")
        tokens.revoke(found[0], shell_account().name)
        self.stdout.write(f"{plain(str(found[0]))} is revoked.")


def _line(token: ApiToken) -> str:
    where = "every project" if token.every_project else ", ".join(one.slug for one in token.projects.all())
    return (
        f"{token.prefix}  {plain(token.name)}, for {token.owner}: {', '.join(token.verbs)} in {where}, "
        f"until {token.expires_at:%Y-%m-%d %H:%M} UTC"
    )
