"""The documentation says what the code does, where that can be compared: names, defaults, links, snippets."""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command, get_commands
from django.utils import timezone

from deployments.condition import State
from deployments.models import Deployment, Snapshot
from deployments.retention.sweep import sweep
from deployments.states import Status
from deployments.status_pages import Shown, Update, _as_json
from deployments.uptime import Day
from instances import database, filestore, templates
from instances.models import Door
from instances.runtimes import runtime_for
from instances.runtimes.docker import base_images, client
from ocore.errors import ExpectedError
from ocore.secrets import decrypt
from projects.git import Deadlines
from projects.inheritance import INSTANCE_SETTINGS, SETTINGS, Strategy, UpdatePolicy, display
from projects.models import Project
from tests import factories

ROOT = Path(settings.BASE_DIR)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OUR_APPS = {"ocore", "projects", "instances", "deployments"}
MADE_BY_THE_BROWSER_TEST = {"deployment-page.png", "environments.png", "status-page.png"}
FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table's line."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def table_of(text: str, name: str) -> dict[str, list[str]]:
    """Of the lines whose first cell is one code word of that form: the word and the other cells, without backticks."""
    found = {}
    for first, *rest in rows(text):
        if re.fullmatch(f"`(?:{name})`", first):
            found[first.strip("`")] = [cell.replace("`", "") for cell in rest]
    return found


