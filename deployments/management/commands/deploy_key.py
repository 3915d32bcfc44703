"""`manage.py deploy_key acme`: the public half of a project's deploy key; `--new` makes one, `--remove` ends it."""

from argparse import ArgumentParser
from typing import Any

from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_project
from ocore import consent
from projects.hosts import HOSTS

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
        act = parser.add_mutually_exclusive_group()
        act.add_argument("--new", action="store_true", help="Make a key; an older one is tried besides for a while.")
        act.add_argument("--remove", action="store_true", help="Remove it and the one before it.")
        parser.add_argument("--yes", action="store_true", help="Don't ask before removing.")

    def handle(self, *args: Any, **options: Any) -> None:
        project = find_project(options["project"])
        if options["new"]:
            project.make_deploy_key()
        elif options["remove"]:
            if project.deploy_key:
                self.stdout.write(f"Without its deploy key, oCore gets into the repository of {project} only as the")
                self.stdout.write("portal's own account does. The key cannot be had back.")
                consent.require(agreed=options["yes"])
                project.remove_deploy_key()
            self.stdout.write(f"{project} has no deploy key.")
            return
        if not project.deploy_key:
            raise NotPossible(f"{project} has no deploy key.", advice="Make one: add --new.")
        self.stdout.write(project.deploy_key_public)
        self.stderr.write(f"Paste it at {project.get_host_display()}: {HOSTS[project.host].setup.deploy_key}")
        if project.previous_deploy_key_valid and (until := project.previous_deploy_key_until):
            self.stderr.write(f"The previous key is tried besides until {until:%Y-%m-%d %H:%M} UTC.")
