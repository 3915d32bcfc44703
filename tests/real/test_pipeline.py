"""The pipeline on real Docker, PostgreSQL, Caddy, git and Odoo 19, with a client that never stops writing."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from deployments import scaling, services
from deployments.models import Deployment, LogChunk, Snapshot
from deployments.services import Who
from deployments.states import Status, StepKind, Trigger, Way
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from projects.models import Environment, Project, Repository, Server
from tests.conftest import Queues
from tests.git_remote import GitRemote
from tests.real.writer import Reader, Writer

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("_clean_machine", "module_db")]

ADDON = Path(settings.BASE_DIR) / "deployments" / "demo" / "addon" / "acme_notes"
MANIFEST = "acme_notes/__manifest__.py"
VIEWS = "acme_notes/views/acme_note_views.xml"
CONTROLLER = "acme_notes/controllers/main.py"


def files() -> dict[str, str]:
    """The demo's addon as it is when it works."""
    names = [path for path in ADDON.rglob("*") if path.suffix in {".py", ".xml", ".csv"}]
    return {f"acme_notes/{path.relative_to(ADDON)}": path.read_text() for path in names}


@pytest.fixture(scope="module", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One state folder for the module, not one for each test; and an edge that holds requests for as long as a busy
    machine may take, so that not one may fail."""
    with override_settings(STATE_DIR=tmp_path_factory.mktemp("state"), OCORE_HOLD_SECONDS=150):
        yield


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> GitRemote:
    made = GitRemote(tmp_path_factory.mktemp("git") / "acme")
    made.commit("Notes", files())
    return made


@pytest.fixture(scope="module")
def production(remote: GitRemote, module_db: None, _clean_machine: None) -> Environment:
    server = Server.objects.create(name="This machine", slug="here", edge_port=settings.OCORE_EDGE_HTTP_PORT)
    project = Project.objects.create(name="Acme", slug="acme", repository_url=remote.url)
    return Environment.objects.create(
        project=project, server=server, name="Production", slug="production", kind="production", branch="main"
    )


@pytest.fixture(scope="module")
def deploy(production: Environment) -> Iterator[Callable[..., Deployment]]:
    """Be the worker: request, run, and hand back the final row."""
    import django_rq

    queues = Queues()
    before, django_rq.get_queue = django_rq.get_queue, queues.get_queue

    def run(environment: Environment | None = None, **options: Any) -> Deployment:
        deployment = services.request_deployment(environment or production, Trigger.MANUAL, Who("ada"), **options)
        queues.run_all()
        deployment.refresh_from_db()
        return deployment

    run.queues = queues  # type: ignore[attr-defined]
    yield run
    django_rq.get_queue = before


@pytest.fixture(scope="module")
def first(deploy: Callable[..., Deployment]) -> Deployment:
    done = deploy()
    assert done.status == Status.SUCCEEDED, log_of(done)
    return done


@pytest.fixture(scope="module")
def writer(first: Deployment, production: Environment) -> Iterator[Writer]:
    """Writes from the first deployment's end to the module's."""
    with Writer(f"http://127.0.0.1:{settings.OCORE_EDGE_HTTP_PORT}", production.hostname) as writing:
        yield writing


def log_of(deployment: Deployment) -> str:
    return "".join(LogChunk.objects.filter(step__deployment=deployment).values_list("text", flat=True))


def notes_in(environment: Environment, database: str = "") -> set[str]:
    rows = runtime_for(environment.server).databases.query(
        database or environment.database, "SELECT title FROM acme_note"
    )
    return {row[0] for row in rows}


def odoo_containers(environment: Environment) -> dict[str, str]:
    found = runtime_for(environment.server).containers.list({"io.ocore.environment": environment.key})
    return {one.name: one.state for one in found}


def module_version(environment: Environment, module: str = "acme_notes") -> str:
    sql = f"SELECT latest_version FROM ir_module_module WHERE name = '{module}'"  # noqa: S608 - our own
    return runtime_for(environment.server).databases.query(environment.database, sql)[0][0]


def no_write_lost(writer: Writer, environment: Environment) -> None:
    """Everything that was answered with success so far is found."""
    accepted = writer.accepted
    assert accepted, "the client did write"
    assert accepted - notes_in(environment) == set()


def still_serves(production: Environment, live: Deployment, writer: Writer) -> None:
    """The old version, alone, behind an open door, with all its data."""
    assert odoo_containers(production) == {f"ocore-test-acme-production-main-d{live.pk}": "running"}
    assert Deployment.objects.get(environment=production, live=True) == live
    assert not Door.objects.exists()
    before = len(writer.accepted)
    deadline = time.monotonic() + 20
    while len(writer.accepted) < before + 5:
        assert time.monotonic() < deadline, "the client is being served again"
        time.sleep(0.1)
    no_write_lost(writer, production)
    databases = runtime_for(production.server).databases.list()
    clones = {one for one in databases if "__s" in one}
    kept = set(Snapshot.objects.filter(state=Snapshot.State.READY).values_list("database", flat=True))
    assert clones == kept, "no clone that nobody knows"


def live(production: Environment) -> Deployment:
    return Deployment.objects.get(environment=production, live=True)


def test_the_first_push_initialises_a_real_odoo(first: Deployment, production: Environment) -> None:
    assert first.status == Status.SUCCEEDED, log_of(first)
    answer = runtime_for(production.server).edge.fetch(production.hostname, "/web/login")
    assert answer.ok
    assert "oe_login_form" in answer.body or "login" in answer.body
    assert module_version(production) == "19.0.1.0.0"
    assert odoo_containers(production) == {f"ocore-test-acme-production-main-d{first.pk}": "running"}
    assert Instance.objects.get(environment=production).state == Instance.State.RUNNING


def test_the_container_is_hardened_and_tells_no_secret(first: Deployment, production: Environment) -> None:
    import docker

    client = docker.from_env()
    (name,) = odoo_containers(production)
    container = client.containers.get(name)
    host = container.attrs["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == settings.OCORE_DEFAULTS["memory_limit"]
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"]["max-size"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert not host["PortBindings"]
    assert container.exec_run(["id", "-u"]).output.strip() != b"0"
    assert production.database_password not in str(container.attrs)
    assert production.database_password not in str(container.top(ps_args="aux"))
    assert production.database_password not in log_of(first)


def test_the_configuration_closes_the_database_manager(first: Deployment, production: Environment) -> None:
    runtime = runtime_for(production.server)
    (name,) = odoo_containers(production)
    conf = runtime.containers.exec(name, ["cat", "/etc/odoo/odoo.conf"]).output
    for line in ("list_db = False", f"dbfilter = ^{production.database}$", "proxy_mode = True", "workers = 0"):
        assert line in conf
    assert runtime.edge.fetch(production.hostname, "/web/database/manager").status == 404


def test_the_administrators_password_is_not_the_default_one(first: Deployment, production: Environment) -> None:
    import requests

    def login(password: str) -> Any:
        answer = requests.post(
            f"http://127.0.0.1:{settings.OCORE_EDGE_HTTP_PORT}/web/session/authenticate",
            json={"params": {"db": production.database, "login": "admin", "password": password}},
            headers={"Host": production.hostname},
            timeout=30,
        )
        return answer.json()

    assert "error" in login("admin")
    assert login(production.odoo_admin_password)["result"]["uid"]


def test_a_copied_database_has_all_its_files_and_an_identity_of_its_own(
    first: Deployment, production: Environment
) -> None:
    runtime = runtime_for(production.server)
    template = next(name for name in runtime.databases.list() if name.startswith("ocore_base_"))
    secret = "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'"
    assert runtime.databases.query(template, secret) != runtime.databases.query(production.database, secret)
    lost = "SELECT count(*) FROM ir_attachment WHERE store_fname IS NOT NULL"
    assert runtime.databases.query(template, lost) == [["0"]]
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert runtime.databases.query(production.database, owners) == [[production.database]]


def test_a_push_with_a_changed_addon_updates_it_and_no_request_fails(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    remote.commit("Second", {MANIFEST: files()[MANIFEST].replace("1.0.0", "1.1.0")})

    second = deploy()

    assert second.status == Status.SUCCEEDED, log_of(second)
    assert module_version(production) == "19.0.1.1.0"
    still_serves(production, second, writer)
    assert writer.failed == []
    snapshot = Snapshot.objects.get(deployment=second)
    dump = Path(settings.STATE_DIR) / snapshot.dump_path
    assert dump.read_bytes()[:5] == b"PGDMP"
    assert hashlib.sha256(dump.read_bytes()).hexdigest() == snapshot.dump_sha256
    before = notes_in(production, snapshot.database)
    assert before <= notes_in(production)


def test_a_push_that_changes_no_module_goes_beside_the_old_version_and_no_request_waits(
    deploy: Callable[..., Deployment], production: Environment, writer: Writer
) -> None:
    Environment.objects.filter(pk=production.pk).update(odoo_conf={"log_level": "warn"})

    second = deploy()

    assert (second.status, second.way) == (Status.SUCCEEDED, Way.BLUE_GREEN), log_of(second)
    still_serves(production, second, writer)
    assert writer.failed == []
    assert "The door is closed" not in log_of(second)
    assert not Snapshot.objects.filter(deployment=second).exists()
    Environment.objects.filter(pk=production.pk).update(odoo_conf=None)


def scale(production: Environment, count: int, deploy: Callable[..., Deployment]) -> list[str]:
    """The names of so many instances' containers, the first instance's first."""
    scaling.request(production, count, Who("ada"))
    deploy.queues.run_all()  # type: ignore[attr-defined]
    production.refresh_from_db()
    assert (production.scale_to, production.scale_problem) == (None, "")
    return [instance.container for instance in production.instances.order_by("pk")]


def test_a_rolling_deployment_of_two_instances_fails_no_request(
    deploy: Callable[..., Deployment], production: Environment, writer: Writer
) -> None:
    before = scale(production, 2, deploy)
    Environment.objects.filter(pk=production.pk).update(strategy="rolling", odoo_conf={"log_level": "warn"})
    production.refresh_from_db()

    rolled = deploy()

    Environment.objects.filter(pk=production.pk).update(strategy=None, odoo_conf=None)
    production.refresh_from_db()
    assert (rolled.status, rolled.way) == (Status.SUCCEEDED, Way.ROLLING), log_of(rolled)
    now = odoo_containers(production)
    assert (len(now), set(now.values())) == (2, {"running"})
    assert not set(now) & set(before), "both were replaced"
    assert writer.failed == []
    assert "The door is closed" not in log_of(rolled)
    no_write_lost(writer, production)


def test_one_of_two_instances_that_is_killed_fails_no_request_that_another_may_repeat(
    deploy: Callable[..., Deployment], production: Environment, writer: Writer
) -> None:
    import docker

    second = scale(production, 2, deploy)[1]
    with Reader(writer.url, production.hostname, per_second=20) as reader:
        reader.wait_for(20)
        docker.from_env().containers.get(second).kill("SIGKILL")
        killed = time.monotonic()
        reader.wait_for(60)
    assert reader.failed == []
    lost = writer.failed
    assert {attempt.status for attempt in lost} <= {502}, "nobody knows what became of it, and its client is told so"
    assert [attempt for attempt in lost if attempt.started > killed] == [], "only what it had in its hands"
    writer.forget(lost)
    no_write_lost(writer, production)
    scale(production, 1, deploy)
    still_serves(production, live(production), writer)


def test_a_push_whose_addon_breaks_at_update_is_taken_back(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    before = live(production)
    remote.commit("Broken view", {VIEWS: files()[VIEWS].replace('<field name="title"', '<field name="nothing"')})

    broken = deploy()

    assert broken.status == Status.ROLLED_BACK, log_of(broken)
    assert "nothing" in broken.error + broken.detail
    assert broken.advice
    still_serves(production, before, writer)
    assert writer.failed == []
    assert module_version(production) == "19.0.1.1.0"


def test_a_push_whose_addon_breaks_at_load_is_taken_back(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    before = live(production)
    Environment.objects.filter(pk=production.pk).update(update_policy="none", health_deadline=8)
    remote.commit("Broken import", {VIEWS: files()[VIEWS], "acme_notes/__init__.py": "import not_there\n"})
    production.refresh_from_db()

    broken = deploy()

    Environment.objects.filter(pk=production.pk).update(update_policy=None, health_deadline=None)
    production.refresh_from_db()
    assert (broken.status, broken.way) == (Status.ROLLED_BACK, Way.BLUE_GREEN), log_of(broken)
    assert broken.steps.get(kind=StepKind.HEALTH_CHECK).status == "undone" or "Not healthy" in broken.error
    assert "not_there" in broken.detail
    still_serves(production, before, writer)
    assert writer.failed == []


def test_a_push_that_never_gets_healthy_is_taken_back_with_its_failing_answer_shown(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    before = live(production)
    Environment.objects.filter(pk=production.pk).update(health_path="/acme_notes/count", health_deadline=8)
    production.refresh_from_db()
    sick = files()[CONTROLLER].replace("        domain = []\n", "        domain = 1 / 0\n")
    remote.commit("Sick", {"acme_notes/__init__.py": files()["acme_notes/__init__.py"], CONTROLLER: sick})

    broken = deploy()

    Environment.objects.filter(pk=production.pk).update(health_path=None, health_deadline=None)
    production.refresh_from_db()
    assert broken.status == Status.ROLLED_BACK, log_of(broken)
    assert "500" in broken.error
    assert "ZeroDivisionError" in broken.detail
    still_serves(production, before, writer)
    assert writer.failed == []


def test_a_push_that_does_not_build_changes_nothing(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    before = live(production)
    remote.commit("No such package", {CONTROLLER: files()[CONTROLLER], "requirements.txt": "./no-such-folder\n"})

    broken = deploy()

    assert broken.status == Status.FAILED, log_of(broken)
    assert "no-such-folder" in broken.detail
    assert [step.kind for step in broken.steps.all()] == [StepKind.BUILD]
    still_serves(production, before, writer)
    assert writer.failed == []


def test_python_that_the_images_python_cannot_read_changes_nothing(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    before = live(production)
    remote.commit("Typing error", {CONTROLLER: "def count(:\n", "requirements.txt": None})

    broken = deploy()

    assert broken.status == Status.FAILED, log_of(broken)
    assert "acme_notes/controllers/main.py has a syntax error in line 1" in broken.error
    assert [step.kind for step in broken.steps.all()] == [StepKind.BUILD, StepKind.SNAPSHOT]
    still_serves(production, before, writer)
    assert writer.failed == []


def test_python_that_only_the_images_python_can_read_is_built(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote
) -> None:
    newer = files()[CONTROLLER] + "\n\ntype Titles = list[str]\n"  # Python 3.12's; the portal may run on 3.11
    remote.commit("Newer Python", {CONTROLLER: newer})

    built = deploy()

    assert built.status == Status.SUCCEEDED, log_of(built)


def test_a_manifest_that_cannot_be_read_is_named(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer
) -> None:
    before = live(production)
    remote.commit("Typo", {"requirements.txt": None, MANIFEST: "{'name': 'Notes',\n"})

    broken = deploy()

    assert broken.status == Status.FAILED
    assert "acme_notes/__manifest__.py" in broken.error
    still_serves(production, before, writer)


def test_a_missing_base_image_is_named_and_changes_nothing(
    deploy: Callable[..., Deployment], production: Environment, remote: GitRemote, writer: Writer, monkeypatch: Any
) -> None:
    before = live(production)
    monkeypatch.setattr(settings, "OCORE_REGISTRY_TIMEOUT", 2)
    Environment.objects.filter(pk=production.pk).update(odoo_image="localhost:1/no-such-odoo:{version}")
    production.refresh_from_db()

    broken = deploy()

    Environment.objects.filter(pk=production.pk).update(odoo_image=None)
    production.refresh_from_db()
    assert broken.status == Status.FAILED
    assert "no-such-odoo:19.0" in broken.error
    still_serves(production, before, writer)


def test_a_rollback_by_hand_brings_back_the_first_version_with_its_data(
    deploy: Callable[..., Deployment],
    first: Deployment,
    production: Environment,
    remote: GitRemote,
    writer: Writer,
) -> None:
    remote.commit("Well again", files() | {MANIFEST: files()[MANIFEST].replace("1.0.0", "1.2.0")})
    assert deploy().status == Status.SUCCEEDED
    writer.stop()
    no_write_lost(writer, production)
    everything = notes_in(production)
    offer = services.rollback_offer(production, first)
    assert offer.snapshot is not None
    then = notes_in(production, offer.snapshot.database)

    back = services.roll_back(production, Who("ada"), target=first, with_data=True)
    deploy.queues.run_all()  # type: ignore[attr-defined]

    back.refresh_from_db()
    assert back.status == Status.SUCCEEDED, log_of(back)
    assert back.image == first.image
    assert module_version(production) == "19.0.1.0.0"
    assert notes_in(production) == then
    assert notes_in(production, Snapshot.objects.get(deployment=back).database) == everything


def test_an_addon_of_a_further_repository_is_installed_and_updated_with_that_alone(
    deploy: Callable[..., Deployment], production: Environment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    oca = GitRemote(tmp_path_factory.getbasetemp() / "oca")
    tools = "{'name': 'Tools', 'version': '1.0.0', 'depends': ['base', 'acme_notes']}"
    oca.commit("Tools", {"acme_tools/__manifest__.py": tools, "acme_tools/__init__.py": ""}, branch="19.0")
    Repository.objects.create(project=production.project, name="oca", repository_url=oca.url)
    Environment.objects.filter(pk=production.pk).update(custom_modules=["acme_tools"])
    production.refresh_from_db()

    installed = deploy()

    assert installed.status == Status.SUCCEEDED, log_of(installed)
    assert module_version(production, "acme_tools") == "19.0.1.0.0"
    oca.commit("Newer", {"acme_tools/__manifest__.py": tools.replace("1.0.0", "1.1.0")}, branch="19.0")
    updated = deploy()
    assert updated.status == Status.SUCCEEDED, log_of(updated)
    assert (updated.commit, updated.image == installed.image) == (installed.commit, False)
    assert "Will update acme_tools: its files changed" in log_of(updated)
    assert "Will update acme_notes" not in log_of(updated)
    assert module_version(production, "acme_tools") == "19.0.1.1.0"


def test_a_fresh_environment_is_a_copy_of_the_template_and_takes_seconds(
    deploy: Callable[..., Deployment], production: Environment
) -> None:
    staging = Environment.objects.create(
        project=production.project, server=production.server, name="Staging", slug="staging", branch="main"
    )

    copy = deploy(staging)

    assert copy.status == Status.SUCCEEDED, log_of(copy)
    assert "Initialising a database" not in log_of(copy)
    assert "Built before" in log_of(copy) + "".join(copy.steps.values_list("outcome", flat=True))


def test_removing_an_environment_takes_everything_of_it_and_nothing_else(
    deploy: Callable[..., Deployment], production: Environment
) -> None:
    from deployments import removal

    runtime = runtime_for(production.server)
    staging = Environment.objects.get(slug="staging")
    before = odoo_containers(production)

    removal.request(staging, Who("ada"))
    deploy.queues.run_all()  # type: ignore[attr-defined]

    assert not Environment.objects.filter(slug="staging").exists()
    assert odoo_containers(staging) == {}
    assert staging.database not in runtime.databases.list()
    assert odoo_containers(production) == before
    assert runtime.edge.fetch(production.hostname, "/web/health").ok
