"""What a deployment is built on, and what it plans from: images that move, builds that meet."""

import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from deployments import pipeline, services
from deployments.images import lock_of
from deployments.models import Deployment, LogChunk
from deployments.states import Status, Trigger
from deployments.steps import build
from instances.odoo import queries
from instances.odoo.queries import Stored
from instances.runtimes import runtime_for
from instances.runtimes.base import Exit
from instances.runtimes.simulated import Faults
from ocore.locks import file_lock, lock_if_free
from projects.models import Environment, Project
from tests import factories
from tests.acme import ADA, addon, log_of, simulated
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def deploy(production: Environment, queues: Queues, faults: Faults) -> Any:
    def run() -> Deployment:
        return finish(services.request_deployment(production, Trigger.MANUAL, ADA))

    def finish(deployment: Deployment) -> Deployment:
        queues.run_all()
        deployment.refresh_from_db()
        assert deployment.status == Status.SUCCEEDED, log_of(deployment)
        return deployment

    run.finish = finish  # type: ignore[attr-defined]
    return run


def another_base_image(keep_by_id: bool = False) -> None:
    """As a registry does every week: the name stands for another image now."""

    def move(state: Any) -> None:
        images = state["images"]
        old = images["odoo:19.0"]
        if keep_by_id:
            images[old["id"]] = dict(old)
        images["odoo:19.0"] = old | {"id": "sha256:" + "f" * 64}

    simulated(move)


def stored(environment: Environment) -> Stored:
    rows = runtime_for(environment.server).databases.query(environment.database, queries.READ_CHECKSUMS_SQL)
    found = queries.read_stored(rows)
    assert found
    return found


