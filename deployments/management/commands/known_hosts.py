"""`manage.py known_hosts git.example.com`: which ssh keys of a git host are known, and which it offers."""

from argparse import ArgumentParser
from typing import Any

from deployments.following import plain
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, shell_account
from projects import known_hosts
from projects.git import host_keys
from projects.known_hosts import Known, KnownHost

EXIT_CODES = """exit codes:
  0  told, accepted or revoked
  1  not possible, and why
"""


class Command(PortalCommand):
    help = "Show the ssh keys of git hosts that are known; look at what a host offers; accept or revoke keys."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("host", nargs="?", default="", help="Such as git.example.com or git.example.com:2222.")
        act = parser.add_mutually_exclusive_group()
        act.add_argument(
            "--accept", action="append", default=[], metavar="FINGERPRINT", help="Which the host must offer just now."
        )
        act.add_argument("--revoke", metavar="FINGERPRINT", help="Whoever shows this key is refused.")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["host"]:
            if options["accept"] or options["revoke"]:
                raise NotPossible("Say the key of which host is meant.")
            self._list()
            return
        parsed = host_keys.parse_place(options["host"])
        if parsed is None:
            raise NotPossible(f"“{plain(options['host'])}” is not a host, or a host and port.")
        host, port = parsed
        by = shell_account().name
        if options["accept"]:
            for row in known_hosts.accept(host, port, options["accept"], by):
                self.stdout.write(f"Accepted: {row.host} {row.fingerprint}")
        elif options["revoke"]:
            row = known_hosts.revoke(host, port, options["revoke"], by)
            self.stdout.write(f"Revoked: {row.host} {row.fingerprint}")
        else:
            self._look(host, port)

    def _list(self) -> None:
        rows = list(KnownHost.objects.all())
        hosts = sorted({row.host for row in rows} | {key.host for key in host_keys.shipped()})
        for host in hosts:
            for one in known_hosts.known(host):
                self._tell(host, one)

    def _look(self, host: str, port: int) -> None:
        here = host_keys.place(host, port)
        for one in known_hosts.known(here):
            self._tell(here, one)
        offered = known_hosts.offered(host, port)
        for offer in offered:
            self.stdout.write(f"{here}  {offer.key.kind}  {offer.key.fingerprint}  offered now: {offer.state}")
        if not offered:
            raise NotPossible(f"{here} offers no key now: it doesn't answer, or there is no ssh.")

    def _tell(self, host: str, one: Known) -> None:
        state = "REVOKED" if one.key.revoked else "accepted"
        self.stdout.write(f"{host}  {one.key.kind}  {one.key.fingerprint}  {state}, {plain(one.source)}")
