"""The new version beside the old one, on the same database, while clients are being served: blue-green and rolling.

Nothing here changes data, so nothing is ever restored: going back is leading the doors back.
"""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from django.conf import settings

from deployments import serving
from deployments.configuration import thaw
from deployments.models import Step
from deployments.run import Run, Stage
from deployments.steps.health_check import wait_until_healthy
from instances import doors
from instances.models import Instance
from instances.odoo import queries
from instances.odoo.plan import Plan
from instances.odoo.queries import Stored
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour
from ocore import waiting


def begin(stage: Stage, plan: Plan) -> None:
    """Write down what will be there, and clear away what an earlier failure may have left in its place."""
    run = stage.run
    new = {spec.name for spec in run.serving}
    stage.intend(
        first=False,
        containers=sorted(new),
        one_shot="",
        database=False,
        stored=asdict(plan.stored) if plan.stored != plan.basis[1] and not run.environment.shares_data else None,
    )
    old = {instance.container for instance in run.instances}
    for found in run.runtime.containers.list({"io.ocore.environment": run.environment.key, "io.ocore.role": "odoo"}):
        if found.name not in old | new:
            run.runtime.containers.remove(found.name)


def beside(stage: Stage, plan: Plan) -> str:
    """Blue-green: all of the new version runs, and no door leads there yet."""
    run = stage.run
    begin(stage, plan)
    waiting.together(*[partial(_start, run, spec) for spec in run.serving])
    return "Started beside the old version, which goes on serving"


def _start(run: Run, spec: Any) -> None:
    run.runtime.containers.create(spec)
    run.runtime.containers.start(spec.name)


def roll(stage: Stage, plan: Plan) -> str:
    """Rolling: one instance after the other is drained, replaced, checked and given back its clients."""
    run = stage.run
    begin(stage, plan)
    rolled: list[dict[str, Any]] = []
    for instance, spec in zip(run.instances, run.serving, strict=True):
        upstream, colour = doors.upstream(instance), instance.colour_of(spec.name)
        rolled.append(
            {
                "slug": instance.slug,
                "old": instance.container,
                "served": bool(instance.container) and instance.state != Instance.State.STOPPED,
                "colour": instance.colour,
            }
        )
        stage.intend(rolled=rolled)
        run.runtime.containers.create(spec)
        if rolled[-1]["served"]:
            left = run.runtime.edge.close_and_drain([upstream], settings.OCORE_DRAIN_SECONDS)
            if left:
                stage.log(f"{left} requests to {instance} did not end in time; they are cut off, unanswered.")
            run.runtime.containers.stop(instance.container, STOP_SECONDS)
        run.check()
        run.runtime.containers.start(spec.name)
        seconds = wait_until_healthy(run, {spec.name: instance.slug}, stage.log)
        run.runtime.containers.join_edge(spec.name, instance.name_at_edge(colour))
        run.check()
        run.runtime.edge.open([upstream], colour)
        stage.log(f"{instance} serves the new version, healthy after {seconds:.1f} s.")
    return f"{len(rolled)} instances replaced, one after the other"


def roll_back(stage: Stage, step: Step) -> None:
    """All that were replaced go back to the old version; the doors lead there before the new ones go."""
    run = stage.run
    instances = {instance.slug: instance for instance in run.instances}
    for one in step.facts.get("rolled", ()):
        instance, colour = instances[one["slug"]], Colour(one["colour"])
        run.check()
        if not one["served"]:
            run.runtime.edge.close_and_drain([doors.upstream(instance)], settings.OCORE_DRAIN_SECONDS)
            continue
        if run.live and run.runtime.containers.find(one["old"]) is None:  # somebody removed it: as it was made
            cron = instance == run.instances[0]
            spec = serving.container(run.live, thaw(run.live), instance, run.runtime, cron=cron)
            run.runtime.containers.create(replace(spec, name=one["old"]))
        run.runtime.containers.start(one["old"])
        run.runtime.containers.join_edge(one["old"], instance.name_at_edge(colour))
        wait_until_healthy(run, {one["old"]: one["slug"]}, stage.log, of=run.live)
        run.check()
        run.runtime.edge.open([doors.upstream(instance)], colour)
        run.runtime.edge.drain([doors.upstream(instance)], colour.other, settings.OCORE_DRAIN_SECONDS)
        stage.log(f"{instance} serves the old version again.")


def remember(run: Run, step: Step) -> None:
    """What the database is to know of this version, once it is live."""
    stored = step.facts.get("stored")
    if stored:
        run.runtime.databases.query(run.environment.database, queries.write_stored_sql(Stored(**stored)))
