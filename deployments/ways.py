"""How a deployment puts the new version in the old one's place: the gentlest way that is safe, and why this one."""

from collections.abc import Iterable
from typing import Any

from deployments import run as runs
from deployments.states import Way
from deployments.steps import planning
from deployments.steps.base import Refused
from instances.models import Door, Instance
from instances.odoo.plan import Plan
from ocore.forms import format_size
from projects.inheritance import Strategy

ODOO_BYTES = 300 * 1024**2
"""What an Odoo takes soon after its start: 149 MB idle, 280 MB with two workers and seventy modules, and some air."""
WORKER_BYTES = 150 * 1024**2


def choose(run: runs.Run, plan: Plan) -> tuple[Way, str]:
    """The way, and in a sentence why."""
    strategy = run.config.environment["strategy"]
    if run.environment.shares_data and run.live is None:
        return Way.BLUE_GREEN, f"It uses the database of {run.environment.second_of}, beside which it starts."
    reason = _must_be_recreated(run, plan)
    _refuse_beside_another(run, reason or (strategy == Strategy.RECREATE and "the strategy is to recreate"))
    if reason:
        return Way.RECREATE, reason
    if strategy == Strategy.RECREATE:
        return Way.RECREATE, "So the environment's strategy wants it."
    if strategy == Strategy.AUTO and planning.may_stay(run, plan):
        return Way.STAYS, "Nothing that runs differs from what is live."
    several = len([one for one in run.instances if one.container and one.state != Instance.State.STOPPED]) > 1
    if strategy == Strategy.ROLLING:
        if several:
            return Way.ROLLING, "So the environment's strategy wants it; no module is installed or updated."
        return Way.BLUE_GREEN, "One instance alone can't be replaced one after the other; no module is updated."
    free = run.environment.server.facts.get("memory_free_bytes")
    short = short_of_memory(free, [run.config.instance(one.slug) for one in run.instances])
    if strategy == Strategy.AUTO and short:
        if several:
            return Way.ROLLING, f"No module is updated, and {short}: one instance after the other."
        return Way.RECREATE, f"No module is updated, but {short}: two versions at once might not fit."
    return Way.BLUE_GREEN, "No module is installed or updated, so old and new version can use the database together."


def _refuse_beside_another(run: runs.Run, reason: str | bool) -> None:
    """While a second version uses the same database, nobody may change it under the other, or copy it meanwhile. Raises
    `Refused`."""
    environment = run.environment
    other = environment.second_of if environment.shares_data else environment.beside
    if (
        reason
        and other is not None
        and other != run.deployment.takes_from
        and (environment.shares_data or other.shares_data)
    ):
        raise Refused(
            f"{other} uses the same database, so it cannot be changed or restored now. {reason}",
            advice="End the second version first (keep one of the two), then deploy again.",
        )


def _must_be_recreated(run: runs.Run, plan: Plan) -> str:
    """Why nobody may be served meanwhile; empty when old and new version may run side by side."""
    if run.live is None:
        return "It is the first deployment."
    if run.deployment.restores:
        return "The data of an earlier instant is put back."
    if run.deployment.takes_from and run.deployment.brings_data:
        return f"The data of {run.deployment.takes_from} takes its place."
    if plan.changes_database:
        changed = [*plan.install, *plan.update]
        named = "all modules" if "base" in plan.update else ", ".join(changed[:5]) + ("…" if len(changed) > 5 else "")
        return f"The database is changed ({named}): nobody may write meanwhile."
    if run.live.base_image_id != run.deployment.base_image_id:
        return "The Odoo image below the addons is another one."
    if Door.objects.filter(environment=run.environment).exists():
        return "The door is closed anyway."
    return ""


def short_of_memory(free: int | None, values: Iterable[dict[str, Any]]) -> str:
    """Why instances with these settings may not fit beside what runs, where so many bytes are free; empty when they
    do, or nobody knows."""
    needed = sum(_may_take(one) for one in values)
    if free is None or free >= needed:
        return ""
    return f"the server has {format_size(free)} of memory left, and a second set may take {format_size(needed)}"


def _may_take(values: dict[str, Any]) -> int:
    usual = ODOO_BYTES + WORKER_BYTES * int(values["workers"])
    return min(values["memory_limit"] or usual, usual)
