"""`manage.py status`: what runs where, since when, in what state."""

import json
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from deployments import further, locks, schedule
from deployments.condition import Condition, State, conditions
from deployments.condition_json import LAST, as_json, details
from deployments.following import plain
from deployments.models import Deployment
from deployments.services import NotPossible
from deployments.terminal import PortalCommand, find_environment, find_project
from deployments.workforce import Trouble, trouble, unkept
from instances import incidents
from instances.models import Incident
from projects.domains import of_environments
from projects.models import Environment, Split

PENDING_SHOWN = 10
EXIT_CODES = """exit codes:
  0  told
  1  no such project or environment
"""


class Command(PortalCommand):
    help = "What runs where, since when, in what state; of one environment also the last deployments."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        return super().create_parser(prog_name, subcommand, **({"epilog": EXIT_CODES} | kwargs))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", nargs="?", default="", metavar="project[/environment]", help="All without it.")
        parser.add_argument("--json", action="store_true", help="For programs.")

    def handle(self, *args: Any, **options: Any) -> None:
        what = options["what"].strip("/")
        rows = Environment.objects.select_related("project", "server").prefetch_related(of_environments())
        rows = rows.order_by("project__name", "name")
        if "/" in what:
            one = conditions([find_environment(what)])[0]
            idle = trouble() or unkept()
            self._tell(as_json(one, idle) | details(one), lambda: [*_idle(idle), *_one(one)], options["json"])
            return
        if what:
            rows = rows.filter(project=find_project(what))
        found = conditions(rows)
        if not found and not options["json"]:
            raise NotPossible("There is no environment yet.", advice="Create one in the admin.")
        idle = trouble() or unkept()
        self._tell([as_json(one, idle) for one in found], lambda: [*_idle(idle), *_table(found)], options["json"])

    def _tell(self, data: Any, lines: Any, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(data, indent=2))
            return
        for line in lines():
            self.stdout.write(line)


def _idle(idle: Trouble | None) -> list[str]:
    if idle is None:
        return []
    return [f"{idle} {idle.meanwhile}, and below is what was seen last.", f"{idle.advice}.", ""]


