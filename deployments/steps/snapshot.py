"""Snapshot: close the door, drain, stop the old version, and keep database, filestore and configuration together.

From the door's closing until a version is healthy again nobody writes, so what a rollback puts back is what there was.
"""

import hashlib
import json
from functools import partial
from typing import Any

from django.conf import settings
from django.utils import timezone

from deployments import estimates, renewal, space, ways
from deployments.models import Snapshot, Step
from deployments.run import Lost, Run, Stage
from deployments.states import GENTLE, Way
from deployments.steps import copy, planning
from deployments.steps.base import DataLost, Nothing
from deployments.steps.health_check import wait_until_healthy
from instances import doors
from instances.models import Door, Instance
from instances.processes import STOP_SECONDS
from instances.runtimes.base import Colour, ContainerSpec, DatabaseError, FilestoreFacts, aside_name
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.forms import format_size

# The instant that a database is at, cheap at any size: a row inserted moves a sequence, an update a module's version.
FINGERPRINT_SQL = """
SELECT md5(sequences.all || modules.all), pg_database_size(current_database()) FROM
  (SELECT COALESCE(string_agg(concat(schemaname, '.', sequencename, '=', last_value), ','
                              ORDER BY schemaname, sequencename), '') AS all FROM pg_sequences) AS sequences,
  (SELECT COALESCE(string_agg(concat(name, state, latest_version), ',' ORDER BY name), '') AS all
   FROM ir_module_module) AS modules
"""


class OldVersionGone(ExpectedError):
    """What ran before can't be started any more; its data is where it was."""


class RestoreFailed(ExpectedError):
    """What came back is not what was kept."""


def perform(stage: Stage) -> str:
    run = stage.run
    environment, runtime = run.environment, run.runtime
    try:
        plan = planning.plan(run)
    except DatabaseError as error:
        if run.live and not runtime.databases.exists(environment.database):
            raise DataLost(
                f"The database {environment.database} of {environment} is not on {environment.server} any more."
            ) from error
        raise
    planning.tell(plan, stage.log)
    way, because = ways.choose(run, plan)
    run.save(way=way, way_because=because)
    stage.log(f"{way.label}. {because}")
    if way == Way.STAYS:
        doors.ensure_routes(environment.server, runtime, stage.log, seen=run.ahead.routes)
        raise Nothing("Nothing that runs differs from what is live: it stays, and no request waits.")
    if not Door.objects.filter(environment=environment).exists():
        for instance in run.instances:
            if instance.untidy:  # a restart has not ended: what serves is what its row says, from now on
                renewal.tidy(instance, runtime)
    _take_in(run)
    run.check()
    if way in GENTLE:
        if run.live is None:
            runtime.edge.close(
                doors.upstreams(environment)
            )  # an earlier environment of this name may have left it open
        doors.ensure_routes(environment.server, runtime, stage.log, seen=run.ahead.routes)
        raise Nothing("The database is not changed, and clients go on writing: there is nothing to keep.")
    old = [instance for instance in run.instances if instance.container]
    beside = [partial(space.require_for_snapshot, run), partial(estimates.announce, run)] if old else []
    with waiting.beside(*beside):
        doors.ensure_routes(environment.server, runtime, stage.log, seen=run.ahead.routes)
    if not old:
        runtime.edge.close(doors.upstreams(environment))  # an earlier environment of this name may have left it open
        raise Nothing("The first deployment: there is nothing to keep yet.")
    snapshot = _row(run)
    new = [*run.serving, *([run.update] if run.update else [])]
    stage.intend(
        snapshot=snapshot.pk,
        old=[
            {
                "slug": one.slug,
                "container": one.container,
                "serves": one.state != Instance.State.STOPPED,
                "name": one.name_at_edge(Colour(one.colour)),
            }
            for one in old
        ],
        made=[spec.name for spec in new],
    )
    # While the last requests end: what is made now, no client waits for later.
    free = environment.server.facts.get("memory_free_bytes")
    ready = not ways.short_of_memory(free, [run.config.instance(one.slug) for one in run.instances])
    with waiting.beside(*[partial(_make, run, spec, ready=ready and spec == run.update) for spec in new]):
        left = doors.close(environment, runtime, holder=str(run.deployment))
        if left:
            stage.log(
                f"{left} requests did not end within {settings.OCORE_DRAIN_SECONDS} s; they are cut off, unanswered."
            )
        run.check()
        if run.deployment.takes_from:
            copy.hold(stage, run.deployment.takes_from)
        _stop_everything(run)
    stage.log("The door is closed, the old version is stopped. Nobody writes now.")
    run.check()
    # By the time that the database is brought up to the new code, these have loaded theirs.
    with waiting.beside(*[partial(runtime.containers.get_ready, spec.name) for spec in run.serving if ready]):
        take(run, snapshot)
    stage.log(f"Kept: {format_size(snapshot.size_bytes)}, {snapshot.checksums['filestore']['files']} files.")
    return f"{format_size(snapshot.size_bytes)} kept, data as of {snapshot.taken_at:%H:%M:%S} UTC"


