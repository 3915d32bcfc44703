"""Who may see and do what in the admin, on every URL that it has; and what lists cost."""

import html
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, URLPattern, reverse
from django.utils import timezone

from deployments import tokens
from deployments.models import ApiToken, Delivery, Deployment, LogChunk, Snapshot, Step
from deployments.states import Status, StepKind
from instances import incidents
from instances.models import Certificate, Incident, Instance
from projects.domains import Domain
from projects.models import Environment, KnownHost, Project, Server
from tests import factories

pytestmark = pytest.mark.django_db
OURS = (
    *(Server, Project, Environment, Instance, Deployment, Snapshot, Delivery, Incident, Domain, Certificate),
    *(KnownHost, ApiToken),
)
SECRET_PERMISSIONS = {"view_webhook_secret", "view_odoo_password"}
CONTROLS = {
    "deploy_environment",
    "roll_back_environment",
    "cancel_deployment",
    "control_instance",
    "download_snapshot",
    "rotate_webhook_secret",
    "replay_delivery",
    "send_test_delivery",
} | SECRET_PERMISSIONS


def staff(name: str, *codenames: str) -> User:
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user


def viewer() -> User:
    names = Permission.objects.filter(codename__startswith="view_").values_list("codename", flat=True)
    return staff("viewer", *set(names) - SECRET_PERMISSIONS)


def browser(user: User | None) -> Client:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


@pytest.fixture
def rows() -> dict[type, int]:
    """One of everything; the primary key by model."""
    environment = factories.environment(project=factories.project(repository_url="https://git.example.com/acme.git"))
    old = factories.deployment(environment, live_at=timezone.now(), commit="a" * 40)
    live = factories.deployment(environment, live=True, live_at=timezone.now(), commit="b" * 40)
    LogChunk.objects.create(step=Step.objects.create(deployment=live, kind=StepKind.BUILD), text="hello\n")
    snapshot = Snapshot.objects.create(environment=environment, deployment=live, of=old, state=Snapshot.State.READY)
    delivery = Delivery.objects.create(
        project=environment.project, host="github", verdict="accepted", reason="Queued.", status_code=202
    )
    instance = environment.instances.get()
    incident = incidents.notice(Incident.Part.INSTANCE, environment.server, "It is gone.", instance=instance)
    incidents.give_up(incident, "It keeps ending.", "Read its log.")
    incidents.notice(Incident.Part.EDGE, environment.server, "The edge is gone.")
    return {
        Server: environment.server_id,
        Project: environment.project_id,
        Environment: environment.pk,
        Instance: instance.pk,
        Incident: incident.pk,
        Deployment: old.pk,
        Snapshot: snapshot.pk,
        Delivery: delivery.pk,
        Domain: Domain.objects.create(environment=environment, name="shop.acme.example").pk,
        Certificate: Certificate.objects.create(
            environment=environment, host="shop.acme.example", checked_at=timezone.now()
        ).pk,
        KnownHost: KnownHost.objects.create(
            host="git.example.com", key_type="ssh-ed25519", key="AAAA", fingerprint="SHA256:x", state="accepted"
        ).pk,
        ApiToken: tokens.make(
            User.objects.create_superuser("maker"), "maker", name="CI", verbs=["read"], projects=[environment.project]
        )[0].pk,
    }


def urls(rows: dict[type, int]) -> Iterator[tuple[str, str]]:
    """Every named URL of our models' admins, filled in."""
    for model in OURS:
        for pattern in admin.site.get_model_admin(model).urls:
            if not isinstance(pattern, URLPattern) or not pattern.name:
                continue
            given: dict[str, Any] = dict.fromkeys(pattern.pattern.converters, rows[model])
            if "target" in given:
                given["target"] = rows[Deployment]
            try:
                yield pattern.name, reverse(f"admin:{pattern.name}", kwargs=given)
            except NoReverseMatch as error:
                raise AssertionError(f"{pattern.name} cannot be visited by this test: {error}") from error


def test_every_url_sends_strangers_to_the_login(rows: dict[type, int]) -> None:
    client = browser(None)
    for name, url in urls(rows):
        for answer in (client.get(url), client.post(url)):
            assert answer.status_code == 302, name
            assert answer.url.startswith(reverse("admin:login")), name


def test_every_url_refuses_staff_without_permissions(rows: dict[type, int]) -> None:
    client = browser(staff("nobody"))
    for name, url in urls(rows):
        for answer in (client.get(url), client.post(url)):
            assert answer.status_code == 403, name


def test_a_viewer_sees_every_page_without_buttons_and_can_do_nothing(rows: dict[type, int], queues: Any) -> None:
    client = browser(viewer())
    seen = {"changelist", "change", "history", "live", "log", "disk", "why", "host"}
    before = Deployment.objects.count()
    for name, url in urls(rows):
        answer = client.get(url)
        action = name.split("_", 2)[2]
        assert answer.status_code == (200 if action in seen else 403), name
        if action == "change":
            _has_no_buttons(answer, name)
        if action not in {"changelist", "history", "live", "log", "disk", "why"}:
            assert client.post(url).status_code == 403, name
    assert Deployment.objects.count() == before
    assert queues.jobs == {}


