"""Further repositories of a project: taken in beside its own, each at one commit that is on record."""

import html
import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from deployments import decision, further, migrations, retries, services
from deployments.drift import drift
from deployments.models import Deployment
from deployments.retention import sweep as retention
from deployments.run import Run
from deployments.states import Status, Trigger
from instances.addons import Addon, InvalidManifest, InvalidTree, NoAddon
from instances.build_plan import BuildPlan, Tree, prepare_context
from instances.odoo import versions
from instances.odoo.plan import plan_update
from instances.odoo.queries import ModuleRow, Stored
from instances.requirements import InvalidRequirements
from instances.runtimes.simulated import Faults
from projects import mirrors
from projects.git import RepositoryRefused, UnknownRef
from projects.hosts import Push, RefChange
from projects.models import Environment, Repository
from projects.validators import validate_folder
from tests import factories
from tests.acme import ADA, addon, log_of, simulated
from tests.conftest import Queues
from tests.git_remote import GitRemote

ODOO_19 = versions.series("19.0")


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def put_addon(root: Path, path: str, **keys: Any) -> None:
    put(root, f"{path}/__init__.py", "")
    put(root, f"{path}/__manifest__.py", repr({"name": path, "version": "1.0"} | keys))


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[..., BuildPlan]:
    """The context of the tree `own` and of these further ones."""
    count = iter(range(100))
    put_addon(tmp_path / "own", "acme_notes")

    def run(*names: str, folder: str = "", **options: Any) -> BuildPlan:
        trees = [Tree(name, tmp_path / name, folder) for name in names]
        target = tmp_path / f"context-{next(count)}"
        return prepare_context(tmp_path / "own", target, ODOO_19, "odoo:19.0", further=trees, **options)

    return run


# Merging


def test_of_two_addons_of_one_name_the_earlier_repositorys_is_taken(
    tmp_path: Path, lay_out: Callable[..., BuildPlan]
) -> None:
    put_addon(tmp_path / "oca", "acme_notes", name="OCA's")
    put_addon(tmp_path / "oca", "web_tools", name="OCA's")
    put_addon(tmp_path / "themes", "addons/web_tools", name="a theme's")

    plan, other_way = lay_out("oca", "themes"), lay_out("themes", "oca")

    assert {one.name: one.repository for one in plan.taken} == {"acme_notes": "", "web_tools": "oca"}
    assert {(one.name, one.repository) for one in plan.hidden} == {("acme_notes", "oca"), ("web_tools", "themes")}
    assert "OCA's" in (plan.context / "addons/web_tools/__manifest__.py").read_text()
    assert "acme_notes" in (plan.context / "addons/acme_notes/__manifest__.py").read_text()
    assert {one.name: one.repository for one in other_way.taken}["web_tools"] == "themes"
    assert len({plan.digest, other_way.digest, lay_out().digest}) == 3


def test_one_that_odoo_cannot_install_hides_no_other(tmp_path: Path, lay_out: Callable[..., BuildPlan]) -> None:
    put_addon(tmp_path / "own", "web_tools", version="18.0.1.0.0")
    put_addon(tmp_path / "oca", "web_tools")
    put_addon(tmp_path / "oca", "web_old", installable=False)

    plan = lay_out("oca")

    assert [(one.name, one.repository) for one in plan.taken] == [("acme_notes", ""), ("web_tools", "oca")]
    assert plan.hidden == ()


def test_only_what_lies_below_the_folder_is_taken(tmp_path: Path, lay_out: Callable[..., BuildPlan]) -> None:
    put_addon(tmp_path / "oca", "addons/web_tools")
    put_addon(tmp_path / "oca", "legacy/web_tools")
    put(tmp_path / "oca", "requirements.txt", "vobject")

    plan = lay_out("oca", folder="addons")

    assert [one.path for one in plan.taken if one.repository] == ["addons/web_tools"]
    assert plan.requirements == ("oca/requirements.txt",)
    with pytest.raises(InvalidTree, match="“oca”: The addon “web_tools” is in the repository twice"):
        lay_out("oca")
    (tmp_path / "oca/out").symlink_to("/etc")
    for outside in ("gone", "out"):
        with pytest.raises(InvalidTree, match="“oca”"):
            lay_out("oca", folder=outside)


