"""What goes, what stays and why; and that neither a race nor a crash takes what a rollback needs."""

import fcntl
import hashlib
import os
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.utils import timezone

from deployments import removal, services
from deployments.images import lock_of
from deployments.models import Delivery, Deployment, LogChunk, Snapshot, Step
from deployments.retention import sweep as retention
from deployments.retention.verdicts import Kind, Thing, judge
from deployments.services import NotPossible
from deployments.states import Status, StepKind, Trigger
from instances import templates
from instances.models import Door, HealthCheck, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import ContainerSpec, RunFailed, ServerUnreachable
from instances.runtimes.simulated import DATABASE_BYTES, IMAGE_BYTES, Faults
from ocore.locks import file_lock
from projects.models import Environment
from tests import factories
from tests.acme import ADA, addon
from tests.conftest import Queues
from tests.git_remote import GitRemote

DAY = timedelta(days=1)
MB = 1024**2


@pytest.fixture(autouse=True)
def _all_of_it(queues: Queues) -> None:
    """A deployment is followed by all that it is in real life."""
    queues.left_out.clear()


def old(model: Any, days: int = 400) -> None:
    """Make what there is so many days older."""
    name = {Deployment: "created_at", Snapshot: "taken_at", Delivery: "received_at"}[model]
    for row in model.objects.all():
        model.objects.filter(pk=row.pk).update(**{name: getattr(row, name) - days * DAY})


def thing(name: str, days: int = 0, **more: Any) -> Thing:
    said = {"kind": Kind.SNAPSHOT, "of": "Acme", "group": "acme", "remove": lambda: None, "size_bytes": 10} | more
    return Thing(name=name, since=timezone.now() - days * DAY, **said)


def reasons(*things: Thing, free: int = 100, wanted: int = 0, **more: Any) -> dict[str, str]:
    return {one.thing.name: one.sentence for one in judge(things, free=free, wanted=wanted, **more)}


def told(environment: Environment | None, name: str, kind: str = "") -> str:
    """What becomes of the thing of that name, as people read it."""
    found = retention.survey(environment.server if environment else None)
    things = [one for one in found.verdicts if one.thing.name == name and kind in ("", one.thing.kind)]
    (sentence,) = {one.sentence for one in things}
    return sentence


def sweep(environment: Environment | None, **more: Any) -> list[str]:
    swept = retention.sweep(environment.server if environment else None, **more)
    assert not swept.failed
    return [one.thing.name for one in swept.removed]


class TestTheRule:
    def test_so_many_of_each_group_are_kept_and_the_older_ones_go(self, settings):
        settings.OCORE_KEEP_SNAPSHOTS = 2
        said = reasons(thing("a", 3), thing("b", 1), thing("c", 2), thing("d", 4, group="other", of="Other"))
        assert said["b"] == said["c"] == "kept: among the newest 2 of Acme, not older than 30 days"
        assert said["a"] == "removed: not among the newest 2 of Acme"
        assert said["d"].startswith("kept: among the newest 2 of Other")

    def test_what_is_over_its_days_goes_even_as_the_newest(self):
        assert reasons(thing("a", 31), thing("b", 29)) == {
            "a": "removed: older than 30 days",
            "b": "kept: among the newest 5 of Acme, not older than 30 days",
        }

    def test_what_is_needed_stays_whatever_else_holds(self, settings):
        settings.OCORE_KEEP_SNAPSHOTS = 0
        needed = thing("a", 400, needed="what runs in Acme", over="it is over", unknown="unknown")
        assert reasons(needed, free=0, wanted=100) == {"a": "kept: what runs in Acme"}

    def test_on_a_full_disk_the_oldest_that_nobody_needs_go_first_and_only_as_many_as_it_takes(self):
        things = [thing("a", 3), thing("b", 2), thing("c", 1), thing("d", 9, needed="needed")]
        said = reasons(*things, free=85, wanted=100)
        assert said["a"] == said["b"]
        assert said["a"] == "removed: the oldest that no rollback needs; the disk has less than 100 B free"
        assert said["c"].startswith("kept: among")
        assert said["d"] == "kept: needed"

    def test_what_goes_anyway_counts_as_room(self):
        said = reasons(thing("a", 40), thing("b", 2), free=90, wanted=100)
        assert [one.startswith("kept") for one in said.values()] == [False, True]

    def test_what_lies_on_another_disk_makes_no_room_on_this_one(self):
        elsewhere = thing("a", 3, frees=False)
        assert reasons(elsewhere, thing("b", 2), free=95, wanted=100)["a"].startswith("kept")

    def test_what_no_row_knows_is_left_until_somebody_asks_for_its_removal(self):
        stray = thing("a", 400, unknown="nothing knows it")
        assert reasons(stray, free=0, wanted=100) == {"a": "kept: nothing knows it"}
        assert reasons(stray, also_unknown=True)["a"].startswith("removed: nothing on record knows it")