def _has_no_buttons(answer: Any, name: str) -> None:
    content = answer.content.decode()
    own = content.count('id="logout-form"') + content.count(f'id="{name.split("_")[1]}_form"')
    assert content.count('method="post"') == own, name
    assert "Roll back" not in content, name


def followed(client: Client) -> set[str]:
    """Wherever links lead within the admin, from the first page on; each must open."""
    todo, seen = [reverse("admin:index")], set[str]()
    while todo:
        url = todo.pop()
        seen.add(url)
        answer: Any = client.get(url)
        assert answer.status_code == 200, f"{url} is linked to"
        found = re.findall(r'href="([^"]+)"', b"".join(answer).decode())
        links = {urljoin(url, html.unescape(link)).partition("#")[0].partition("?")[0] for link in found}
        todo += [link for link in links - seen - set(todo) if link.startswith("/admin/")]
    return seen


@pytest.mark.parametrize("model", [Environment, Project, Deployment, Snapshot])
def test_who_may_see_one_kind_of_thing_meets_no_link_that_is_refused(rows: dict[type, int], model: type) -> None:
    seen = followed(browser(staff("narrow", f"view_{model._meta.model_name}")))
    assert any(f"/{rows[model]}/change/" in url for url in seen)


def test_who_may_not_see_servers_and_deliveries_meets_no_link_to_them(rows: dict[type, int]) -> None:
    user = viewer()
    user.user_permissions.remove(*Permission.objects.filter(codename__in=["view_server", "view_delivery"]))
    assert len(followed(browser(user))) > len(rows)


@pytest.mark.parametrize("kind", ["user", "group"])
def test_a_form_offers_the_permissions_that_mean_something_in_words(kind: str) -> None:
    root = User.objects.create_superuser("root")
    row = root if kind == "user" else Group.objects.create(name="Ops")
    client = browser(root)
    url = reverse(f"admin:auth_{kind}_change", args=[row.pk])
    field = client.get(url).context["adminform"].form.fields["user_permissions" if kind == "user" else "permissions"]
    offered = [label for _, label in field.choices]
    assert {"Environment: can view", "Deployment: can roll an environment back", "User: can change"} <= set(offered)
    assert {label.partition(":")[0] for label in offered} == {
        *(
            "Server",
            "Project",
            "Environment",
            "Instance",
            "Deployment",
            "Snapshot",
            "Delivery",
            "Incident",
            "Domain",
            "Certificate",
            "SSH host key",
            "API token",
            "User",
            "Group",
        )
    }
    assert not {"Snapshot: can delete", "API token: can change"} & set(offered)


def test_after_deploying_nobody_lands_on_a_page_that_is_not_theirs(rows: dict[type, int], queues: Any) -> None:
    client = browser(staff("deployer", "view_environment", "deploy_environment", "roll_back_environment"))
    for act, more in (("deploy", []), ("roll_back_to", [rows[Deployment]])):
        url = reverse(f"admin:projects_environment_{act}", args=[rows[Environment], *more])
        assert client.post(url, follow=True).status_code == 200


def test_an_operator_does_what_was_granted_and_changes_no_definitions(rows: dict[type, int], queues: Any) -> None:
    operator = viewer()
    operator.user_permissions.add(*Permission.objects.filter(codename__in=CONTROLS))
    client = browser(operator)
    deploy = reverse("admin:projects_environment_deploy", args=[rows[Environment]])
    assert client.post(deploy).status_code == 302
    assert Deployment.objects.filter(status=Status.QUEUED).count() == 1
    for name, url in urls(rows):
        if name.endswith(("_add", "_delete")) or name == "projects_server_check_now":
            assert client.get(url).status_code == 403, name


@pytest.mark.parametrize(
    ("model", "act", "codename"),
    [
        (Environment, "deploy", "deploy_environment"),
        (Environment, "odoo_password", "view_odoo_password"),
        (Environment, "refresh_pending", "deploy_environment"),
        (Deployment, "cancel", "cancel_deployment"),
        (Instance, "start", "control_instance"),
        (Instance, "stop", "control_instance"),
        (Instance, "restart", "control_instance"),
        (Project, "webhook_secret", "view_webhook_secret"),
        (Project, "rotate_webhook_secret", "rotate_webhook_secret"),
        (Project, "send_test", "send_test_delivery"),
        (Project, "make_deploy_key", "make_deploy_key"),
        (Project, "remove_deploy_key", "make_deploy_key"),
        (Delivery, "replay", "replay_delivery"),
        (Server, "check_now", "change_server"),
        (Environment, "unlock", "lock_environment"),
        (ApiToken, "revoke", "revoke_apitoken"),
    ],
)
def test_each_act_needs_its_permission_and_a_post(
    rows: dict[type, int], queues: Any, model: type, act: str, codename: str
) -> None:
    user = viewer()
    client = browser(user)
    opts = model._meta
    url = reverse(f"admin:{opts.app_label}_{opts.model_name}_{act}", args=[rows[model]])
    assert client.post(url).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename=codename))
    assert client.get(url).status_code == 405
    assert client.post(url).status_code in (200, 302)