def test_the_packages_that_each_asks_for_are_installed_from_files_that_cannot_meet(
    tmp_path: Path, lay_out: Callable[..., BuildPlan]
) -> None:
    put(tmp_path / "own", "requirements.txt", "phonenumbers")
    put(tmp_path / "own", "oca/requirements.txt", "not beside an addon")
    put_addon(tmp_path / "oca", "web/web_tools")
    put(tmp_path / "oca", "requirements.txt", "-r web/more.txt")
    put(tmp_path / "oca", "web/more.txt", "vobject")
    for name in ("own", "oca"):
        put(tmp_path / name, "apt.txt", f"curl {name}-tools")

    plan = lay_out("oca", pip_packages=["requests"], certificates=b"PEM")
    only_further = lay_out("oca")

    assert plan.requirements == ("requirements.txt", "oca/requirements.txt", "ocore-extra.txt")
    assert plan.apt_packages == ("curl", "own-tools", "oca-tools")
    lines = (plan.context / "Dockerfile").read_text().splitlines()
    assert "COPY requirements_of /opt/ocore/requirements_of" in lines
    (pip,) = [line for line in lines if line.startswith("RUN PIP_CERT=")]
    assert pip.endswith(
        '-r "/opt/ocore/requirements/requirements.txt" -r "/opt/ocore/requirements/ocore-extra.txt" '
        '-r "/opt/ocore/requirements_of/oca/requirements.txt"'
    )
    assert (plan.context / "requirements_of/oca/web/more.txt").read_text() == "vobject"
    assert only_further.digest != plan.digest


def test_a_project_without_further_ones_has_the_image_that_it_had(lay_out: Callable[..., BuildPlan]) -> None:
    assert "requirements" not in (lay_out().context / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("web_tools/__manifest__.py", "{'name': ", InvalidManifest),
        ("web_tools/__manifest__.py", "{'name': 'x', 'installable': False}", NoAddon),
        ("__manifest__.py", "{'name': 'x'}", InvalidTree),
        ("apt.txt", "curl; rm -rf /", InvalidRequirements),
        ("requirements.txt", "-r ../own/requirements.txt", InvalidRequirements),
    ],
)
def test_what_is_wrong_in_one_is_said_of_it(
    tmp_path: Path, lay_out: Callable[..., BuildPlan], name: str, text: str, error: type[NoAddon]
) -> None:
    put_addon(tmp_path / "oca", "web_tools")
    put(tmp_path / "oca", name, text)

    with pytest.raises(error, match="The further repository “oca”: ") as told:
        lay_out("oca")

    assert "another branch or pin" in told.value.advice


def test_python_of_a_further_one_is_looked_at_too(tmp_path: Path, lay_out: Callable[..., BuildPlan]) -> None:
    put_addon(tmp_path / "oca", "web_tools")
    put(tmp_path / "oca", "web_tools/__init__.py", "def broken(:\n")

    assert [one.suspects for one in lay_out("oca").taken] == [(), ("__init__.py",)]


def test_all_of_the_own_addons_are_installed_and_of_further_ones_what_is_named_or_needed() -> None:
    own = Addon("acme_notes", "19.0.1.0", "f", "acme_notes", depends=("web_tools",))
    oca = [Addon(name, "19.0.1.0", "f", name, repository="oca") for name in ("web_tools", "web_other")]
    core = [ModuleRow("base", "installed", "19.0.1.3")]

    first = plan_update("changed", None, core, None, [own, *oca], "b1")
    named = plan_update("changed", ["web_other"], core, None, [own, *oca], "b1")
    running = [*core, *(ModuleRow(name, "installed", "19.0.1.0") for name in ("acme_notes", "web_tools"))]
    stored = Stored("b1", dict.fromkeys(("acme_notes", "web_tools"), "f"))
    later = plan_update("changed", None, running, stored, [own, replace(oca[0], fingerprint="g"), oca[1]], "b1")

    assert (first.install, named.install) == (("acme_notes",), ("web_other",))
    assert (later.install, later.update) == ((), ("web_tools",)), "as an own one whose files changed"
    assert later.notices == (), "what nobody asked for is no news"


@pytest.mark.parametrize("folder", ["/etc", "../x", "a//b", "a/../b", "./a", "a/", "a\\b", "a\nb"])
def test_a_folder_stays_in_the_repository(folder: str) -> None:
    with pytest.raises(ValidationError):
        validate_folder(folder)
    validate_folder("addons/my sale")


# Resolving


@pytest.fixture
def oca(tmp_path: Path) -> GitRemote:
    made = GitRemote(tmp_path / "oca")
    made.commit("Tools", {"web_tools/__manifest__.py": "{'name': 'Tools', 'version': '1.0', 'depends': ['base']}"})
    return made


