"""`manage.py retention`: what is kept and what goes, of images, snapshots, dumps, logs and all the rest, and why."""

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from deployments.retention.sweep import AlreadyAtIt, Survey, Swept, survey, sweep
from deployments.retention.verdicts import ROWS, Verdict, sentence
from deployments.services import NotPossible
from deployments.terminal import PortalCommand
from ocore import consent
from ocore.errors import ExpectedError
from ocore.forms import format_size
from ocore.machine.progress import told
from projects.models import Server

PORTAL = "portal"
EXIT_CODES = """exit codes:
  0  done, or told
  1  a server could not be looked at, or something could not be removed
"""


class Command(PortalCommand):
    help = (
        "Remove what nothing needs any more, as the clock does every hour, and say each thing. With --dry-run say, and "
        "remove nothing. What runs and what a rollback needs stays in any case."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "where", nargs="*", metavar="server", help=f"Slugs; “{PORTAL}”: its own machine. All without."
        )
        parser.add_argument("--dry-run", action="store_true", help="Remove nothing.")
        parser.add_argument(
            "--unknown",
            action="store_true",
            help="Also what carries our label and nothing on record knows. It may be a client's data: it asks first.",
        )
        parser.add_argument("--yes", action="store_true", help="Don't ask.")
        parser.add_argument("--json", action="store_true", help="For programs: what is kept and what goes.")

    def handle(self, *args: Any, **options: Any) -> None:
        places = _places(options["where"])
        problems = 0
        found: list[Survey] = []
        for place in places:
            try:
                found.append(survey(place, also_unknown=options["unknown"]))
            except ExpectedError as error:
                problems += 1
                self.stderr.write(f"{place}: {told(error)}")
                continue
            if not options["json"]:
                self._tell(found[-1])
        if options["json"]:
            self.stdout.write(json.dumps([_as_json(one) for one in found], indent=2))
        if not options["dry_run"]:
            if options["unknown"]:
                self._ask(found, agreed=options["yes"])
            problems += sum(self._sweep(place, options) for place in places)
        if problems:
            sys.exit(1)

    def _tell(self, found: Survey) -> None:
        sizes = (found.free_bytes, found.wanted_bytes, found.going_bytes, found.spare_bytes)
        free, wanted, going, spare = map(format_size, sizes)
        self.stdout.write(
            f"{found.place}: {free} free, {wanted} wanted; {going} to remove, {spare} if it had to make room"
        )
        rows = [("", "WHAT", "WHOSE", "SINCE", "SIZE", "WHY"), *_lines(found)]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for row in rows:
            cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
            self.stdout.write("  ".join([*cells, row[5]]).rstrip())
        for total in found.totals():
            self.stdout.write(
                f"  {total.kind.label}: {total.kept} kept ({format_size(total.kept_bytes)}), "
                f"{total.going} to remove ({format_size(total.going_bytes)})"
            )
        self.stdout.write("")

    def _ask(self, found: list[Survey], *, agreed: bool) -> None:
        unknown = [one.thing.name for survey in found for one in survey.verdicts if one.thing.unknown]
        if unknown:
            self.stderr.write(f"Nothing on record knows: {', '.join(unknown)}. What is in it is gone afterwards.")
            consent.require(agreed=agreed)

    def _sweep(self, place: Server | None, options: dict[str, Any]) -> int:
        """How many could not be removed, or 1 when the place could not be looked at."""
        say = (lambda _: None) if options["json"] else self.stdout.write
        try:
            done: Swept = sweep(place, also_unknown=options["unknown"], budget=float("inf"), say=say)
        except AlreadyAtIt as busy:
            self.stderr.write(f"{busy}; what may go goes there.")
            return 0
        except ExpectedError as error:
            self.stderr.write(f"{place or PORTAL}: {told(error)}")
            return 1
        for verdict, reason in done.stayed:
            self.stdout.write(f"{verdict.thing.name} stays: {reason}")
        for verdict, problem in done.failed:
            self.stderr.write(f"{verdict.thing.name} could not be removed: {told(problem)}")
        if not options["json"]:
            freed = sum(one.thing.size_bytes for one in done.removed)
            self.stdout.write(f"{place or 'The portal'}: {len(done.removed)} removed, {format_size(freed)}")
        return len(done.failed)


def _places(names: list[str]) -> list[Server | None]:
    servers = {server.slug: server for server in Server.objects.all()}
    unknown = [name for name in names if name not in servers and name != PORTAL]
    if unknown:
        raise NotPossible(f"There is no server “{unknown[0]}”.", advice=f"There is: {', '.join([*servers, PORTAL])}.")
    return [servers.get(name) for name in names or [*servers, PORTAL]]


def _lines(found: Survey) -> list[tuple[str, ...]]:
    """A line for each thing; rows that share whose they are and why they stay or go, in one."""
    several: Counter[tuple[Any, ...]] = Counter()
    lines = []
    for one in found.verdicts:
        if one.thing.kind in ROWS:
            several[one.keep, one.thing.kind, one.thing.of, _common(one)] += one.thing.count
        else:
            since = one.thing.since.strftime("%Y-%m-%d %H:%M") if one.thing.since else "-"
            size = format_size(one.thing.size_bytes) if one.thing.size_bytes else "-"
            lines.append((_mark(one.keep), one.thing.name, one.thing.of or "-", since, size, one.sentence))
    lines += [
        (
            _mark(keep),
            f"{count} {kind.label.lower()}",
            of or "-",
            "-",
            "-",
            sentence(keep, reason),
        )
        for (keep, kind, of, reason), count in several.items()
    ]
    return sorted(lines, key=lambda line: line[0])


def _common(one: Verdict) -> str:
    """Rows are kept for a single one's sake: then the sentence names none."""
    return "something needs it" if one.keep and one.thing.needed and one.thing.count == 1 else one.reason


def _mark(keep: bool) -> str:
    return "keep" if keep else "GOES"


def _as_json(found: Survey) -> dict[str, Any]:
    return {
        "place": found.place,
        "free_bytes": found.free_bytes,
        "wanted_bytes": found.wanted_bytes,
        "spare_bytes": found.spare_bytes,
        "things": [
            {
                "kind": one.thing.kind,
                "name": one.thing.name,
                "of": one.thing.of,
                "since": one.thing.since.isoformat() if one.thing.since else None,
                "size_bytes": one.thing.size_bytes,
                "count": one.thing.count,
                "keep": one.keep,
                "reason": one.reason,
            }
            for one in found.verdicts
        ],
    }
