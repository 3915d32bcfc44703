"""Which environments a pushed ref reaches, and why the others not. What decides when a push arrives is what the page
that explains it asks."""

import re
from dataclasses import dataclass

from django.conf import settings
from django.db.models import QuerySet

from projects.hosts import RefChange
from projects.inheritance import resolve
from projects.models import BranchRule, Environment, Project

_ASKED = (
    "name",
    "slug",
    "kind",
    "branch",
    "auto_deploy",
    "skip_words",
    "removing_since",
    "second_of",
    "server",
    "project",
)
"""Of an environment, what a push is decided by: each column costs a webhook's answer some of its time, and a password
has to be decrypted."""
_TRAILER = re.compile(r"^skip-checks:[ \t]*true[ \t]*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Reached:
    environments: tuple[Environment, ...]
    how: str
    """By what: an exact branch, or a rule; where it is none, why."""
    rule: BranchRule | None = None


def reached(project: Project, change: RefChange, *, lock: bool = False) -> Reached:
    """Every environment whose own branch it is; else that of the first rule that matches. With `lock`, so that of two
    deliveries of one commit at once the second sees what the first has queued."""
    rows: QuerySet[Environment] = project.environments.order_by("pk").only(*_ASKED)
    if lock:
        rows = rows.select_for_update(of=("self",))
    if change.deleted:
        return Reached((), "A ref was deleted; that deploys nothing.")
    if change.type == "other":
        return Reached((), f"Only branches and tags deploy; this push moved {change.ref}.")
    if change.type == "branch":
        found = tuple(rows.filter(branch=change.name))
        if found:
            return Reached(found, f"Its branch is {change.name}.")
    rules = list(BranchRule.objects.filter(project=project).order_by("priority"))
    rule = next((one for one in rules if one.matches(change.type, change.name)), None)
    if rule is None:
        return Reached((), _why_none(project, change, rules))
    return Reached(tuple(rows.filter(pk=rule.environment_id)), f"The rule “{rule}” sends it there.", rule)


def _why_none(project: Project, change: RefChange, rules: list[BranchRule]) -> str:
    if change.type == "tag":
        return f"No rule of {project.name} deploys the tag {change.name}."
    end = ", and none of its rules matches" if any(one.kind == "branch" for one in rules) else ""
    return f"No environment of {project.name} is mapped to the branch {change.name}{end}."


def why_not(environment: Environment, change: RefChange, by: Reached) -> str:
    """Of an environment that it doesn't reach."""
    if change.deleted or change.type == "other":
        return by.how
    own = [one for one in environment.branch_rules.all() if one.matches(change.type, change.name)]
    if own and by.rule:
        return f"Its rule “{own[0]}” matches too, but “{by.rule}” comes first."
    if own:
        return f"Its rule “{own[0]}” matches, but the branch is another environment's own, and that comes first."
    if change.type == "tag":
        return f"None of its rules matches the tag {change.name}."
    has = f"Its branch is {environment.branch}" if environment.branch else "It has no branch of its own"
    return f"{has}, and none of its rules matches {change.name}."


def unwanted(environment: Environment, message: str) -> str:
    """Why an environment that it reaches doesn't take what is pushed by itself; "" if it does."""
    auto = resolve(environment, "auto_deploy")
    if not auto.value:
        return f"Auto-deploy of {environment.path} is off (from {auto.origin}); the commits are shown as pending."
    word = asks_to_be_skipped(message)
    if not word:
        return ""
    skips = resolve(environment, "skip_words")
    return f"Skipped: its head commit says “{word}”." if skips.value else ""


def asks_to_be_skipped(message: str) -> str:
    """The words by which a commit asks not to be deployed, "" without any."""
    lowered = message.lower()
    found = next((word for word in settings.OCORE_SKIP_WORDS if word.lower() in lowered), "")
    return found or ("skip-checks: true" if _TRAILER.search(message) else "")