def test_a_rollback_with_data_plans_with_the_base_image_that_its_target_was_built_on(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    first = deployed
    another_base_image()
    remote.commit("Second", addon("1.1"))
    second = deploy()
    assert "Odoo image is another one" in log_of(second)

    back = deploy.finish(services.roll_back(production, ADA, target=first, with_data=True))

    assert (back.image, back.base_image_id) == (first.image, first.base_image_id)
    assert "Odoo image is another one" not in log_of(back)
    assert stored(production).base_image == first.base_image_id != second.base_image_id


def test_a_rollback_without_data_updates_everything_for_the_older_base_image(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    first = deployed
    another_base_image()
    remote.commit("Second", addon("1.1"))
    deploy()

    back = deploy.finish(services.roll_back(production, ADA, target=first))

    assert "Odoo image is another one" in log_of(back)
    assert stored(production).base_image == first.base_image_id


def test_the_next_push_after_such_a_rollback_is_for_the_newer_base_image_again(
    deployed: Deployment, deploy: Any, production: Environment, remote: GitRemote
) -> None:
    first = deployed
    another_base_image()
    remote.commit("Second", addon("1.1"))
    second = deploy()
    deploy.finish(services.roll_back(production, ADA, target=first, with_data=True))
    remote.commit("Third", addon("1.2"))

    third = deploy()

    assert "Odoo image is another one" in log_of(third)
    assert third.base_image_id == second.base_image_id == stored(production).base_image


def test_plain_odoo_goes_back_to_the_image_that_its_name_has_left(
    deploy: Any, production: Environment, queues: Queues
) -> None:
    Project.objects.update(repository_url="")
    Environment.objects.update(branch="")
    production.refresh_from_db()
    first = deploy()
    another_base_image(keep_by_id=True)
    second = deploy()
    assert second.image_id != first.image_id

    back = deploy.finish(services.roll_back(production, ADA, target=first, with_data=True))

    assert back.image_id == back.base_image_id == first.image_id
    assert back.image == first.image_id, "by its id: the name is another image's"


def test_a_module_that_somebody_installs_between_plan_and_door_is_updated_too(
    deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    Environment.objects.update(custom_modules=[], strategy="recreate")
    deploy()
    remote.commit("Second", addon("1.1"))

    def install(*_: Any) -> None:
        simulated(
            lambda state: state["databases"][production.database]["modules"].update(
                acme_notes=["installed", "19.0.1.0"]
            )
        )

    faults.raised["edge.close"] = install
    second = deploy()

    rows = queries.module_rows(
        runtime_for(production.server).databases.query(production.database, queries.MODULE_ROWS_SQL)
    )
    assert {row.name: row.version for row in rows}["acme_notes"] == "19.0.1.1"
    assert stored(production).addons["acme_notes"] == second.addons["acme_notes"]["fingerprint"]


def test_of_two_workers_with_the_same_commit_one_builds_and_the_other_waits_for_it(
    production: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    """Under two names, so that the line cannot tell: nobody knew before that it is one commit."""
    remote.tag("v1")
    staging = factories.environment(project=production.project, name="Staging", slug="staging", kind="staging")
    both = [
        services.request_deployment(one, Trigger.MANUAL, ADA, ref=ref)
        for one, ref in ((production, "main"), (staging, "v1"))
    ]
    building, other_waits = threading.Event(), threading.Event()

    def slowly(*_: Any) -> None:
        building.set()
        assert other_waits.wait(20)

    def work(pk: int) -> None:
        try:
            pipeline.run(pk)
        finally:
            connection.close()

    faults.raised["images.build"] = slowly
    threads = [threading.Thread(target=work, args=(one.pk,)) for one in both]
    threads[0].start()
    assert building.wait(20)
    threads[1].start()
    for _ in range(200):
        if LogChunk.objects.filter(step__deployment=both[1], text__contains="another deployment is building").exists():
            break
        other_waits.wait(0.05)
    other_waits.set()
    for thread in threads:
        thread.join()

    assert len([call for call in faults.calls if call.startswith("images.build")]) == 1
    assert "Waiting: another deployment is building ocore-test/acme:" in log_of(both[1])
    assert Deployment.objects.filter(status=Status.SUCCEEDED).count() == 2


def test_an_image_that_was_built_before_is_taken_under_its_lock(
    deployed: Deployment, deploy: Any, production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else retention may remove it just then."""
    first = deployed
    take, held = build._take_built, []

    def watched(stage: Any, reference: str) -> None:
        with lock_if_free(lock_of(reference)) as free:
            held.append(not free)
        take(stage, reference)

    monkeypatch.setattr(build, "_take_built", watched)
    deploy.finish(services.request_deployment(production, Trigger.MANUAL, ADA, ref=first.commit))

    assert held == [True]


def test_whoever_waits_for_a_lock_may_give_up(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    calls = []

    def waiting() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Enough

    with file_lock(tmp_path / "lock"), pytest.raises(Enough), file_lock(tmp_path / "lock", waiting):
        pass
    with file_lock(tmp_path / "lock", waiting):
        assert len(calls) == 2


IMAGE_SAYS = (
    'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\n'
    '  File "/opt/ocore/addons/acme_notes/models.py", line 1\n    def broken(:\n               ^\n'
    "SyntaxError: invalid syntax\n"
)
BROKEN = {"acme_notes/__init__.py": "from . import models\n", "acme_notes/models.py": "def broken(:\n"}


def test_python_that_the_images_python_cannot_read_either_is_named_before_anything_is_touched(
    production: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    remote.commit("Typing error", BROKEN)
    faults.exits["look"] = Exit(1, IMAGE_SAYS)

    failed = services.request_deployment(production, Trigger.MANUAL, ADA)
    queues.run_all()

    failed.refresh_from_db()
    assert failed.status == Status.FAILED
    assert failed.error == (
        "The Python file /opt/ocore/addons/acme_notes/models.py has a syntax error in line 1: invalid syntax."
    )
    assert failed.advice == "Correct that file and push again."
    assert not [call for call in faults.calls if call.startswith(("edge.close", "containers.create"))]


def test_python_that_only_the_images_python_can_read_is_deployed(
    deploy: Any, remote: GitRemote, faults: Faults
) -> None:
    remote.commit("Newer Python", BROKEN)

    assert deploy().status == Status.SUCCEEDED
    assert [call for call in faults.calls if call.startswith("containers.run") and "--look-" in call]


def test_what_is_broken_in_an_addon_that_nobody_installs_stops_no_deployment(
    deploy: Any, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    legacy = "{'name': 'Legacy', 'version': '1.0', 'depends': ['base'], 'data': ['view.xml']}"
    remote.commit(
        "Leftovers",
        {"legacy/__manifest__.py": legacy, "legacy/__init__.py": "print 'x'\n", "legacy/view.xml": "<odoo>"},
    )
    Environment.objects.filter(pk=production.pk).update(custom_modules=["acme_notes"])
    production.refresh_from_db()
    faults.exits["look"] = Exit(1, IMAGE_SAYS)

    assert deploy().status == Status.SUCCEEDED