@pytest.fixture
def versions(production: Environment, queues: Queues, faults: Faults) -> list[Deployment]:
    """Five deployments of Acme's production that went live one after the other; the last one runs. As they leave rows
    and server; without having been run, which takes a second for each."""
    runtime: Any = runtime_for(production.server)
    labels = {"io.ocore.namespace": settings.OCORE_NAMESPACE}
    base = runtime.images.ensure_base("odoo:19.0", lambda _: None)
    began = timezone.now() - timedelta(hours=1)
    made: list[Deployment] = []
    with runtime.images._store.open() as state:
        state["volumes"][production.volume] = {"filestore": {}, "snapshots": {}}
        empty = {"modules": {}, "parameters": {}, "rows": [], "sequence": 0, "owner": ""}
        state["databases"] |= {production.database: empty, name_of_template(base.id): empty}
        for number in range(5):
            live_at = began + timedelta(minutes=number)
            made.append(
                factories.deployment(
                    production,
                    image=f"{settings.OCORE_NAMESPACE}/acme:{number}",
                    base_image_id=base.id,
                    live=number == 4,
                    created_at=live_at,
                    live_at=live_at,
                )
            )
            state["images"][made[-1].image] = {
                "id": f"sha256:{number}",
                "labels": labels | {"io.ocore.project": "acme"},
                "addons": {},
            }
            if number:
                name = f"{production.database}__s{made[-1].pk}"
                state["databases"][name] = empty
                state["volumes"][production.volume]["snapshots"][f"s{made[-1].pk}"] = []
                dump = Path("dumps") / production.key / f"{made[-1].pk}.dump"
                (Path(settings.STATE_DIR) / dump).parent.mkdir(parents=True, exist_ok=True)
                (Path(settings.STATE_DIR) / dump).write_text("dump")
                Snapshot.objects.create(
                    environment=production,
                    deployment=made[-1],
                    of=made[-2],
                    state="ready",
                    taken_at=live_at,
                    database=name,
                    label=f"s{made[-1].pk}",
                    dump_path=str(dump),
                    dump_bytes=4,
                )
        name = production.instances.get().container_for(made[-1].pk)
        state["containers"][name] = {
            "state": "running",
            "image": made[-1].image,
            "database": production.database,
            "labels": labels | {"io.ocore.environment": production.key, "io.ocore.project": "acme"},
            "alias": "",
        }
    production.instances.update(container=name, state=Instance.State.RUNNING)
    mirror = Path(settings.STATE_DIR) / "mirrors"
    (mirror / "acme.git").mkdir(parents=True)
    (mirror / "acme.git" / "HEAD").write_text("ref: refs/heads/main")
    return made


def name_of_template(base: str) -> str:
    return f"ocore_base_{hashlib.sha256(base.encode()).hexdigest()[:12]}"


@pytest.fixture
def strict(settings: Any) -> Any:
    """Nothing but what is needed stays."""
    for name in ("SNAPSHOTS", "IMAGES", "DUMPS", "DEPLOYMENTS", "LOGS"):
        setattr(settings, f"OCORE_KEEP_{name}", 0)
    settings.OCORE_KEEP_ROLLBACKS = 2
    return settings


def snapshot_of(deployment: Deployment) -> Snapshot:
    """Its data, as they were when it was replaced."""
    return Snapshot.objects.get(of=deployment)