def documented_defaults() -> dict[str, str]:
    """Of `.env.example`, which `test_env_example` compares with the code."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.removeprefix("# ").split("=", 1) for line in lines if re.match(r"# [A-Z_]+=", line))


def variables() -> dict[str, list[str]]:
    return table_of(page("configuration.md"), r"(?:OCORE|DJANGO)_[A-Z_]+|DATABASE_URL|REDIS_URL")


def test_every_field_of_the_status_pages_json_is_told() -> None:
    section = page("operations.md").partition("## The status page")[2].partition("\n## ")[0]
    update, day = Update(timezone.now(), 1.0, "Updated", good=True), Day(timezone.now().date())
    one = Shown("", "", False, State.UP, "", "", None, "", [day], [update])
    told = json.loads(_as_json(Project(name="Acme"), [one], timezone.now()).content)

    def fields(value: Any) -> set[str]:
        if isinstance(value, list):
            return {name for item in value for name in fields(item)}
        return {*value, *fields(list(value.values()))} if isinstance(value, dict) else set()

    assert fields(told) - set(re.findall(r"`([a-z_]+)`", section)) == set()


def inheritable() -> dict[str, list[str]]:
    section = page("configuration.md").split("## Settings that are inherited")[1].split("\n### ")[0]
    return table_of(section, "[a-z_]+")


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def load_all_of_our_modules() -> None:
    import importlib

    for app in sorted(OUR_APPS):
        for path in (ROOT / app).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not re.search(r"migrations|demo\.addon|wsgi|gunicorn_conf|deployments\.clock", name):
                importlib.import_module(name)


def anchors(text: str) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str]]:
    return [
        (path, target)
        for path in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", path.read_text()))
        if "://" not in target
    ]


def snippet(name: str) -> str:
    """The Python of a snippet that the runbook marks as tested."""
    found = re.search(rf"<!-- tested: {name} -->\s*```sh\n(.*?)```", page("operations.md"), re.DOTALL)
    assert found, f"operations.md has no snippet “{name}”"
    code = re.fullmatch(r"\./manage\.py shell -c '\n(.*)\n'", textwrap.dedent(found[1].rstrip()).strip(), re.DOTALL)
    assert code, f"“{name}” is not one call of ./manage.py shell"
    return textwrap.dedent(code[1])


def run_snippet(name: str, deployment: int) -> None:
    exec(compile(re.sub(r"\b7\b", str(deployment), snippet(name)), name, "exec"), {})  # noqa: S102 - our own docs


def test_every_variable_of_the_environment_is_in_the_reference_and_no_other():
    assert set(variables()) == set(documented_defaults())


@pytest.mark.parametrize("name", [name for name, default in documented_defaults().items() if default])
def test_the_reference_names_the_default_of_a_variable(name):
    assert variables()[name][0] == documented_defaults()[name]


def test_every_setting_that_is_inherited_is_in_the_reference_and_no_other():
    assert set(inheritable()) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_reference_names_default_and_levels_of_a_setting(name):
    default, levels, _meaning = inheritable()[name]
    assert default == display(name, settings.OCORE_DEFAULTS[name])
    assert levels == "project, environment" + (", instance" if name in INSTANCE_SETTINGS else "")


def test_every_strategy_and_update_policy_is_explained():
    words = table_of(page("configuration.md"), "[a-z_]+")
    assert {*Strategy.values, *UpdatePolicy.values} <= set(words)


def test_the_reference_names_every_deadline():
    section = page("configuration.md").split("## Deadlines")[1].split("\n## ")[0]
    steps = {name: (float(cells[0]), float(cells[1])) for name, cells in table_of(section, "[a-z_]+").items()}
    assert steps == settings.OCORE_DEADLINES
    inner = {
        "git": (Deadlines().total, Deadlines().silence),
        "pulling": (base_images.PULL_TIMEOUT, base_images.PULL_SILENCE),
        "building": (base_images.BUILD_TIMEOUT, base_images.BUILD_SILENCE),
        "initialising": (templates.INIT_SECONDS, templates.INIT_SILENCE_SECONDS),
        "a statement": (database.QUICK, database.QUICK),
        "copying": (database.LONG, database.LONG, database.SILENCE),
        "the filestore": (filestore.TIMEOUT, filestore.TIMEOUT),
        "a request": (client.REQUEST_TIMEOUT, client.REQUEST_TIMEOUT),
    }
    told = {first: [float(one) for one in re.findall(r"\d+", " ".join(rest))] for first, *rest in rows(section)}
    for what, seconds in inner.items():
        assert [list(seconds)] == [found for name, found in told.items() if name.startswith(what)], what


def test_every_system_check_is_in_the_reference_and_no_other():
    ids = {
        found
        for app in OUR_APPS
        for path in (ROOT / app).rglob("*.py")
        for found in re.findall(r"id=\"(\w+\.[EWI]\d{3})\"", path.read_text())
    }
    assert ids
    assert set(table_of(page("configuration.md"), r"\w+\.[EWI]\d{3}")) == ids


def test_every_status_of_a_deployment_is_explained_under_the_words_that_people_see():
    section = page("operations.md").split("## Statuses")[1].split("\n## ")[0]
    assert {name: cells[0] for name, cells in table_of(section, "[a-z_]+").items()} == dict(Status.choices)


def test_every_command_is_listed_and_no_other():
    ours = {name for name, app in get_commands().items() if app in OUR_APPS}
    section = page("operations.md").split("\n## Commands")[1]
    assert set(re.findall(r"^\| `\./manage\.py (\w+)", section, re.MULTILINE)) == ours


def test_commands_that_the_pages_show_exist():
    shown = {name for path in PAGES for name in re.findall(r"manage\.py ([a-z]\w+)", path.read_text())}
    assert shown <= set(get_commands())


def test_make_targets_that_the_pages_show_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = {name for path in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE)}
    assert shown <= targets


def test_every_permission_of_our_own_is_explained():
    ours = {
        f"{model._meta.app_label}.{codename}"
        for model in apps.get_models()
        if model._meta.app_label in OUR_APPS
        for codename, _ in model._meta.permissions
    }
    assert set(table_of(page("security.md"), r"\w+\.\w+")) == ours


def test_every_kind_of_expected_failure_is_in_operations_and_no_other():
    load_all_of_our_modules()
    ours = {one.__name__ for one in subclasses(ExpectedError) if one.__module__.partition(".")[0] in OUR_APPS}
    section = page("operations.md").split("## What it says")[1].split("### Webhooks")[0]
    named = {cells[1].strip("`") for cells in rows(section) if len(cells) == 3 and cells[1].startswith("`")}
    assert named == ours


@pytest.mark.parametrize(("path", "target"), links(), ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_a_link_leads_somewhere(path, target):
    name, _, anchor = target.partition("#")
    leads_to = (path.parent / name).resolve() if name else path
    if leads_to.name not in MADE_BY_THE_BROWSER_TEST:
        assert leads_to.exists()
    if anchor:
        assert anchor in anchors(leads_to.read_text())


def test_files_of_the_code_that_the_pages_name_exist():
    named = {
        name
        for path in PAGES
        for name in re.findall(r"`((?:ocore|projects|instances|deployments|tests)/[\w./]*)`", path.read_text())
    }
    missing = {name for name in named if not (ROOT / name).exists()} - {"ocore/"}
    assert named
    assert not missing


def test_headings_to_which_messages_point_exist():
    pointed = set()
    for app in sorted(OUR_APPS):
        for path in (ROOT / app).rglob("*.py"):
            pointed |= set(re.findall(r"docs/(\w+\.md), “([^”]+)”", path.read_text()))
    assert pointed
    for name, heading in pointed:
        assert f"\n## {heading}\n" in page(name)


def test_nothing_in_the_pages_belongs_to_one_machine_only():
    for path in PAGES:
        assert not re.search(r"/(?:work|home|root|tmp)/", path.read_text()), path.name


@pytest.fixture
def broken(db, faults):
    """A deployment whose rollback failed."""
    environment = factories.environment()
    live = Deployment.objects.create(environment=environment, status=Status.SUCCEEDED, live=True)
    deployment = Deployment.objects.create(
        environment=environment, status=Status.ROLLBACK_FAILED, token=1, finished_at=timezone.now()
    )
    Snapshot.objects.create(
        environment=environment,
        deployment=deployment,
        of=live,
        state=Snapshot.State.READY,
        database=f"{environment.database}__s{deployment.pk}",
        label=f"s{deployment.pk}",
    )
    Door.objects.create(
        environment=environment, server=environment.server, holder=str(deployment), closed_at=timezone.now()
    )
    return deployment


def test_the_runbook_shows_the_facts_of_the_snapshot(broken, capsys):
    run_snippet("facts", broken.pk)
    assert f"ready {broken.environment.database}__s{broken.pk} s{broken.pk}" in capsys.readouterr().out


def test_the_runbook_says_in_the_rows_what_was_done_by_hand(broken):
    run_snippet("rows", broken.pk)
    broken.refresh_from_db()
    assert broken.status == Status.ROLLED_BACK
    assert broken.snapshots.get().state == Snapshot.State.RESTORED
    broken.environment.instances.update(container="the-old-one")
    call_command("open_door", broken.environment.path)
    assert not Door.objects.exists()


def test_the_runbook_removes_a_snapshot(broken):
    databases = runtime_for(broken.environment.server).databases
    snapshot = broken.snapshots.get()
    databases.create(snapshot.database, "somebody")
    Deployment.objects.filter(pk=broken.pk).update(status=Status.ROLLED_BACK)
    Door.objects.all().delete()
    run_snippet("discard", broken.pk)
    sweep(broken.environment.server)
    snapshot.refresh_from_db()
    assert snapshot.state == Snapshot.State.GONE
    assert not databases.exists(snapshot.database)


def test_the_runbook_writes_every_secret_with_the_new_key(broken, settings):
    from cryptography.fernet import Fernet

    environment, project = broken.environment, broken.environment.project
    before = environment.odoo_admin_password
    type(environment).objects.filter(pk=environment.pk).update(secret_variables={"TOKEN": "of the environment"})
    new = Fernet.generate_key().decode()
    settings.OCORE_ENCRYPTION_KEYS = [new, *settings.OCORE_ENCRYPTION_KEYS]
    run_snippet("reencrypt", 0)
    settings.OCORE_ENCRYPTION_KEYS = [new]
    environment = type(environment).objects.get(pk=environment.pk)
    assert environment.odoo_admin_password == before
    assert environment.secret_variables == {"TOKEN": "of the environment"}
    assert type(project).objects.get(pk=project.pk).webhook_secret
    assert decrypt(_raw_secret(project)) == type(project).objects.get(pk=project.pk).webhook_secret


def _raw_secret(project):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT webhook_secret FROM projects_project WHERE id = %s", [project.pk])
        return cursor.fetchone()[0]
