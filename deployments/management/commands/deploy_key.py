"""`manage.py deploy_key acme`: the public half of a project's deploy key; `--new` makes one, `--remove` ends it."""

from argparse import ArgumentParser
from typing import Any

from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_project
from ocore import consent
from projects.hosts import HOSTS
from projects.models import Project, Repository

EXIT_CODES = """exit codes:
  0  told, made or removed
  1  not possible, or not agreed to
"""


class Command(PortalCommand):
    help = "Show what to paste at the git host so that oCore may read the repository over ssh; make or remove the key."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Such as acme.")
        parser.add_argument("--repository", default="", metavar="NAME", help="Of this further repository of it.")
        act = parser.add_mutually_exclusive_group()
        act.add_argument("--new", action="store_true", help="Make a key; an older one is tried besides for a while.")
        act.add_argument("--remove", action="store_true", help="Remove it and the one before it.")
        parser.add_argument("--yes", action="store_true", help="Don't ask before removing.")

    def handle(self, *args: Any, **options: Any) -> None:
        project = find_project(options["project"])
        holder = _further(project, options["repository"]) if options["repository"] else project
        if options["new"]:
            if not holder.over_ssh:
                raise NotPossible(
                    f"{holder} has no repository with an ssh address, which alone a deploy key is for.",
                    advice="Enter git@host:path or ssh://user@host/path first; for https use an access token.",
                )
            holder.make_deploy_key()
        elif options["remove"]:
            if holder.deploy_key:
                self.stdout.write(f"Without its deploy key, oCore gets into the repository of {holder} only as the")
                self.stdout.write("portal's own account does. The key cannot be had back.")
                consent.require(agreed=options["yes"])
                holder.remove_deploy_key()
            self.stdout.write(f"{holder} has no deploy key.")
            return
        if not holder.deploy_key:
            raise NotPossible(f"{holder} has no deploy key.", advice="Make one: add --new.")
        self.stdout.write(holder.deploy_key_public)
        self.stderr.write(f"Paste it at {_where(holder)}")
        if holder.previous_deploy_key_valid and (until := holder.previous_deploy_key_until):
            self.stderr.write(f"The previous key is tried besides until {until:%Y-%m-%d %H:%M} UTC.")


def _where(holder: Project | Repository) -> str:
    if isinstance(holder, Repository):
        return "the git host of this repository, as a key that may read it."
    return f"{holder.get_host_display()}: {HOSTS[holder.host].setup.deploy_key}"


def _further(project: Project, name: str) -> Repository:
    found = project.repositories.filter(name=name).first()
    if found is None:
        names = ", ".join(project.repositories.values_list("name", flat=True)) or "none"
        raise NotPossible(f"{project} has no further repository “{name}”.", advice=f"It has: {names}.")
    return found
