"""A second version of a real Odoo beside the first, with a client that never stops writing."""

from collections.abc import Callable, Iterator

import pytest
from django.conf import settings

from deployments import recovery, second, services
from deployments.models import Deployment
from deployments.services import Who
from deployments.states import Status, Way
from instances.models import Door
from instances.runtimes import runtime_for
from projects.models import Environment, Split
from tests.git_remote import GitRemote
from tests.real import test_pipeline
from tests.real.test_pipeline import MANIFEST, VIEWS, files, live, no_write_lost, notes_in, odoo_containers
from tests.real.writer import Writer

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("_clean_machine", "module_db")]
_own_state = test_pipeline._own_state
remote = test_pipeline.remote
production = test_pipeline.production
deploy = test_pipeline.deploy
first = test_pipeline.first
ADA = Who("ada")
Deploy = Callable[..., Deployment]


@pytest.fixture
def writer(first: Deployment, production: Environment) -> Iterator[Writer]:
    """For a test: its clients come in by the first version's name, and bring no cookie."""
    # Of deployments there may be fewer than before, and a title that somebody has written already shows nothing.
    prefix = f"note{Deployment.objects.latest('pk').pk}"
    url = f"http://127.0.0.1:{settings.OCORE_EDGE_HTTP_PORT}"
    with Writer(url, production.hostname, prefix=prefix) as writing:
        yield writing


def begin(production: Environment, deploy: Deploy, *, shared: bool) -> Split:
    deployment = second.begin(fresh(production), "Second", ADA, ref="other", shared=shared)
    deploy.queues.run_all()  # type: ignore[attr-defined]
    deployment.refresh_from_db()
    assert deployment.status == Status.SUCCEEDED, test_pipeline.log_of(deployment)
    return split()


def split() -> Split:
    return Split.objects.select_related("environment__second_of", "environment__server").get()


def fresh(environment: Environment) -> Environment:
    return Environment.objects.select_related("project", "server").get(pk=environment.pk)


def lead(share: int, deploy: Deploy) -> None:
    second.lead(split(), share, ADA)
    deploy.queues.run_all()  # type: ignore[attr-defined]


def end(keep: str, deploy: Deploy) -> None:
    second.end(split(), keep, ADA)
    for _ in range(4):
        deploy.queues.run_all()  # type: ignore[attr-defined]
        recovery.reconcile()
    deploy.queues.run_all()  # type: ignore[attr-defined]
    assert not Split.objects.exists()
    assert not Door.objects.exists()


def failed(writer: Writer) -> list[int]:
    return [one.status for one in writer.failed]


def wait_for_more(writer: Writer, number: int = 5) -> None:
    before = len(writer.accepted)
    test_pipeline.time.sleep(0.2)
    deadline = test_pipeline.time.monotonic() + 30
    while len(writer.accepted) < before + number:
        assert test_pipeline.time.monotonic() < deadline
        test_pipeline.time.sleep(0.1)


def test_a_standby_on_the_same_database_is_switched_to_and_back_without_a_failed_request(
    production: Environment, remote: GitRemote, deploy: Deploy, writer: Writer
) -> None:
    remote.commit("Looks", files() | {"acme_notes/static/new.css": "p {}\n"}, branch="other")
    there = begin(production, deploy, shared=True).environment
    assert live(there).way == Way.BLUE_GREEN
    edge = runtime_for(production.server).edge
    assert edge.fetch(there.hostname, "/web/login").ok, "it can be looked at under its own address"
    for share in (100, 0, 100):
        lead(share, deploy)
        wait_for_more(writer)
    figures = edge.figures(split().mark)
    assert figures["second"].requests > 5
    writer.stop()
    assert failed(writer) == []
    no_write_lost(writer, production)


def test_it_takes_the_place_of_the_first_with_all_that_was_written(
    production: Environment, remote: GitRemote, deploy: Deploy, writer: Writer
) -> None:
    changed = {VIEWS: files()[VIEWS] + "\n"}
    remote.commit("Another look, of the same version", files() | changed, branch="other")
    deploy(split().environment, ref="other")
    wanted = live(split().environment).commit
    end("second", deploy)
    wait_for_more(writer)
    assert live(production).commit == wanted
    assert len(odoo_containers(production)) == 1
    writer.stop()
    no_write_lost(writer, production)
    assert set(failed(writer)) <= {502, 503}, "who was held with the second one reads the page"


def test_a_version_with_another_database_is_a_copy_and_takes_the_place_with_its_data(
    production: Environment, remote: GitRemote, deploy: Deploy, writer: Writer
) -> None:
    wait_for_more(writer)
    newer = files() | {MANIFEST: files()[MANIFEST].replace("19.0.1.0.0", "19.0.3.0.0")}
    remote.commit("Newer", newer, branch="other")
    there = begin(production, deploy, shared=False).environment
    assert failed(writer) == [], "while it was copied its clients were held"
    copied = notes_in(there)
    assert copied
    assert copied <= notes_in(production)
    assert test_pipeline.module_version(there) == "19.0.3.0.0"
    assert test_pipeline.module_version(production) != "19.0.3.0.0"
    wait_for_more(writer)
    said = second.consequences(split(), 100)
    assert "acme.note" in said, said
    lead(100, deploy)
    wait_for_more(writer)
    writer.stop()
    there_only = notes_in(there) - notes_in(production)
    here_only = notes_in(production) - notes_in(there)
    assert there_only
    assert writer.accepted - notes_in(there) - notes_in(production) == set(), "each write is in one of the two"
    end("second", deploy)
    assert there_only <= notes_in(production)
    assert test_pipeline.module_version(production) == "19.0.3.0.0"
    kept = services.rollback_offer(fresh(production)).snapshot
    assert kept is not None
    assert here_only <= notes_in(production, kept.database), "what only the first one had is kept"
    assert runtime_for(production.server).edge.fetch(production.hostname, "/web/login").ok
    assert there.database not in runtime_for(production.server).databases.list()