@pytest.mark.django_db(transaction=True)
class TestOnAServer:
    def test_nothing_goes_at_first_and_each_thing_says_why_it_is_kept(
        self, versions: list[Deployment], production: Environment
    ) -> None:
        live = versions[-1]
        assert told(production, live.image) == "kept: what runs in Acme / Production"
        needed = f"kept: a rollback to #{versions[2].pk} in Acme / Production would need it"
        assert told(production, snapshot_of(versions[2]).database) == told(production, versions[2].image) == needed
        limited = "kept: among the newest 5 of Acme / Production, not older than 30 days"
        assert told(production, snapshot_of(versions[0]).database) == limited
        assert told(production, production.database) == "kept: the database of Acme / Production"
        assert told(production, production.volume).startswith("kept: the files of Acme / Production")
        container = Instance.objects.get().container
        assert told(production, container) == "kept: it is what runs as Acme / Production / main"
        assert sweep(production) == []

    def test_beyond_the_rollbacks_that_are_promised_images_and_data_go_together(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        runtime: Any = runtime_for(production.server)
        gone = [snapshot_of(one) for one in versions[:2]]

        removed = sweep(production)

        assert set(removed) == {*(one.database for one in gone), *(one.image for one in versions[:2])}
        assert [one.state for one in Snapshot.objects.order_by("pk")] == ["gone", "gone", "ready", "ready"]
        assert [bool(runtime.images.find(one.image)) for one in versions] == [False, False, True, True, True]
        assert {one for one in runtime.databases.list() if "__s" in one} == {
            snapshot_of(one).database for one in versions[2:4]
        }
        offered = [services.rollback_offer(production, one).snapshot for one in versions[:4]]
        assert [bool(one) for one in offered] == [False, False, True, True]
        assert sweep(production) == []

    def test_after_a_deployment_its_server_is_swept_and_what_went_can_still_be_rolled_back_to_without_its_data(
        self, production: Environment, strict: Any, deploy: Any, remote: GitRemote, queues: Queues
    ) -> None:
        strict.OCORE_KEEP_ROLLBACKS = 0
        first = deploy()
        remote.commit("Second", addon("1.1"))
        deploy()
        assert snapshot_of(first).state == "gone"
        assert snapshot_of(first).dump_path
        assert runtime_for(production.server).images.find(first.image) is None
        back = services.roll_back(production, ADA, target=first)
        queues.run_all()
        back.refresh_from_db()
        assert back.status == Status.SUCCEEDED

    def test_a_rollback_that_waits_keeps_its_targets_image_and_data(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        strict.OCORE_KEEP_ROLLBACKS = 0
        back = services.roll_back(production, ADA, target=versions[0], with_data=True)
        reason = f"kept: #{back.pk}, queued in Acme / Production, needs it"
        assert told(production, snapshot_of(versions[0]).database) == told(production, versions[0].image) == reason
        removed = sweep(production)
        assert snapshot_of(versions[0]).state == "ready"
        assert snapshot_of(versions[1]).database in removed

    @pytest.mark.parametrize("what", ["underway", "broken", "door"])
    def test_nothing_of_an_environment_goes_while_something_is_underway_or_broken_in_it(
        self, versions: list[Deployment], production: Environment, strict: Any, what: str
    ) -> None:
        if what == "door":
            Door.objects.create(
                environment=production, server=production.server, holder="x", closed_at=timezone.now(), at_work=False
            )
            said = "the door of Acme / Production is closed"
        else:
            status = Status.RUNNING if what == "underway" else Status.ROLLBACK_FAILED
            said = f"#{factories.deployment(production, status=status).pk}"
        assert said in told(production, snapshot_of(versions[0]).database)
        assert [name for name in sweep(production) if "__s" in name] == []

    def test_of_a_rollback_asked_for_at_that_instant_and_the_removal_one_wins(
        self, versions: list[Deployment], production: Environment, strict: Any, faults: Faults
    ) -> None:
        offer = services.rollback_offer(production, versions[0])
        assert offer.snapshot
        survey = retention.survey(production.server)
        back = services.roll_back(production, ADA, target=versions[0], with_data=True)
        removal_of = next(one.thing for one in survey.verdicts if one.thing.name == offer.snapshot.database)
        with pytest.raises(retention.StillNeeded, match=f"#{back.pk}"):
            removal_of.remove()
        services.cancel(back, ADA)

        removal_of.remove()

        with pytest.raises(NotPossible, match="was removed a moment ago"):
            services.request_deployment(
                production, Trigger.ROLLBACK, ADA, forced=True, rollback_to=versions[0], restores=offer.snapshot
            )

    def test_a_rollback_cannot_choose_what_is_being_removed(
        self, versions: list[Deployment], production: Environment, strict: Any, faults: Faults
    ) -> None:
        seen: list[Snapshot | None] = []
        faults.raised["databases.drop"] = lambda name: seen.append(
            services.rollback_offer(production, versions[0]).snapshot
        )
        sweep(production)
        assert seen
        assert seen == [None] * len(seen)

    @pytest.mark.parametrize("verb", ["databases.drop", "filestores.discard"])
    def test_whoever_comes_after_a_crash_between_the_row_and_the_thing_finishes(
        self, versions: list[Deployment], production: Environment, strict: Any, faults: Faults, verb: str
    ) -> None:
        faults.raised[verb] = _die
        with pytest.raises(KeyboardInterrupt):
            retention.sweep(production.server)
        first = snapshot_of(versions[0])
        assert first.state == "removing"
        faults.clear()
        assert told(production, first.database) == "removed: its removal had begun"

        sweep(production)

        assert snapshot_of(versions[0]).state == "gone"
        assert first.database not in runtime_for(production.server).databases.list()

    def test_an_image_that_somebody_is_about_to_use_is_not_waited_for(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        with file_lock(lock_of(versions[0].image)):
            swept = retention.sweep(production.server)
        assert [(one.thing.name, reason) for one, reason in swept.stayed] == [
            (versions[0].image, "a deployment is about to use it")
        ]

    def test_one_that_cannot_be_removed_does_not_keep_the_others(
        self, versions: list[Deployment], production: Environment, strict: Any, faults: Faults
    ) -> None:
        faults.raised["images.remove"] = RunFailed("in use")
        swept = retention.sweep(production.server)
        assert len(swept.failed) == 2
        assert len(swept.removed) == 2

    def test_only_one_at_a_time_removes_things_on_a_server(self, production: Environment) -> None:
        lock = Path(settings.STATE_DIR) / "locks" / f"retention-{production.server.slug}.lock"
        with file_lock(lock), pytest.raises(retention.AlreadyAtIt):
            retention.sweep(production.server)

    def test_a_worker_is_given_back_when_its_time_is_over_and_the_rest_follows(
        self, versions: list[Deployment], production: Environment, strict: Any, queues: Queues, monkeypatch: Any
    ) -> None:
        from deployments import jobs

        monkeypatch.setattr(retention, "sweep", lambda server: retention.Swept(unfinished=True))
        jobs.sweep(production.server_id)
        assert queues.jobs["slow"] == [("sweep", (production.server_id,))]
        monkeypatch.undo()
        assert retention.sweep(production.server, budget=-1).unfinished

    def test_the_snapshot_stays_until_its_dump_is_made(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        first = snapshot_of(versions[0])
        Snapshot.objects.filter(pk=first.pk).update(dump_path="", taken_at=timezone.now())
        assert told(production, first.database) == "kept: its dump is still to be made from it"
        Snapshot.objects.filter(pk=first.pk).update(dump_problem="no room")
        assert told(production, first.database).startswith("removed")

    def test_on_a_full_disk_images_and_snapshots_go_before_their_time_but_none_that_a_rollback_needs(
        self, versions: list[Deployment], production: Environment, settings: Any, faults: Faults
    ) -> None:
        settings.OCORE_KEEP_ROLLBACKS = 2
        faults.disk_free_bytes = settings.OCORE_KEEP_FREE_BYTES - 1
        assert sweep(production) == [versions[0].image]
        faults.disk_free_bytes = 0
        removed = sweep(production)
        assert versions[1].image in removed
        assert [snapshot_of(one).state for one in versions[:4]] == ["gone", "gone", "ready", "ready"]
        assert runtime_for(production.server).images.find(versions[2].image)

    def test_a_snapshot_on_a_postgresql_elsewhere_is_not_taken_for_room_on_this_disk(
        self, versions: list[Deployment], production: Environment, settings: Any, faults: Faults
    ) -> None:
        settings.OCORE_KEEP_ROLLBACKS = 0
        production.server.postgres_dsn = "postgresql://x:y@elsewhere/postgres"
        production.server.save()
        faults.disk_free_bytes = 0
        sweep(production)
        assert {one.state for one in Snapshot.objects.all()} == {"ready"}

    def test_databases_volumes_and_containers_that_no_row_knows_are_told_and_left(
        self, versions: list[Deployment], production: Environment
    ) -> None:
        runtime: Any = runtime_for(production.server)
        namespace = settings.OCORE_NAMESPACE
        runtime.databases.create("former_client", "x")
        runtime.databases.create(f"{production.database}__broken7", "x")
        runtime.filestores.ensure(f"{namespace}-former-client", "odoo:19.0")
        labels = {"io.ocore.namespace": namespace, "io.ocore.environment": "former-client"}
        runtime.containers.create(ContainerSpec(f"{namespace}-former-client-main-d3", "x", labels=labels))
        unknown = [
            "former_client",
            f"{production.database}__broken7",
            f"{namespace}-former-client",
            f"{namespace}-former-client-main-d3",
        ]
        for name in unknown:
            assert told(production, name).startswith("kept: nothing on record knows it, and it may be a client's")
        assert sweep(production) == []
        assert sorted(sweep(production, also_unknown=True)) == sorted(unknown)
        assert "former_client" not in runtime.databases.list()
        assert production.database in runtime.databases.list()

    def test_in_a_postgresql_that_two_servers_share_nothing_of_the_others_is_taken_for_left_over(
        self, versions: list[Deployment], production: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        production.server.postgres_dsn = "postgresql://x:y@elsewhere/postgres"
        production.server.save()
        other = factories.server(
            slug="other", name="Other", postgres_dsn="postgresql://z:y@elsewhere:5432/postgres", edge_port=9999
        )
        theirs = factories.environment(server=other, name="Staging", slug="staging")
        copy = f"{theirs.database}__s1"
        Snapshot.objects.create(
            environment=theirs, deployment=factories.deployment(theirs), state="ready", database=copy, label="s1"
        )
        elsewhere: Any = runtime_for(other)
        template = name_of_template(elsewhere.images.ensure_base("odoo:18.0", lambda _: None).id)
        Environment.objects.filter(pk=theirs.pk).update(odoo_version="18.0")
        databases = runtime_for(production.server).databases
        for name in (theirs.database, copy, template, "former_client"):
            databases.create(name, "x")

        assert sweep(production, also_unknown=True) == ["former_client"]

        name_for = templates.name_for

        def away(runtime: Any, reference: str) -> str:
            if reference == "odoo:18.0":
                raise ServerUnreachable("The engine of other does not answer.")
            return name_for(runtime, reference)

        monkeypatch.setattr(templates, "name_for", away)
        assert told(production, template).startswith("kept: another server with the same PostgreSQL does not answer")

    def test_what_killed_workers_left_behind_in_an_environment_goes(
        self, versions: list[Deployment], production: Environment
    ) -> None:
        runtime: Any = runtime_for(production.server)
        labels = {"io.ocore.namespace": settings.OCORE_NAMESPACE, "io.ocore.environment": production.key}
        left = f"{settings.OCORE_NAMESPACE}-{production.key}-main-d0"
        runtime.containers.create(ContainerSpec(left, "x", labels=labels))
        helper = f"{production.volume}-files-1234"
        helping = {"io.ocore.namespace": settings.OCORE_NAMESPACE, "io.ocore.volume": production.volume}
        runtime.containers.create(ContainerSpec(helper, "x", labels=helping))
        runtime.databases.create(f"{production.database}__aside", "x")
        runtime.databases.create("ocore_base_0123456789ab", "x")
        current = next(
            name for name in runtime.databases.list() if name.startswith("ocore_base_") and "0123" not in name
        )
        assert told(production, current) == "kept: new environments begin as a copy of it"
        assert sorted(sweep(production)) == sorted(
            [left, helper, f"{production.database}__aside", "ocore_base_0123456789ab"]
        )
        assert current in runtime.databases.list()

    def test_a_copy_whose_record_says_that_it_is_gone_goes_when_a_snapshot_of_its_age_would(
        self, versions: list[Deployment], production: Environment
    ) -> None:
        first = snapshot_of(versions[0])
        Snapshot.objects.filter(pk=first.pk).update(state="gone")
        assert told(production, first.database) == "kept: not older than 30 days"
        old(Snapshot, days=31)
        assert first.database in sweep(production)
        assert first.database not in runtime_for(production.server).databases.list()

    def test_a_copy_that_a_rollback_could_not_remove_goes_later(
        self, production: Environment, faults: Faults, deployed: Deployment, deploy: Any, remote: GitRemote
    ) -> None:
        remote.commit("Broken", addon("1.9"))
        faults.raised["containers.create"] = RunFailed("no memory")
        faults.raised["filestores.discard"] = RunFailed("disk busy")
        failed = deploy()
        assert failed.status == Status.ROLLED_BACK
        snapshot = Snapshot.objects.get(deployment=failed)
        assert snapshot.state == "removing"
        faults.clear()
        assert sweep(production) == [snapshot.database]
        snapshot.refresh_from_db()
        assert snapshot.state == "gone"

    def test_with_its_environment_its_images_and_dumps_go_and_with_the_project_its_repository(
        self, versions: list[Deployment], production: Environment, queues: Queues, client: Any
    ) -> None:
        runtime = runtime_for(production.server)
        project = production.project
        mirror = Path(settings.STATE_DIR) / "mirrors" / "acme.git"
        assert mirror.is_dir()
        production.instances.update(state=Instance.State.STOPPED)
        removal.request(production, ADA)
        queues.run_all()
        assert [one for one in runtime.images.list() if one.labels.get("io.ocore.project")] == []
        assert not (Path(settings.STATE_DIR) / "dumps" / production.key).exists()
        assert mirror.is_dir()

        from django.contrib.auth import get_user_model
        from django.urls import reverse

        client.force_login(get_user_model().objects.create_superuser("root"))
        url = reverse("admin:projects_project_delete", args=[project.pk])
        assert "the copy of its repository" in client.get(url).content.decode()
        client.post(url, {"post": "yes"})
        queues.run_all()
        assert list((Path(settings.STATE_DIR) / "mirrors").iterdir()) == []


def _die(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.django_db(transaction=True)
class TestOnThePortal:
    def test_of_an_environments_dumps_the_newest_stays_however_old(
        self, versions: list[Deployment], production: Environment
    ) -> None:
        old(Snapshot)
        dumps = list(Snapshot.objects.order_by("taken_at").values_list("dump_path", flat=True))
        assert told(None, dumps[-1]) == "kept: the newest of Acme / Production"
        assert sorted(sweep(None)) == sorted(dumps[:-1])
        files = [path.name for path in (Path(settings.STATE_DIR) / "dumps").rglob("*") if path.is_file()]
        assert files == [Path(dumps[-1]).name]
        assert Snapshot.objects.filter(dump_path="").exclude(dump_removed_at=None).count() == 3

    def test_a_dump_whose_removal_was_interrupted_goes(self, versions: list[Deployment]) -> None:
        newest = Snapshot.objects.first()
        assert newest
        Snapshot.objects.filter(pk=newest.pk).update(dump_removed_at=timezone.now())
        assert told(None, newest.dump_path) == "removed: its removal had begun"
        sweep(None)
        newest.refresh_from_db()
        assert newest.dump_path == ""

    def test_a_dump_that_no_row_knows_stays_and_one_that_was_never_completed_goes(
        self, versions: list[Deployment]
    ) -> None:
        folder = Path(settings.STATE_DIR) / "dumps" / "acme-production"
        for name in ("theirs.dump", "x.dump.partial", "now.dump.partial"):
            (folder / name).write_text("x")
            if name != "now.dump.partial":
                os.utime(folder / name, (1, 1))
        assert told(None, "dumps/acme-production/theirs.dump").startswith("kept: nothing on record knows it")
        assert sweep(None) == ["dumps/acme-production/x.dump.partial"]

    def test_the_copy_of_a_repository_stays_while_something_runs_from_it(
        self, versions: list[Deployment], production: Environment
    ) -> None:
        old(Deployment)
        for path in (Path(settings.STATE_DIR) / "mirrors").rglob("*"):
            os.utime(path, (1, 1))
        assert told(None, "mirrors/acme.git").startswith("kept: Acme runs, and a rollback may need a commit")
        Deployment.objects.update(live=False)
        assert told(None, "mirrors/acme.git") == "removed: older than 90 days"

    def test_a_copy_that_is_being_fetched_is_not_waited_for(self, versions: list[Deployment]) -> None:
        Deployment.objects.update(live=False)
        mirrors = Path(settings.STATE_DIR) / "mirrors"
        production = Environment.objects.get()
        type(production.project).objects.update(repository_url="")
        with file_lock(mirrors / "acme.git.lock"):
            ((_, reason),) = retention.sweep(None).stayed
            assert reason == "it is just being fetched"
        assert sweep(None) == ["mirrors/acme.git"]

    def test_a_copy_that_was_wanted_again_while_its_lock_was_taken_stays(
        self, versions: list[Deployment], production: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Deployment.objects.update(live=False)
        type(production.project).objects.update(repository_url="")
        lock = fcntl.flock

        def begin(*arguments: Any) -> None:
            lock(*arguments)
            if str(arguments[0].name).endswith("acme.git.lock"):
                Deployment.objects.filter(pk=versions[0].pk).update(status=Status.RUNNING)

        monkeypatch.setattr(fcntl, "flock", begin)
        ((_, reason),) = retention.sweep(None).stayed
        assert reason == "a deployment of its project is underway"

    def test_what_killed_workers_have_left_of_builds_goes_and_nobody_elses(self, production: Environment) -> None:
        underway = factories.deployment(production, status=Status.RUNNING)
        killed = factories.deployment(production, status=Status.FAILED)
        builds = Path(settings.STATE_DIR) / "builds"
        for name in (str(underway.pk), str(killed.pk), "4711"):
            (builds / name / "tree").mkdir(parents=True)
        sweep(None)
        assert [folder.name for folder in builds.iterdir()] == [str(underway.pk)]

    def test_old_deployments_go_with_their_steps_but_not_those_that_anything_needs(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        gone = factories.deployment(production, status=Status.FAILED)
        Step.objects.create(deployment=gone, kind=StepKind.BUILD)
        queued = factories.deployment(production, status=Status.QUEUED)
        assert told(None, f"#{versions[-1].pk}", Kind.DEPLOYMENT) == "kept: what runs in Acme / Production"
        sweep(None)
        assert not Deployment.objects.filter(pk=gone.pk).exists()
        # The first version's data is kept in the snapshot that the second one took, and that has a dump besides.
        assert set(Deployment.objects.values_list("pk", flat=True)) == {*(one.pk for one in versions), queued.pk}

    def test_a_deployment_that_got_a_rollback_meanwhile_stays(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        target = factories.deployment(production, live_at=timezone.now() - 400 * DAY)
        strict.OCORE_KEEP_ROLLBACKS = 0
        survey = retention.survey(None)
        services.roll_back(production, ADA, target=target)
        one = next(
            one.thing
            for one in survey.verdicts
            if one.thing.kind == Kind.DEPLOYMENT and one.thing.name == f"#{target.pk}"
        )
        with pytest.raises(retention.StillNeeded):
            one.remove()
        assert Deployment.objects.filter(pk=target.pk).exists()

    def test_logs_go_before_their_deployments_and_a_failed_rollbacks_stays(
        self, production: Environment, strict: Any
    ) -> None:
        strict.OCORE_KEEP_DEPLOYMENTS = 100
        failed = factories.deployment(production, status=Status.FAILED)
        LogChunk.objects.create(step=Step.objects.create(deployment=failed, kind=StepKind.BUILD), text="x")
        broken = factories.deployment(production, status=Status.ROLLBACK_FAILED)
        LogChunk.objects.create(step=Step.objects.create(deployment=broken, kind=StepKind.BUILD), text="x")
        assert len(sweep(None)) == 0
        Deployment.objects.filter(pk=broken.pk).update(status=Status.ROLLED_BACK)
        sweep(None)
        assert LogChunk.objects.count() == 0
        assert Deployment.objects.count() == 2

    def test_strangers_calls_push_out_no_ones_deliveries(self, production: Environment, settings: Any) -> None:
        settings.OCORE_KEEP_DELIVERIES = 2
        for verdict in ("accepted", "accepted", "accepted", *["refused"] * 5):
            Delivery.objects.create(project=production.project, host="github", verdict=verdict, status_code=200)
        sweep(None)
        assert sorted(Delivery.objects.values_list("verdict", flat=True)) == ["accepted"] * 2 + ["refused"] * 2
        old(Delivery)
        sweep(None)
        assert Delivery.objects.count() == 0

    def test_health_probes_are_kept_for_so_many_days(self, production: Environment) -> None:
        for days in (1, 34, 36, 50):
            HealthCheck.objects.create(environment=production, checked_at=timezone.now() - days * DAY, ok=True)
        (total,) = [one for one in retention.survey(None).totals() if one.kind == Kind.PROBE]
        assert (total.kept, total.going) == (2, 2)
        sweep(None)
        assert HealthCheck.objects.count() == 2


@pytest.mark.django_db(transaction=True)
class TestRoom:
    def test_a_build_wants_as_much_as_the_projects_last_image_took(
        self, versions: list[Deployment], deploy: Any, faults: Faults, settings: Any
    ) -> None:
        faults.disk_free_bytes = settings.OCORE_MIN_FREE_BYTES + IMAGE_BYTES - 1
        refused = deploy()
        assert refused.status == Status.FAILED
        assert "2.1 GiB are needed" in refused.error

    def test_it_says_what_could_be_had_and_that_it_is_being_had(
        self, versions: list[Deployment], production: Environment, deploy: Any, faults: Faults, settings: Any
    ) -> None:
        settings.OCORE_KEEP_ROLLBACKS = 2
        faults.disk_free_bytes = 0
        refused = deploy()
        assert "202 MiB are taken by what no rollback needs: oCore removes the oldest of it now" in refused.advice
        assert runtime_for(production.server).images.find(versions[0].image) is None

    def test_a_snapshot_wants_twice_the_database_and_where_nothing_could_be_had_it_says_so(
        self, deployed: Deployment, deploy: Any, faults: Faults, settings: Any, remote: GitRemote
    ) -> None:
        remote.commit("Next", addon("2.0"))
        settings.OCORE_MIN_FREE_BYTES = IMAGE_BYTES
        answers = iter([10 * IMAGE_BYTES, IMAGE_BYTES + 2 * DATABASE_BYTES - 1])
        faults.raised["facts"] = lambda: setattr(faults, "disk_free_bytes", next(answers, faults.disk_free_bytes))
        refused = deploy()
        assert refused.status == Status.FAILED
        assert "102 MiB are needed" in refused.error
        assert "Nothing on it could be removed without taking something" in refused.advice


@pytest.mark.django_db(transaction=True)
class TestTheCommand:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command("retention", *arguments, stdout=out, stderr=out)
        return out.getvalue()

    def test_a_dry_run_tells_everything_and_removes_nothing(
        self, versions: list[Deployment], production: Environment, strict: Any
    ) -> None:
        said = self.run("--dry-run")
        assert f"{versions[-1].image}" in said
        assert "kept: what runs in Acme / Production" in said
        assert "removed: not among the newest 0 of Acme" in said
        assert "Images: 3 kept (300 MiB), 2 to remove (200 MiB)" in said
        head = next(line for line in said.splitlines() if line.startswith("Sim (simulated): "))
        assert "; 202 MiB to remove, " in head
        assert head.endswith(" if it had to make room")
        assert "Sim (simulated): " in said
        assert "The portal: " in said
        assert snapshot_of(versions[0]).state == "ready"

    def test_it_removes_and_says_each(self, versions: list[Deployment], production: Environment, strict: Any) -> None:
        said = self.run("sim")
        assert f"{versions[0].image} removed: not among the newest 0 of Acme" in said
        assert "Sim (simulated): 4 removed, 202 MiB" in said

    def test_what_is_unknown_goes_only_where_somebody_says_yes(
        self, versions: list[Deployment], production: Environment, monkeypatch: Any
    ) -> None:
        from django.core.management.base import CommandError

        databases = runtime_for(production.server).databases
        databases.create("former_client", "x")
        with pytest.raises(CommandError, match=r"nothing was done.*\n.*--yes"):
            self.run("sim", "--unknown")
        assert databases.exists("former_client")
        self.run("sim", "--unknown", "--yes")
        assert not databases.exists("former_client")

    def test_an_unknown_server_is_told(self, db: None) -> None:
        from django.core.management.base import CommandError

        with pytest.raises(CommandError, match="There is no server “nowhere”"):
            self.run("nowhere")


@pytest.mark.django_db(transaction=True)
class TestTheAdmin:
    def test_the_servers_page_leads_to_what_its_disk_holds(
        self, versions: list[Deployment], production: Environment, strict: Any, client: Any
    ) -> None:
        from django.contrib.auth import get_user_model
        from django.contrib.auth.models import Permission
        from django.urls import reverse

        user = get_user_model().objects.create_user("viewer", is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_server"))
        client.force_login(user)
        url = reverse("admin:projects_server_disk", args=[production.server_id])
        assert client.get(url).status_code == 403
        user.user_permissions.add(Permission.objects.get(codename="view_snapshot"))
        assert url in client.get(reverse("admin:projects_server_change", args=[production.server_id])).content.decode()
        page = client.get(url).content.decode()
        assert versions[0].image in page
        assert "what runs in Acme / Production" in page
        assert "not among the newest 0 of Acme" in page
        assert client.post(url).status_code == 405
        assert snapshot_of(versions[0]).state == "ready"
