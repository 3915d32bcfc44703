"""`manage.py check_repository acme`: whether oCore gets into a project's repository, and what is in the way."""

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from deployments.following import plain
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_project
from projects.connection import Finding, check_project

EXIT_CODES = """exit codes:
  0  all is well
  1  something is in the way, and what
"""


class Command(PortalCommand):
    help = "Test the connection to a project's repository, and whether it has the branch of each environment."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Such as acme.")
        parser.add_argument("--json", action="store_true", help="For programs.")

    def handle(self, *args: Any, **options: Any) -> None:
        project = find_project(options["project"])
        if not project.repository_url:
            raise NotPossible(f"{project} has no git repository: plain Odoo is deployed.")
        findings = check_project(project)
        if options["json"]:
            self.stdout.write(json.dumps([asdict(one) | {"good": one.good} for one in findings], indent=2))
        else:
            for one in findings:
                self._tell(one)
        if not all(one.good for one in findings):
            sys.exit(1)

    def _tell(self, one: Finding) -> None:
        self.stdout.write(f"{plain(one.what)}: {plain(one.trouble) or 'good'}. {plain(one.words)}")
        if one.advice:
            self.stdout.write(f"  {one.advice}")
        for line in one.detail.splitlines():
            self.stdout.write(f"  | {plain(line)}")