def row(environment: Environment, remote: GitRemote, name: str = "oca", **fields: Any) -> Repository:
    return Repository.objects.create(project=environment.project, name=name, repository_url=remote.url, **fields)


def settled(environment: Environment, ref: str = "main") -> list[further.Taken]:
    """As a deployment's build does it."""
    deployment = factories.deployment(environment, ref=ref, status=Status.RUNNING)
    said: list[str] = []
    run = Run(deployment)
    try:
        further.settle(SimpleNamespace(run=run, log=said.append))  # type: ignore[arg-type]
        deployment.refresh_from_db()
        return further.taken(deployment)
    finally:
        Deployment.objects.filter(pk=deployment.pk).delete()


@pytest.mark.django_db
def test_a_repository_without_a_branch_follows_the_odoo_versions_and_else_the_deployed_one(
    production: Environment, oca: GitRemote
) -> None:
    one = row(production, oca)
    staging = oca.commit("For staging", branch="staging")

    def asked(ref: str = "staging") -> tuple[str, str]:
        (found,) = settled(production, ref)
        return found.asked, found.commit

    assert asked() == ("staging", staging)
    assert asked("refs/tags/v1") == asked("0" * 40) == ("main", oca.sha("main")), "the environment's branch"
    assert asked("19.0") == ("main", oca.sha("main"))
    newest = oca.commit("For 19", branch="19.0")
    assert asked() == ("19.0", newest)
    Repository.objects.update(branch="staging")
    assert asked("main") == ("staging", staging)
    oca.reset("staging", oca.sha("main"))
    assert asked("main") == ("staging", oca.sha("main"))
    oca.tag("v9")
    Repository.objects.update(branch="v9")
    with pytest.raises(UnknownRef, match=r"“oca”: .* has no branch “v9”"):
        settled(production)
    Repository.objects.update(repository_url=f"{oca.url}-gone")
    with pytest.raises(RepositoryRefused, match="The further repository “oca”: "):
        settled(production)
    assert mirrors.kept() == [one.mirror_name] == ["acme--oca"]