def test_acts_are_protected_against_forged_requests(rows: dict[type, int]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    url = reverse("admin:projects_environment_deploy", args=[rows[Environment]])
    assert client.post(url).status_code == 403
    assert not Deployment.objects.filter(status=Status.QUEUED).exists()


def test_a_superuser_sees_every_page(rows: dict[type, int]) -> None:
    client = browser(User.objects.create_superuser("root"))
    for name, url in urls(rows):
        expected = {200, 302} if name.endswith(("download", "roll_back_to")) else {200, 405}
        written = ("deployments_", "instances_incident_", "instances_certificate_", "projects_knownhost_")
        if name.startswith(written) and name.endswith(("_add", "_delete")) and name != "deployments_apitoken_add":
            expected = {403}
        assert client.get(url).status_code in expected, name
    for app in ("projects", "instances", "deployments"):
        assert client.get(reverse("admin:app_list", args=[app])).status_code == 200
    assert client.get(reverse("admin:index")).status_code == 200


def test_rows_of_the_pipeline_are_never_written_by_hand(rows: dict[type, int]) -> None:
    client = browser(User.objects.create_superuser("root"))
    for model in (Deployment, Snapshot, Delivery, Incident, Certificate, KnownHost):
        base = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        assert client.get(reverse(f"{base}_add")).status_code == 403
        assert client.post(reverse(f"{base}_change", args=[rows[model]]), {"status": "succeeded"}).status_code == 403
        assert not admin.site.get_model_admin(model).has_delete_permission(None)


def test_the_queues_dashboard_is_not_there() -> None:
    assert not [model for model in admin.site._registry if model._meta.app_label == "django_rq"]


def test_a_list_costs_the_same_queries_with_3_and_9_rows() -> None:
    client = browser(User.objects.create_superuser("root"))

    def queries() -> dict[str, int]:
        names = {model: f"{model._meta.app_label}_{model._meta.model_name}_changelist" for model in OURS}
        return {model.__name__: _queries(client, reverse(f"admin:{name}")) for model, name in names.items()}

    for number in range(3):
        _fill(number)
    few = queries()
    for number in range(3, 9):
        _fill(number)
    assert queries() == few
    assert {name: number for name, number in few.items() if number >= 25} == {}


def _fill(number: int) -> None:
    project = factories.project(name=f"P{number}", slug=f"p{number}")
    environment = factories.environment(project=project)
    first = factories.deployment(environment, live=True, live_at=timezone.now(), commit="c" * 40)
    last = factories.deployment(environment, status=Status.FAILED)
    Snapshot.objects.create(environment=environment, deployment=last, of=first, state=Snapshot.State.READY)
    Delivery.objects.create(project=project, host="github", verdict="accepted", reason="x", status_code=202)
    instance = environment.instances.get()
    incidents.end(incidents.notice(Incident.Part.INSTANCE, environment.server, "It is gone.", instance=instance))
    Domain.objects.create(environment=environment, name=f"p{number}.example")
    Certificate.objects.create(environment=environment, host=f"p{number}.example", checked_at=timezone.now())
    owner = staff(f"u{number}")
    tokens.make(owner, "root", name="CI", verbs=["read"], projects=[project])
    slug = f"s{number}"
    Server.objects.create(name=slug, slug=slug, kind=Server.Kind.SIMULATED, edge_port=9000 + number)


def _queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return len(captured)


def test_what_was_given_up_is_loud_on_every_page_and_incidents_are_on_those_of_environment_and_server(
    rows: dict[type, int],
) -> None:
    client = browser(User.objects.create_superuser("root"))
    for model in (Environment, Server, Incident, Deployment):
        page = client.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[rows[model]]))
        content = page.content.decode()
        assert "is down and could not be brought back" in content, model
        if model is not Deployment:
            assert ("The edge is gone." in content) == (model is not Incident)
            assert ("It is gone." in content) == (model is not Server)


def test_a_server_goes_with_what_was_recorded_of_it() -> None:
    server = factories.server()
    incidents.end(incidents.notice(Incident.Part.EDGE, server, "The edge is gone."))
    client = browser(User.objects.create_superuser("root"))

    client.post(reverse("admin:projects_server_delete", args=[server.pk]), {"post": "yes"})

    assert not Server.objects.exists()