def _table(found: list[Condition]) -> list[str]:
    rows = [("ENVIRONMENT", "STATE", "LIVE", "SINCE", "BY", "SERVER")]
    rows += [
        (
            one.environment.path,
            _state(one),
            _version(one.live) or "-",
            _moment(one.since) or "-",
            (plain(one.live.requester) if one.live else "") or "-",
            str(one.environment.server),
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = lines[:1]
    for line, one in zip(lines[1:], found, strict=True):
        told += [line, f"  not live: {_failure(one)}"] if one.failure else [line]
    return told


def _one(one: Condition) -> list[str]:
    environment = one.environment
    facts = [
        ("State", _state(one)),
        ("Waits", schedule.why_waiting(one.queued) if one.queued else ""),
        ("Live", " ".join(filter(None, (_version(one.live), plain(one.live.subject) if one.live else "")))),
        ("With", ", ".join(plain(str(found)) for found in further.taken(one.live)) if one.live else ""),
        ("Since", _moment(one.since)),
        ("By", plain(one.live.requester) if one.live else ""),
        ("Not live", _failure(one)),
        ("Kept out", _kept_out(one)),
        ("Locked", plain(lock.words) if (lock := locks.current(environment)) else ""),
        ("Versions", _versions(environment)),
        ("Branch", environment.branch or "none, deployed by hand"),
        ("Server", str(environment.server)),
        ("URL", environment.url),
        ("Checked", _checked(one)),
    ]
    lines = [str(environment), *(f"  {name:<9} {text}" for name, text in facts if text)]
    lines += [_instance(instance) for instance in one.instances]
    return [*lines, *_incidents(environment), *_pending(environment), *_last(environment)]


def _versions(environment: Environment) -> str:
    """Whether there are two of it, and who gets how many of the clients."""
    split = Split.objects.filter(environment=environment).first()
    if split:
        return f"the second version of {environment.second_of}, with {split.share} % of its clients"
    split = Split.objects.filter(environment__second_of=environment).select_related("environment__project").first()
    return f"{split.environment} is its second version, and gets {split.share} % of its clients" if split else ""


def _incidents(environment: Environment) -> list[str]:
    """The last ones, its own and those of what its server needs."""
    lines = []
    for one in incidents.about(environment)[:LAST]:
        what = f"{plain(one.subject)}: {plain(one.seen)} {_became(one)} ({one.attempts} attempts)"
        lines.append(f"  {_moment(one.noticed_at)}  {what}")
        if one.problem:
            lines.append(f"         {plain(one.problem).strip()}")
        if one.advice and not one.ended_at:
            lines.append(f"         {plain(one.advice)}")
    return ["Incidents", *lines] if lines else []


def _became(one: Incident) -> str:
    if one.ended_at and one.outcome == Incident.Outcome.GIVEN_UP:
        return f"Given up, over since {_moment(one.ended_at)}"
    if one.ended_at:
        return f"{one.get_outcome_display()}, {_moment(one.ended_at)}"
    if not one.open:
        return one.get_outcome_display()
    if incidents.exhausted(one):
        return f"{one.get_outcome_display()}, given up unless it is well by {one.next_attempt_at:%H:%M:%S} UTC"
    return (
        f"{one.get_outcome_display()}, attempt {one.attempts + 1} of {incidents.LIMIT} where it is down at "
        f"{one.next_attempt_at:%H:%M:%S} UTC"
    )


def _state(one: Condition) -> str:
    text = str(one.state.label)
    if one.broken:
        return f"{text}: rollback failed, a person must look"
    if one.given_up and one.state == State.DOWN:
        return f"{text}: given up, a person must look"
    if one.maintenance and not one.underway:
        until = f" until {_moment(one.maintenance.until)}" if one.maintenance.until else ""
        return f"{text}{until}"
    if one.underway:
        step = f": {one.step.lower()}" if one.step else ""
        text = f"#{one.underway.pk} {one.underway.get_status_display().lower()}{step}"
        return f"{text}, requests wait" if one.closed_since else text
    if one.state == State.UPDATING and one.closed_since:
        text = "Restarting, requests wait"
    return f"{text}; #{one.queued.pk} queued" if one.queued else text


def _failure(one: Condition) -> str:
    """What was tried last and isn't live, so that it doesn't hide behind an Odoo that is up."""
    if one.failure is None:
        return ""
    when = _moment(one.failure.finished_at or one.failure.created_at)
    why = plain(one.failure.error).strip().partition("\n")[0]
    return ": ".join(filter(None, (f"{_version(one.failure)} {_lower(one.failure.outcome)}, {when}", why)))


def _kept_out(one: Condition) -> str:
    """By whom, since when and until when clients get the maintenance page."""
    row = one.maintenance
    if row is None:
        return ""
    until = f"until {_moment(row.until)}" if row.until else "until somebody ends it"
    text = f": {' '.join(plain(row.text).split())}" if row.text else ""
    return f"by {plain(row.began_by)} since {_moment(row.began_at)}, {until}{text}"


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


def _version(deployment: Deployment | None) -> str:
    if deployment is None:
        return ""
    name = plain(deployment.ref) if deployment.ref != deployment.commit else ""
    return " ".join(filter(None, (f"#{deployment.pk}", deployment.short_commit, name))) or "plain Odoo"


def _checked(one: Condition) -> str:
    if one.check is None:
        return ""
    verdict = "up" if one.check.ok else f"down ({one.check.status or 'no answer'}) {plain(one.check.detail)[:200]}"
    return f"{_moment(one.check.checked_at)}: {'held during a deployment' if one.check.held else verdict}".rstrip()


def _instance(instance: Any) -> str:
    since = f" since {_moment(instance.state_since)}" if instance.state_since else ""
    problem = f": {plain(instance.problem)}" if instance.problem else ""
    return f"  Instance  {instance.name}: {instance.get_state_display().lower()}{since}{problem}"


def _pending(environment: Environment) -> list[str]:
    pending = environment.pending
    if pending.get("problem"):
        return [f"  Pending   unknown: {plain(pending['problem'])}"]
    commits = pending.get("commits", [])
    if not commits:
        return []
    lines = [f"Pending on {environment.branch}, not deployed: {len(commits)}"]
    lines += [
        f"  {plain(one['sha'])[:10]}  {plain(one['subject'])} ({plain(one['author'])})"
        for one in commits[:PENDING_SHOWN]
    ]
    return lines + (["  ..."] if len(commits) > PENDING_SHOWN else [])


def _last(environment: Environment) -> list[str]:
    last = list(Deployment.objects.filter(environment=environment)[:LAST])
    if not last:
        return ["No deployment yet"]
    lines = ["Last deployments"]
    for one in last:
        took = f"{one.seconds:.0f} s" if one.seconds is not None else ""
        live = ", live" if one.live else ""
        version = _version(one).removeprefix(f"#{one.pk} ")
        lines.append(
            f"  #{one.pk:<5} {_moment(one.created_at)}  {plain(one.outcome)}{live}  {took}  "
            f"{version}  by {plain(one.requester) or 'unknown'} ({one.get_trigger_display().lower()})"
        )
        if one.error:
            lines.append(f"         {plain(one.error).strip()}")
    return lines


def _moment(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment else ""
