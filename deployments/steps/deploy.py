"""Deploy: bring the database up to the new code, and start the new version beside the network of the clients."""

from functools import partial

from django.conf import settings
from django.utils import timezone

from deployments import serving
from deployments.models import Snapshot, Step
from deployments.run import Run, Stage
from deployments.states import GENTLE, StepKind, Way
from deployments.steps import copy, gentle, planning
from deployments.steps.base import NO_UPDATE, Nothing, Refused, UpdateFailed
from deployments.steps.snapshot import put_back, verify
from instances import doors, templates
from instances.odoo import queries, verdict
from instances.odoo.config import password_hash
from instances.odoo.failures import explain_failure
from instances.odoo.plan import Plan
from instances.runtimes.base import ContainerSpec
from ocore import waiting


def perform(stage: Stage) -> str:
    run = stage.run
    first = run.live is None
    if run.deployment.way == Way.STAYS:
        raise Nothing("What runs stays.")
    plan = planning.plan(run)
    if run.deployment.way in GENTLE:
        return gentle.roll(stage, plan) if run.deployment.way == Way.ROLLING else gentle.beside(stage, plan)
    if first and run.runtime.databases.exists(run.environment.database):
        raise Refused(
            f"There is a database {run.environment.database} on the server already, though {run.environment} was never "
            "live. Nothing was touched.",
            advice="Look at what it is; rename or drop it by hand, then deploy again.",
        )
    containers = [instance.container_for(run.deployment.pk) for instance in run.instances]
    stage.intend(first=first, containers=containers, one_shot=serving.update_name(run.deployment), database=False)
    if first and run.begins_with:
        copy.take(stage, run.begins_with)
    elif first:
        _create_database(stage)
    elif run.deployment.restores:
        _restore(stage, run.deployment.restores)
    elif run.deployment.takes_from and not run.deployment.takes_from.shares_data:
        copy.take_over(stage, run.deployment.takes_from)
    plan = planning.plan(run)
    run.check()
    with waiting.beside(*[partial(run.runtime.containers.create, spec) for spec in run.serving]):
        if run.update:
            _update(stage, plan, run.update)
        else:  # made when there seemed to be something to update
            run.runtime.containers.remove(serving.update_name(run.deployment))
    stage.intend(database=True)  # once it runs, the new version may write of its own accord
    with waiting.beside(*[partial(run.runtime.containers.start, spec.name) for spec in run.serving]):
        if plan.changes_database or plan.stored != plan.basis[1]:
            run.runtime.databases.query(run.environment.database, queries.write_stored_sql(plan.stored))
    return _outcome(plan)


def _outcome(plan: Plan) -> str:
    if "base" in plan.update:
        return "All modules updated"
    parts = [f"installed {', '.join(plan.install)}"] if plan.install else []
    parts += [f"updated {', '.join(plan.update)}"] if plan.update else []
    return "; ".join(parts).capitalize() or NO_UPDATE


def _create_database(stage: Stage) -> None:
    """A copy of this image's initialised database, made an own one, with an own administrator's password."""
    run = stage.run
    environment = run.environment
    template = templates.ensure(
        run.runtime, run.config.base_image, run.config.environment["odoo_version"], stage.log, run.check
    )
    run.check()
    run.runtime.databases.create_role(environment.database, environment.database_password)
    run.runtime.filestores.ensure(environment.volume, run.config.base_image)
    run.runtime.databases.create(environment.database, environment.database, template.database, template.owner)
    identity = queries.new_identity_sql(environment.url, timezone.now())
    run.runtime.databases.query(environment.database, identity)
    if not run.runtime.databases.query(environment.database, _administrator(run)):
        raise Refused("The initialised database has no administrator, so nobody could log in.")
    stage.log(f"Database {environment.database} created. Odoo's administrator is “admin”; its password is in oCore.")


def _administrator(run: Run) -> str:
    return queries.set_admin_sql("admin", password_hash(run.environment.odoo_admin_password))


def _restore(stage: Stage, snapshot: Snapshot) -> None:
    """The data of an earlier instant. Today's is kept in this deployment's own snapshot, and that one stays too."""
    run = stage.run
    environment, runtime = run.environment, run.runtime
    stage.intend(database=True)
    stage.log(f"Putting back the data as of {snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC")
    run.check()
    runtime.databases.clone(snapshot.database, environment.database)
    files = runtime.filestores.restore(environment.volume, environment.database, snapshot.label)
    verify(run, snapshot, files)


def _update(stage: Stage, plan: Plan, spec: ContainerSpec) -> None:
    run = stage.run
    environment = run.environment
    stage.intend(database=True)
    whole: list[str] = []

    def keep(text: str) -> None:
        whole.append(text if text.endswith("\n") else text + "\n")
        stage.log(text)

    total, silence = settings.OCORE_DEADLINES[StepKind.DEPLOY]
    exit = run.runtime.containers.run(spec, keep, timeout=total, silence=silence)
    rows = queries.module_rows(run.runtime.databases.query(environment.database, queries.MODULE_ROWS_SQL))
    log = "".join(whole)
    problems = verdict.judge_update(exit.code, log, rows, plan.expected)
    if problems:
        failure = explain_failure(log, exit.code)
        detail = "\n".join([*problems, "", failure.excerpt])
        raise UpdateFailed(failure.what if exit.code else problems[0], detail=detail, advice=failure.advice)


def undo(stage: Stage, step: Step) -> None:
    """The new containers go; the database and the filestore become what they were, or go too if they were new."""
    run = stage.run
    environment, runtime = run.environment, run.runtime
    gentle.roll_back(stage, step)
    for name in filter(None, [*step.facts["containers"], step.facts["one_shot"]]):
        run.check()
        runtime.containers.remove(name)
    if step.facts["first"]:
        runtime.edge.close(doors.upstreams(environment))
        run.check()
        runtime.databases.drop(environment.database)
        if environment.second_of is None:
            runtime.databases.drop_role(environment.role)
        runtime.filestores.remove(environment.volume)
        copy.undo(run, step)
        for instance in run.instances:
            instance.become(instance.State.NEW, timezone.now())
    elif step.facts["database"]:
        snapshot = Snapshot.objects.get(deployment=run.deployment)
        stage.log(f"Database and filestore go back to the data as of {snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC")
        put_back(run, snapshot)
