"""What a deployment will do to the database, decided while everything still runs."""

from collections.abc import Callable, Sequence
from typing import Any

from deployments import serving
from deployments.configuration import thaw
from deployments.models import Deployment
from deployments.run import Run
from deployments.steps.base import Refused
from instances import templates
from instances.addons import Addon
from instances.odoo import plan as odoo_plan
from instances.odoo import queries
from instances.odoo.failures import explain_failure
from instances.odoo.plan import Basis, Plan, Policy
from instances.odoo.queries import ModuleRow, Stored
from instances.odoo.versions import series

LOOK_SECONDS = 120.0


class ModulesMissing(Refused):
    default_advice = "Uninstall them in Odoo first, or bring them back into the repository; then deploy again."


class InvalidCode(Refused):
    """The image's Python cannot read what Odoo would load."""


class ChangedMeanwhile(Refused):
    default_advice = "Deploy again: what has to be updated is then decided anew."


class ModulesDiffer(Refused):
    default_advice = (
        "Give the second version a copy of the data of its own; or bring this change to the first environment, in "
        "which modules can be updated once no second version uses its database."
    )


class OtherVersion(Refused):
    default_advice = (
        "Make a new environment for the new version and bring the data there with Odoo's own upgrade; "
        "or set the version back."
    )


def plan(run: Run) -> Plan:
    """Decided once in a run, before the door closes: what is decided later is waited for by clients."""
    if run.plan is None:
        run.plan = _plan(run)
    return run.plan


def plan_again(run: Run, copy: str) -> None:
    """From the copy that was taken behind the closed door, before anything is changed: made anew if somebody installed,
    updated or removed a module in Odoo since the plan was made. Nobody writes any more, so this one holds. Raises as
    `plan`."""
    if run.deployment.restores:
        return  # planned from data of another time, which nobody can have changed
    read = _read(run, copy)
    if read != plan(run).basis:
        run.plan = _decide(run, *read)


def require_the_same(run: Run) -> None:
    """Nobody has installed, updated or removed a module since the plan was made. Raises `ChangedMeanwhile`."""
    if read(run) != plan(run).basis:
        raise ChangedMeanwhile(
            "Somebody installed, updated or removed a module in Odoo while the new version was starting."
        )


def _plan(run: Run) -> Plan:
    """Raises `ModulesMissing`, `OtherVersion` and what `plan_update` raises: nothing has been touched then."""
    _refuse_other_version(run)
    return _decide(run, *(run.ahead.basis or read(run)))


def read(run: Run) -> Basis:
    """What the plan is made from. What changes afterwards, `plan_again` finds."""
    return _read(run, _database(run))


def _read(run: Run, database: str) -> Basis:
    """All that a plan takes from the database."""
    return queries.read_basis(run.runtime.databases.query(database, queries.BASIS_SQL))


def _decide(run: Run, rows: tuple[ModuleRow, ...], stored: Stored | None) -> Plan:
    shares = run.environment.shares_data
    found = odoo_plan.plan_update(
        Policy.VERSION if shares else run.config.environment["update_policy"],
        run.config.wanted_modules,
        rows,
        stored,
        _addons(run.deployment),
        base_image=run.deployment.base_image_id,
        base_image_before="" if run.live or run.begins_with else templates.image_id(run.runtime, run.config.base_image),
    )
    if found.missing:
        raise ModulesMissing(
            f"Installed in the database, but no longer in the repository: {', '.join(found.missing)}. "
            "Odoo would not start with them missing. Nothing was changed."
        )
    if shares and found.changes_database:
        told = "; ".join(
            f"{name}: {found.reasons.get(name, 'to be changed')}" for name in (*found.install, *found.update)
        )
        raise ModulesDiffer(
            f"{run.environment} uses the database of {run.environment.second_of}, whose modules are of other versions: "
            f"{told}. Nothing was changed."
        )
    if found.suspects:
        _ask_the_image(run, found.suspects)
    return found


def _addons(deployment: Deployment) -> list[Addon]:
    tuples = ("depends", "suspects")
    return [Addon(**(row | {name: tuple(row.get(name, ())) for name in tuples})) for row in deployment.addons.values()]


def _ask_the_image(run: Run, suspects: Sequence[str]) -> None:
    """Its own Python, which may be newer than the portal's, has the last word. Raises `InvalidCode`."""
    spec = serving.look_at_code(run.deployment, suspects)
    said = run.runtime.containers.run(spec, lambda _: None, timeout=LOOK_SECONDS, silence=LOOK_SECONDS)
    if not said.ok:
        failure = explain_failure(said.output, said.code)
        raise InvalidCode(failure.what, detail=said.output.strip(), advice=failure.advice)


def _refuse_other_version(run: Run) -> None:
    """Another Odoo series cannot read this database; only the one that it belongs to may be put on it."""
    source = run.begins_with
    live = Deployment.objects.filter(environment=source, live=True).first() if source else run.live
    if live is None or run.deployment.brings_data:
        return
    then = thaw(live).environment["odoo_version"]
    now = run.config.environment["odoo_version"]
    if series(then).name != series(now).name:
        raise OtherVersion(f"{run.environment} has a database of Odoo {then}; Odoo {now} cannot run on it.")


def _database(run: Run) -> str:
    """Whose modules the plan starts from: the one to be restored, the living one, or the one it will be copied from."""
    if run.deployment.restores:
        return run.deployment.restores.database
    if run.deployment.takes_from:
        return run.deployment.takes_from.database
    if run.begins_with:
        return run.begins_with.database
    return run.environment.database if run.live else templates.name_for(run.runtime, run.config.base_image)


def tell(found: Plan, log: Callable[[str], None]) -> None:
    for name in found.install:
        log(f"Will install {name}: {found.reasons.get(name, '')}")
    for name in found.update:
        log(f"Will update {name}: {found.reasons.get(name, '')}")
    for notice in found.notices:
        log(notice)
    if not found.changes_database:
        log("No module needs an update.")


def may_stay(run: Run, found: Plan) -> bool:
    """This deployment would put the very same in the place of what runs."""
    if found.changes_database or run.deployment.brings_data:
        return False
    live = run.live
    if live is None or run.deployment.forced or not live.content or live.content != run.deployment.content:
        return False
    if _running_values(live) != _running_values(run.deployment):
        return False
    return all(_serves(run, instance.container) for instance in run.instances)


def _running_values(deployment: Deployment) -> dict[str, Any]:
    configuration = deployment.configuration
    values = {
        slug: {name: entry["value"] for name, entry in settings.items()}
        for slug, settings in configuration["instances"].items()
    }
    return {"values": values, "secret": deployment.secret_variables, "base": configuration["base_image"]}


def _serves(run: Run, container: str) -> bool:
    found = run.runtime.containers.find(container) if container else None
    return bool(found and found.running)
