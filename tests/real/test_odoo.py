"""What `instances.odoo` and the build context claim, against a real Odoo 19 and PostgreSQL 17 on Docker."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from instances import build_plan
from instances.odoo import commands, config, plan, queries, readiness, verdict, versions
from instances.odoo.queries import ModuleRow, Stored
from instances.runtimes.base import Answer

pytestmark = pytest.mark.real

NAMESPACE = "ocore-test-odoo"
LABEL = f"io.ocore.namespace={NAMESPACE}"
POSTGRES = f"{NAMESPACE}-postgres"
ODOO_19 = versions.series("19.0")
DEMO = Path(__file__).parents[2] / "deployments" / "demo" / "addon"
PASSWORD = "p%w;#\"'$x"
VIEWS = "acme_notes/views/acme_note_views.xml"


def docker(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = ["docker", *map(str, arguments)]
    done = subprocess.run(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    assert not check or not done.returncode, done.stdout
    return done


def remove_everything() -> None:
    for kind, listed, removal in (
        ("container", ("ps", "-aq"), ("rm", "-f", "-v")),
        ("volume", ("volume", "ls", "-q"), ("volume", "rm")),
        ("network", ("network", "ls", "-q"), ("network", "rm")),
        ("image", ("images", "-q"), ("rmi", "-f")),
    ):
        ids = sorted(set(docker(*listed, "--filter", f"label={LABEL}").stdout.split()))
        if ids:
            docker(*removal, *ids, check=kind == "container")


class Bench:
    """One PostgreSQL, and an Odoo container at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.built = 0

    def sql(self, database: str, statement: str) -> list[list[str]]:
        answer = docker(
            "exec", POSTGRES, "psql", "-qAtX", "-U", "postgres", "-F\x1f", "-v", "ON_ERROR_STOP=1",
            "-d", database, "-c", statement,
        )  # fmt: skip
        return [line.split("\x1f") for line in answer.stdout.splitlines()]

    def copy(self, source: str, target: str) -> str:
        docker("rm", "-f", "-v", f"{NAMESPACE}-odoo", check=False)  # nobody may be connected to the source
        self.sql("postgres", f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
        self.sql("postgres", f"CREATE DATABASE {target} OWNER acme TEMPLATE {source}")
        return target

    def modules(self, database: str) -> list[ModuleRow]:
        return queries.module_rows(self.sql(database, queries.MODULE_ROWS_SQL))

    def stored(self, database: str) -> Stored | None:
        return queries.read_stored(self.sql(database, queries.READ_CHECKSUMS_SQL))

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.tree / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def build(self, **keys: Any) -> tuple[str, build_plan.BuildPlan, str]:
        """The image's id, what was laid out, and the engine's output."""
        self.built += 1
        laid_out = build_plan.prepare_context(
            self.tree, self.folder / f"context-{self.built}", ODOO_19, "odoo:19.0", **keys
        )
        output = docker("build", "-t", f"{NAMESPACE}:{self.built}", "--label", LABEL, laid_out.context).stdout
        image = docker("image", "inspect", "-f", "{{.Id}}", f"{NAMESPACE}:{self.built}").stdout.strip()
        return image, laid_out, output

    def create(self, image: str, database: str, argv: Sequence[str], workers: int = 0) -> str:
        name = f"{NAMESPACE}-odoo"
        docker("rm", "-f", "-v", name, check=False)
        docker(
            "create", "--name", name, "--label", LABEL, "--network", NAMESPACE, "--memory", "2g", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "-v", f"{NAMESPACE}-data:{config.DATA_DIR}", image, *argv,
        )  # fmt: skip
        text = config.render_config(
            config.OdooConfig(
                series=ODOO_19,
                db_host=POSTGRES,
                db_user="acme",
                db_password=PASSWORD,
                db_name=database,
                admin_passwd=config.password_hash("master%1"),
                workers=workers,
            )
        ).encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(config.CONFIG_PATH.lstrip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(text), 0o400, 101, 101
            tar.addfile(entry, io.BytesIO(text))
        subprocess.run(["docker", "cp", "-", f"{name}:/"], input=archive.getvalue(), check=True, timeout=60)
        return name

    def run(self, image: str, database: str, argv: Sequence[str]) -> tuple[int, str]:
        done = docker("start", "-a", self.create(image, database, argv), check=False)
        return done.returncode, done.stdout

    def serve(self, image: str, database: str, workers: int = 0) -> Answer:
        """Start, and the first answer of the health path."""
        docker("start", self.create(image, database, commands.serve(), workers))
        deadline = time.monotonic() + 30
        while True:
            answer = self.ask(ODOO_19.health_path)
            if answer.status or time.monotonic() > deadline:
                return answer
            time.sleep(0.1)

    def ask(self, path: str) -> Answer:
        argv = readiness.probe(path, host="acme.localhost", timeout=20)
        (answer,) = readiness.parse_probe(docker("exec", f"{NAMESPACE}-odoo", *argv, check=False).stdout)
        return answer

    def python(self, script: str, *arguments: str) -> str:
        return docker("exec", f"{NAMESPACE}-odoo", "python3", "-c", script, *arguments).stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """With a database `base`, initialised, and `live`, in which the demo's addon is installed."""
    remove_everything()
    bench = Bench(tmp_path_factory.mktemp("odoo"))
    shutil.copytree(DEMO, bench.tree)
    docker("network", "create", "--label", LABEL, NAMESPACE)
    docker("volume", "create", "--label", LABEL, f"{NAMESPACE}-data")
    docker(
        "run", "-d", "--name", POSTGRES, "--label", LABEL, "--network", NAMESPACE, "--shm-size", "128m",
        "-e", "POSTGRES_PASSWORD=test", "postgres:17", "postgres", "-c", "fsync=off",
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while docker("exec", POSTGRES, "pg_isready", "-q", "-h", "127.0.0.1", check=False).returncode:
            assert time.monotonic() < deadline, docker("logs", POSTGRES).stdout
            time.sleep(0.2)
        quoted = PASSWORD.replace("'", "''")
        bench.sql("postgres", f"CREATE ROLE acme LOGIN PASSWORD '{quoted}'")
        bench.copy("template0", "base")
        assert bench.sql("base", queries.IS_INITIALISED_SQL) == []

        code, log = bench.run("odoo:19.0", "base", commands.initialise(ODOO_19))
        assert verdict.judge_update(code, log, bench.modules("base"), {"base": "", "web": ""}) == []
        assert bench.sql("base", queries.IS_INITIALISED_SQL) == [["1"]]

        bench.copy("base", "live")
        bench.image, laid_out, _ = bench.build()
        made = plan.plan_update(
            "changed", None, bench.modules("live"), bench.stored("live"), laid_out.addons, "b1", "b1"
        )
        assert (made.install, made.update) == (("acme_notes",), ())
        code, log = bench.run(bench.image, "live", commands.change(update=made.update, install=made.install))
        assert verdict.judge_update(code, log, bench.modules("live"), made.expected) == []
        bench.sql("live", queries.write_stored_sql(made.stored))
        yield bench
    finally:
        remove_everything()


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """With the demo's addon as it was."""
    shutil.rmtree(shared.tree)
    shutil.copytree(DEMO, shared.tree)
    return shared


def update(bench: Bench, database: str, names: Sequence[str] = ("acme_notes",)) -> tuple[int, list[str]]:
    image, laid_out, _ = bench.build()
    code, log = bench.run(image, database, commands.change(update=names))
    expected = {addon.name: addon.version for addon in laid_out.taken}
    return code, verdict.judge_update(code, log, bench.modules(database), expected)


def test_a_database_made_from_the_template_is_one_of_its_own_and_serves(bench):
    bench.copy("live", "own")
    before = bench.sql("own", "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'")
    bench.sql("own", queries.new_identity_sql("http://acme.localhost", datetime.now(UTC)))
    assert bench.sql("own", queries.set_admin_sql("boss@acme.example", config.password_hash("ge%heim"))) == [["2"]]
    assert bench.sql("own", "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'") != before

    assert readiness.judge_health(bench.serve(bench.image, "own")) == []
    assert readiness.judge_login(bench.ask(readiness.LOGIN_PATH)) == []

    script = """
import http.client, json, sys
def call(method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", 8069)
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())
def login(password):
    arguments = ["own", "boss@acme.example", password]
    body = {"params": {"service": "common", "method": "login", "args": arguments}}
    return call("POST", "/jsonrpc", body)[1]["result"]
print(json.dumps([
    call("POST", "/acme_notes/post", {"title": "first"}),
    call("POST", "/acme_notes/post", ["nonsense"])[0],
    call("GET", "/acme_notes/count"),
    call("GET", "/acme_notes/count?title=none"),
    login("ge%heim"),
    login("wrong"),
]))
"""
    posted, refused, count, none, good, bad = json.loads(bench.python(script))
    assert posted == [201, {"id": 1}]
    assert refused == 400
    assert count == [200, {"count": 1, "last_id": 1}]
    assert none == [200, {"count": 0, "last_id": 0}]
    assert (good, bad) == (2, False)
    assert bench.sql("own", "SELECT title FROM acme_note") == [["first"]]

    read = """
import json
from odoo.tools import config
config.parse_config(["--config=/etc/odoo/odoo.conf"], setup_logging=False)
names = ("db_name", "db_password", "dbfilter", "list_db", "proxy_mode", "addons_path", "with_demo", "gevent_port")
print(json.dumps({name: config[name] for name in names} | {"master": config.verify_admin_password("master%1")}))
"""
    assert json.loads(bench.python(read)) == {
        "db_name": ["own"],
        "db_password": PASSWORD,
        "dbfilter": "^own$",
        "list_db": False,
        "proxy_mode": True,
        "addons_path": ["/opt/ocore/addons"],
        "with_demo": False,
        "gevent_port": 8072,
        "master": True,
    }
    assert PASSWORD not in docker("top", f"{NAMESPACE}-odoo", "-ef").stdout


def test_an_odoo_with_workers_is_ready_too(bench):
    assert readiness.judge_health(bench.serve(bench.image, "live", workers=2)) == []
    assert readiness.judge_login(bench.ask(readiness.LOGIN_PATH)) == []


def test_the_same_content_comes_from_the_cache_and_the_addons_cannot_be_written(bench):
    first, one, _ = bench.build()
    second, two, output = bench.build()
    assert first == second
    assert one.digest == two.digest
    assert output.count("Using cache") == 4  # USER, COPY, USER, LABEL

    listing = docker(
        "run", "--rm", "--label", LABEL, second, "sh", "-c",
        "id -un; touch /opt/ocore/addons/x 2>&1; stat -c '%U %a' /opt/ocore/addons/acme_notes/__manifest__.py",
    ).stdout  # fmt: skip
    assert listing.startswith("odoo\n")
    assert "Permission denied" in listing
    assert listing.endswith("root 644\n")


def test_a_changed_addon_is_planned_updated_and_found_updated(bench):
    bench.copy("live", "changed")
    bench.edit("acme_notes/__manifest__.py", "19.0.1.0.0", "19.0.1.1.0")
    image, laid_out, _ = bench.build()
    made = plan.plan_update("changed", None, bench.modules("changed"), bench.stored("changed"), laid_out.addons, "b1")
    assert (made.install, made.update) == ((), ("acme_notes",))

    before = bench.modules("changed")
    code, log = bench.run(image, "changed", commands.change(update=made.update))
    assert verdict.judge_update(code, log, before, made.expected), "the old table is not a good one"
    assert verdict.judge_update(code, log, bench.modules("changed"), made.expected) == []
    bench.sql("changed", queries.write_stored_sql(made.stored))
    again = plan.plan_update("changed", None, bench.modules("changed"), bench.stored("changed"), laid_out.addons, "b1")
    assert not again.changes_database


def test_an_invalid_view_is_known_and_explained(bench):
    bench.edit(VIEWS, '<field name="due_date"/>\n                    </group>', '<field name="no_such_field"/></group>')
    code, problems = update(bench, bench.copy("live", "broken"))

    assert code == 255
    (problem,) = problems
    assert 'acme_note_views.xml cannot be loaded, line 16: Field "no_such_field" does not exist' in problem
    assert [row.version for row in bench.modules("broken") if row.name == "acme_notes"] == ["19.0.1.0.0"]


def test_an_addon_that_cannot_be_imported_is_known_at_update_and_never_healthy(bench):
    bench.edit("acme_notes/__init__.py", "from . import", "import no_such_package\nfrom . import")
    code, problems = update(bench, bench.copy("live", "broken"))
    assert code == 255
    assert problems == ["Odoo exited with 255. The Python package “no_such_package” is not in the image."]

    image, _, _ = bench.build()
    assert "500" in readiness.judge_health(bench.serve(image, "live"))[0]
    assert "500" in readiness.judge_login(bench.ask(readiness.LOGIN_PATH))[0]


def test_what_odoo_passes_over_with_exit_code_zero_is_known(bench):
    database = bench.copy("live", "broken")
    code, log = bench.run(bench.image, database, commands.change(update=["acme_notez"]))
    assert code == 0
    problems = verdict.judge_update(code, log, bench.modules(database), {"acme_notez": ""})
    assert "Odoo's log says: invalid module names, ignored: acme_notez" in problems

    bench.edit("acme_notes/__manifest__.py", '["web"]', '["web", "acme_gone"]')
    image, laid_out, _ = bench.build()
    bench.copy("base", database)
    with pytest.raises(plan.UnmetDependency, match="acme_gone"):
        plan.plan_update("changed", None, bench.modules(database), None, laid_out.addons, "b1", "b1")
    bench.copy("live", database)
    code, log = bench.run(image, database, commands.change(install=["acme_notes"]))
    assert code == 0
    problems = verdict.judge_update(code, log, bench.modules(database), {"acme_notes": "19.0.1.0.0"})
    assert "Odoo's log says: module acme_notes: some depends are not loaded, skipped" in problems


def test_an_odoo_without_its_database_looks_healthy_and_is_not_ready(bench):
    assert readiness.judge_health(bench.serve(bench.image, "no_such_database")) == []
    assert "database selector" in readiness.judge_login(bench.ask(readiness.LOGIN_PATH))[0]
    assert bench.sql("postgres", "SELECT 1 FROM pg_database WHERE datname = 'no_such_database'") == []


def test_a_repositorys_python_packages_are_in_the_image(bench):
    (bench.tree / "requirements.txt").write_text("text-unidecode\n")
    authorities = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    keys = {
        "pip_packages": ["iniconfig>=1"],
        "certificates": Path(authorities).read_bytes() if authorities else b"",
    }
    image, _, _ = bench.build(**keys)
    bench.edit("acme_notes/models/acme_note.py", '"Note"', '"A note"')
    _, _, output = bench.build(**keys)
    assert "Collecting" not in output, "a change of the addon must not install the packages again"
    docker("run", "--rm", "--label", LABEL, image, "python3", "-c", "import text_unidecode, iniconfig")