def _make(run: Run, spec: ContainerSpec, *, ready: bool) -> None:
    run.runtime.containers.create(spec)
    if ready:
        run.runtime.containers.get_ready(spec.name)


def _take_in(run: Run) -> None:
    """Instances that were added since the last deployment: they get a place at the edge, and take turns as the others
    do."""
    colours = [one.colour_of("the next one") for one in run.instances if one.container]
    for instance in run.instances:
        if instance.state == Instance.State.NEW:
            colour = next(iter(colours), instance.colour)
            Instance.objects.filter(pk=instance.pk).update(state=Instance.State.CREATING, colour=colour)


def _stop_everything(run: Run) -> None:
    """Every Odoo of the environment, also one that an earlier failure may have left running: nobody may write now."""
    found = run.runtime.containers.list({"io.ocore.environment": run.environment.key, "io.ocore.role": "odoo"})
    waiting.together(*[partial(run.runtime.containers.stop, one.name, STOP_SECONDS) for one in found])


def _row(run: Run) -> Snapshot:
    environment, deployment = run.environment, run.deployment
    live = run.live
    snapshot, _ = Snapshot.objects.get_or_create(
        deployment=deployment,
        defaults={
            "environment": environment,
            "of": live,
            "database": f"{environment.database}__s{deployment.pk}",
            "label": f"s{deployment.pk}",
            "configuration": live.configuration if live else {},
        },
    )
    return snapshot


def take(run: Run, snapshot: Snapshot) -> None:
    """Database and filestore, with their checksums on the snapshot's row. Nobody may write meanwhile."""
    environment, runtime = run.environment, run.runtime
    snapshot.taken_at = timezone.now()  # since nobody writes any more, the instant that the data is of
    link = partial(runtime.filestores.snapshot, environment.volume, environment.database, snapshot.label)
    with waiting.beside(link) as (linking,):
        runtime.databases.clone(environment.database, snapshot.database)
        # Where a second version takes its place, the plan is of that one's data.
        again = [] if run.deployment.takes_from else [partial(planning.plan_again, run, snapshot.database)]
        with waiting.beside(*again):
            fingerprint, size = runtime.databases.query(snapshot.database, FINGERPRINT_SQL)[0]
    files = linking.result()
    configuration = json.dumps(snapshot.configuration, sort_keys=True).encode()
    checksums = {
        "database": fingerprint,
        "filestore": {"files": files.files, "size_bytes": files.size_bytes, "sha256": files.sha256},
        "configuration": hashlib.sha256(configuration).hexdigest(),
    }
    _record(
        run,
        snapshot,
        Snapshot.State.READY,
        taken_at=snapshot.taken_at,
        checksums=checksums,
        size_bytes=int(size) + files.size_bytes,
    )


def _record(run: Run, snapshot: Snapshot, state: Snapshot.State, **fields: Any) -> None:
    """Only the holder says what became of it: a late word would promise what another has removed. Raises `Lost`."""
    ours = Snapshot.objects.filter(pk=snapshot.pk, deployment__token=run.token)
    if not ours.update(state=state, **fields):
        raise Lost(f"{run.deployment} is no longer held under token {run.token}")
    for name, value in {"state": state, **fields}.items():
        setattr(snapshot, name, value)