@pytest.mark.django_db
@pytest.mark.parametrize("pin", ["v1", "short", "whole"])
def test_a_pinned_repository_is_never_moved_and_asked_once(
    production: Environment, oca: GitRemote, pin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = oca.sha("main")
    oca.tag("v1", annotated=True)
    one = row(production, oca, pin={"v1": "v1", "short": first[:9], "whole": first}[pin])
    assert [(taken.asked, taken.commit) for taken in settled(production)] == [(one.pin, first)]
    second = oca.commit("Newer", {"x": "y"})
    oca.tag("v1", annotated=True)
    with monkeypatch.context() as patch:
        patch.setattr("projects.git.Mirror.fetch", lambda *_, **__: pytest.fail("git was asked"))
        assert settled(production)[0].commit == first

    one.refresh_from_db()
    one.pin = "v1"
    one.save()
    kept = one.pinned_commit
    one.pin = second
    one.save()

    assert kept == (first if pin == "v1" else "")
    assert settled(production)[0].commit == second
    Repository.objects.update(pin="gone", pinned_commit="")
    with pytest.raises(UnknownRef, match="has no tag “gone”"):
        settled(production)


@pytest.mark.django_db
def test_no_row_follows_a_branch_and_is_pinned_or_has_an_unsafe_address_or_anothers_name(
    production: Environment, oca: GitRemote
) -> None:
    row(production, oca)
    for wrong in ({"branch": "main", "pin": "v1"}, {"repository_url": "ext::sh -c id"}, {"name": "oca"}):
        fields: dict[str, Any] = {"name": "other", "repository_url": oca.url} | wrong
        with pytest.raises(ValidationError):
            Repository(project=production.project, **fields).full_clean()
        with pytest.raises(IntegrityError), transaction.atomic():
            Repository.objects.create(project=production.project, **fields)


# Deploying


@pytest.mark.django_db(transaction=True)
def test_what_was_taken_is_on_record_and_comes_back_as_it_was(
    production: Environment, oca: GitRemote, deploy: Callable[..., Deployment], queues: Queues, capsys: Any
) -> None:
    row(production, oca, repository_token="s3cret-token")
    first = deploy()
    old, known = oca.sha("main"), further.taken(first)
    assert first.status == Status.SUCCEEDED, log_of(first)
    assert [(one.name, one.asked, one.commit, one.subject) for one in known] == [("oca", "main", old, "Tools")]
    assert first.addons["web_tools"]["repository"] == "oca"
    assert f"With oca {old[:10]} main “Tools”" in log_of(first)
    assert "1 addons of oca: web_tools" in log_of(first)
    assert Run(first).redact("a s3cret-token") != "a s3cret-token"

    new = oca.commit("Twice", addon("9.0"))
    second = deploy()
    third = deploy(ref=second.commit)
    assert second.commit == third.commit == first.commit
    assert [further.taken(one)[0].commit for one in (second, third)] == [new, new]
    assert len({first.image, second.image}) == 2
    assert third.image == second.image
    assert "acme_notes is taken from the project's own repository; that of oca is left out." in log_of(second)

    call_command("status", production.path)
    assert f"With      oca {new[:10]} main" in capsys.readouterr().out
    assert f"oca at {old[:10]}" not in (words := " ".join(retries.retry_offer(first).reuses))
    assert f"as they were: oca {old[:10]} main" in words
    assert "The image that was built for" in words

    again = retries.retry(first, ADA, Trigger.MANUAL)
    queues.run_all()
    again.refresh_from_db()
    assert (again.image, again.repositories) == (first.image, first.repositories)
    simulated(lambda state: state["images"].pop(second.image))
    back = services.roll_back(production, ADA, target=second)
    queues.run_all()
    back.refresh_from_db()
    assert back.status == Status.SUCCEEDED, log_of(back)
    assert (back.image, back.repositories) == (second.image, second.repositories), "built anew of the same commits"

    Repository.objects.all().delete()
    simulated(lambda state: state["images"].pop(first.image))
    lost = services.roll_back(production, ADA, target=first)
    queues.run_all()
    lost.refresh_from_db()
    assert lost.status == Status.FAILED
    assert "the further repository “oca”" in lost.error
    assert settled(production) == [], "whoever deploys now has none"


@pytest.mark.django_db(transaction=True)
def test_a_repository_that_is_too_large_for_the_servers_disk_changes_nothing(
    production: Environment, oca: GitRemote, deploy: Callable[..., Deployment], faults: Faults, settings: Any
) -> None:
    row(production, oca)
    oca.commit("Pictures", {"web_tools/static/x.png": "x" * 50_000})
    faults.disk_free_bytes = settings.OCORE_MIN_FREE_BYTES + 40_000

    failed = deploy()

    assert (failed.status, failed.image) == (Status.FAILED, "")
    assert "are needed. Nothing was started" in failed.error


@pytest.mark.django_db
def test_another_choice_is_due_at_the_next_deployment_and_a_branch_that_moved_is_not(
    production: Environment, oca: GitRemote
) -> None:
    live = factories.deployment(production, live=True, repositories=[])

    def due() -> list[tuple[str, str]]:
        found = drift(production, live)
        return [(one.running, one.next) for one in found if one.label == "further repositories"]

    live.configuration = {"base_image": production.base_image, "environment": {}, "instances": {"main": {}}}
    assert due() == []
    one = row(production, oca)
    assert due() == [("none", "oca (branch of the Odoo version)")]
    live.repositories = [asdict(further.Taken("oca", oca.url, "19.0", "c" * 40))]
    assert due() == []
    Repository.objects.update(pin="v1")
    assert due() == [("oca (19.0)", "oca (v1)")]
    told = {one.label for one in retries.retry_offer(live).settings}
    assert "further repositories" not in told, "deployed again, it has what it had"
    Repository.objects.update(pin="", branch="19.0", folder="addons")
    assert due() == [(f"oca ({oca.url} )", f"oca ({oca.url} addons)")]
    one.delete()
    assert due() == [("oca (19.0)", "none")]


@pytest.mark.django_db
def test_a_second_version_that_is_kept_brings_its_own_commits(production: Environment, queues: Queues) -> None:
    second = factories.environment(name="Second", slug="second")
    kept = factories.deployment(second, live=True, repositories=[asdict(further.Taken("oca", "u", "19.0", "c" * 40))])
    factories.deployment(production, live=True, repositories=[])

    taking = services.request_deployment(production, Trigger.MANUAL, ADA, takes_from=second)

    assert taking.repositories == kept.repositories
    assert services.request_deployment(production, Trigger.MANUAL, ADA).repositories is None, "the newest"


@pytest.mark.django_db
def test_a_push_to_a_further_one_is_told_what_it_does(production: Environment) -> None:
    project = production.project
    project.repository_url = "https://git.example/acme/addons.git"
    Repository.objects.create(project=project, name="oca", repository_url="git@git.example:oca/web.git")
    change = RefChange("refs/heads/19.0", "branch", "19.0", "0" * 40, "1" * 40, "1" * 40)

    def reason(name: str) -> str:
        decided = decision.nowhere(project, Push("push", "push", "1", (change,), name))
        return decided.reason if decided else ""

    assert "the further repository “oca”, and deploys nothing by itself" in reason("oca/web")
    assert "Correct the project's repository" in reason("oca/other")


@pytest.mark.django_db
def test_a_copy_goes_with_its_repository_and_stays_while_its_project_runs(
    production: Environment, oca: GitRemote
) -> None:
    one = row(production, oca)
    mirrors.mirror_of(one).fetch(lambda _: None)
    factories.deployment(production, live=True)

    def told() -> list[str]:
        return [verdict.sentence for verdict in retention.survey(None).verdicts if "acme--oca" in verdict.thing.name]

    assert told()[0].startswith("kept: Acme runs")
    one.delete()
    assert told() == ["removed: Acme has no further repository oca any more"]
    (mirrors._folder() / "gone--acme--oca.git").mkdir()
    assert "removed: there is no project gone any more" in told()
    retention.sweep(None)
    assert mirrors.kept() == []
    assert not list((mirrors._folder()).iterdir()), "its lock too"


@pytest.mark.django_db
def test_what_was_built_before_there_were_any_had_none(production: Environment) -> None:
    built = factories.deployment(production, content="c", repositories=None)
    never = factories.deployment(production, repositories=None)

    (path,) = Path(migrations.__path__[0]).glob("*_further_repositories.py")
    importlib.import_module(f"deployments.migrations.{path.stem}").say_that_there_were_none(apps, None)

    assert list(Deployment.objects.order_by("pk").values_list("pk", "repositories")) == [
        (built.pk, []),
        (never.pk, None),
    ]


# The project's page


def change_page(environment: Environment) -> str:
    return reverse("admin:projects_project_change", args=[environment.project.pk])


def send(client: Client, environment: Environment, **changed: Any) -> str:
    """Save the page as a browser would, with some fields typed over; what it says then."""
    context = client.get(change_page(environment)).context
    data: dict[str, Any] = {}
    forms = [context["adminform"].form]
    for inline in context["inline_admin_formsets"]:
        forms += [inline.formset.management_form, *inline.formset.forms]
    for form in forms:
        for field in form:
            if field.value() is not None and field.value() is not False:
                data[field.html_name] = field.value()
    data |= {f"repositories-{name.replace('__', '-')}": value for name, value in changed.items()}
    if "own" in changed:
        data["repository_url"] = changed["own"]
    return html.unescape(client.post(change_page(environment), data, follow=True).content.decode())


@pytest.mark.django_db
def test_they_are_edited_on_the_projects_page(
    production: Environment, oca: GitRemote, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "on_commit", lambda function, **_: function())
    live = factories.deployment(production, live=True, repositories=[], commit="c" * 40)
    live.configuration = {"base_image": production.base_image, "environment": {}, "instances": {"main": {}}}
    live.save()
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    new = {"0__name": "oca", "0__repository_url": oca.url, "0__priority": 10, "0__repository_token": "s3cret"}

    assert "no git repository of its own" in send(root, production, TOTAL_FORMS=1, own="", **new)
    assert not Repository.objects.exists()
    said = send(root, production, TOTAL_FORMS=1, **new)
    assert "It takes effect with the next deployment of Acme / Production" in said
    assert "s3cret" not in said
    assert Repository.objects.get().repository_token == "s3cret"
    send(root, production, **{"0__pin": "v1"})
    one = Repository.objects.get()
    assert (one.pin, one.repository_token) == ("v1", "s3cret")

    queues.jobs.clear()
    send(root, production, **{"0__DELETE": "on"})
    assert not Repository.objects.exists()
    assert ("sweep", (0,)) in queues.jobs["slow"]


@pytest.mark.django_db
@pytest.mark.parametrize("may", ["", "view", "add", "change"])
def test_each_act_needs_its_permission_and_nobody_sees_a_token(
    production: Environment, oca: GitRemote, may: str
) -> None:
    row(production, oca, repository_token="s3cret-token")
    user = User.objects.create_user("ann", is_staff=True)
    names = ["view_project", "change_project", *([f"{may}_repository", "view_repository"] if may else [])]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user)

    shown = html.unescape(client.get(change_page(production)).content.decode())
    send(client, production, **{"0__pin": "v1", "0__DELETE": "on"})

    assert "s3cret-token" not in shown
    assert (oca.url in shown) == bool(may)
    assert Repository.objects.get().pin == ("v1" if may == "change" else "")