def put_back(run: Run, snapshot: Snapshot) -> None:
    """The environment's database and filestore become the snapshot's, in seconds whatever their size. Idempotent."""
    environment, runtime = run.environment, run.runtime
    run.check()
    restore = partial(runtime.filestores.restore, environment.volume, environment.database, snapshot.label)
    with waiting.beside(restore) as (restoring,):
        runtime.databases.put_back(snapshot.database, environment.database)
        fingerprint = _fingerprint(run)
    _compare(snapshot, fingerprint, restoring.result())
    _record(run, snapshot, Snapshot.State.RESTORED)


def verify(run: Run, snapshot: Snapshot, files: FilestoreFacts) -> None:
    """Raises `RestoreFailed` when database or filestore are not what the snapshot's checksums say."""
    _compare(snapshot, _fingerprint(run), files)


def _fingerprint(run: Run) -> str:
    return str(run.runtime.databases.query(run.environment.database, FINGERPRINT_SQL)[0][0])


def _compare(snapshot: Snapshot, fingerprint: str, files: FilestoreFacts) -> None:
    wrong = []
    if fingerprint != snapshot.checksums["database"]:
        wrong.append("database")
    if files.sha256 != snapshot.checksums["filestore"]["sha256"]:
        wrong.append("filestore")
    if wrong:
        raise RestoreFailed(
            f"After putting {snapshot} back, its checksum differs: {' and '.join(wrong)}.",
            advice="The door stays closed. See docs/operations.md, “A rollback failed”, before anybody writes.",
        )


def undo(stage: Stage, step: Step) -> None:
    """Start what ran before, see that it is healthy, and let the clients in again."""
    run = stage.run
    runtime = run.runtime
    for name in step.facts.get("made", ()):
        run.check()
        runtime.containers.remove(name)
    before = [one for one in step.facts["old"] if one["serves"]]
    for one in before:
        if runtime.containers.find(one["container"]) is None:
            then = run.live.commit[:10] if run.live and run.live.commit else "the version before"
            raise OldVersionGone(
                f"The old version's container {one['container']} was removed by somebody.",
                advice=f"Its data is back. Deploy {then} with force: that makes the container anew and opens the door.",
            )
        run.check()
        runtime.containers.start(one["container"])
        # Before an upgrade no name was written down: all were blue then.
        name = one.get("name") or run.environment.instances.get(slug=one["slug"]).name_at_edge(Colour.BLUE)
        runtime.containers.join_edge(one["container"], name)
    if before:
        seconds = wait_until_healthy(run, {one["container"]: one["slug"] for one in before}, stage.log, of=run.live)
        stage.log(f"The old version is healthy again after {seconds:.1f} s.")
        for instance in run.environment.instances.filter(slug__in=[one["slug"] for one in before]):
            instance.become(Instance.State.RUNNING, timezone.now())
    run.check()
    doors.open(run.environment, runtime, holder=str(run.deployment))
    copy.give_back(run, step)
    _tidy(stage, Snapshot.objects.get(pk=step.facts["snapshot"]))


def _tidy(stage: Stage, snapshot: Snapshot) -> None:
    """What was kept is what is live again; clients wait no more. A copy that can't be removed now costs disk; it
    doesn't undo the undo."""
    environment, runtime = stage.run.environment, stage.run.runtime
    restored = snapshot.state == Snapshot.State.RESTORED
    try:
        runtime.databases.drop(aside_name(environment.database) if restored else snapshot.database)
        runtime.filestores.discard(environment.volume, snapshot.label)
    except ExpectedError as error:
        stage.log(f"A copy could not be removed now, and will be later: {error.message}")
        _record(stage.run, snapshot, Snapshot.State.REMOVING)
        return
    if not restored:
        _record(stage.run, snapshot, Snapshot.State.GONE)
