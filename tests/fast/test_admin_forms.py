"""Forms: what is inherited stands beside each field, whom a default reaches is told before, secrets stay secret."""

import html
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client, RequestFactory
from django.urls import resolve, reverse
from django.utils import timezone

from deployments.models import Deployment
from deployments.states import Status
from instances.models import Instance
from ocore.forms import KEPT
from projects.admin.overrides import override_fieldsets
from projects.inheritance import INSTANCE_SETTINGS, SETTINGS
from projects.models import Environment, Project, Server
from tests import factories

pytestmark = pytest.mark.django_db
GIB = 1024**3


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own transaction never commits, so what waits for that is done at once."""
    monkeypatch.setattr(transaction, "on_commit", lambda function, **_: function())


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def change(row: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def page(client: Client, row: Any) -> str:
    return html.unescape(client.get(change(row)).content.decode())


def filled(client: Client, url: str, **changed: str) -> dict[str, str]:
    """What a browser would send: the form as it is given to the page, with some fields typed over."""
    request = RequestFactory().get(url)
    request.user = User.objects.get(pk=client.session[SESSION_KEY])
    view, arguments, named = resolve(urlsplit(url).path)
    context = view(request, *arguments, **named).context_data
    data: dict[str, str] = {}
    forms = [context["adminform"].form]
    for inline in context["inline_admin_formsets"]:
        forms += [inline.formset.management_form, *inline.formset.forms]
    for form in forms:
        for field in form:
            value = field.value()
            if isinstance(value, bool) and value is False and "CheckboxInput" in type(field.field.widget).__name__:
                continue
            data[field.html_name] = "" if value is None else str(value)
    return data | changed


def save(client: Client, url: str, **changed: str) -> Any:
    return client.post(url, filled(client, url, **changed), follow=True)


@pytest.mark.parametrize("names", [SETTINGS, INSTANCE_SETTINGS])
def test_every_setting_has_its_place_in_the_form_once(names: tuple[str, ...]) -> None:
    placed = [name for _, options in override_fieldsets(names) for name in options["fields"]]
    assert sorted(placed) == sorted(names)


def test_an_empty_override_shows_what_it_inherits_and_from_whom(root: Client) -> None:
    environment = factories.environment(project=factories.project(memory_limit=3 * GIB))
    shown = page(root, environment)
    assert "Inherits <strong>3 GiB</strong>, from project Acme" in shown
    assert "Inherits <strong>19.0</strong>, from oCore's defaults" in shown
    Environment.objects.update(memory_limit=4 * GIB)
    assert "Set here. Empty it inherits 3 GiB, from project Acme" in page(root, environment)
    assert "Inherits <strong>4 GiB</strong>, from environment Production" in page(root, environment.instances.get())


def test_a_new_environment_shows_what_its_project_gives_it(root: Client) -> None:
    project = factories.project(odoo_version="18.0")
    shown = root.get(reverse("admin:projects_environment_add"), {"project": project.pk}).content.decode()
    assert "Inherits <strong>18.0</strong>, from project Acme" in shown
    shown = root.get(reverse("admin:projects_environment_add")).content.decode()
    assert "Inherits from the project." in shown


def test_the_effective_configuration_names_who_set_each_entry_and_no_secret(root: Client) -> None:
    project = factories.project(
        odoo_conf={"log_level": "warn", "db_maxconn": "16"}, secret_variables={"SMTP_PASSWORD": "hunter2hunter2"}
    )
    environment = factories.environment(project=project, odoo_conf={"log_level": "debug"})
    for row in (project, environment, environment.instances.get()):
        shown = page(root, row)
        assert '<code>db_maxconn</code> = 16</td><td data-label="From">project Acme' in shown
        assert "SMTP_PASSWORD" in shown
        assert "hunter2" not in shown
    assert '<code>log_level</code> = debug</td><td data-label="From">environment Production' in page(root, environment)


def test_a_default_that_reaches_several_environments_is_asked_about_first(root: Client) -> None:
    project = factories.project()
    factories.environment(project=project)
    factories.environment(project=project, name="Staging", slug="staging", workers=1)
    factories.environment(project=project, name="Test", slug="test")
    answer = save(root, change(project), workers="4")
    shown = html.unescape(answer.content.decode())
    assert "This reaches 2 environments" in shown
    assert "environment Staging (1)" in shown
    assert Project.objects.get().workers is None, "nothing is saved by asking"
    confirmed = root.post(change(project), {"_carried": answer.context["carried"]}, follow=True)
    assert "was changed successfully" in confirmed.content.decode()
    assert Project.objects.get().workers == 4


def test_the_question_carries_typed_secrets_only_encrypted(root: Client) -> None:
    project = factories.project()
    factories.environment(project=project)
    factories.environment(project=project, name="Staging", slug="staging")
    answer = save(root, change(project), secret_variables="API_KEY = opensesame99", repository_token="tok-123456")
    assert "opensesame99" not in answer.content.decode()
    assert "tok-123456" not in answer.content.decode()
    root.post(change(project), {"_carried": answer.context["carried"]})
    project.refresh_from_db()
    assert project.secret_variables == {"API_KEY": "opensesame99"}
    assert project.repository_token == "tok-123456"


def test_an_answer_to_the_question_fits_its_asker_and_project_only(root: Client) -> None:
    project = factories.project()
    other = factories.project(name="Other", slug="other")
    factories.environment(project=project)
    factories.environment(project=project, name="Staging", slug="staging")
    carried = save(root, change(project), workers="4").context["carried"]
    assert root.post(change(other), {"_carried": carried}).status_code == 403
    assert root.post(change(project), {"_carried": carried[:-4] + "AAAA"}).status_code == 404
    root.force_login(User.objects.create_superuser("eve"))
    assert root.post(change(project), {"_carried": carried}).status_code == 403
    assert Project.objects.get(pk=project.pk).workers is None


def test_a_default_that_reaches_one_environment_or_none_is_saved_at_once(root: Client) -> None:
    project = factories.project()
    factories.environment(project=project)
    answer = save(root, change(project), workers="4")
    assert "takes effect" not in answer.content.decode(), "nothing is deployed"
    assert Project.objects.get().workers == 4


def test_the_projects_form_says_who_overrides_a_default(root: Client) -> None:
    environment = factories.environment(memory_limit=4 * GIB)
    environment.instances.update(workers=8)
    shown = page(root, environment.project)
    assert "Overridden by environment Production (4 GiB)" in shown
    assert "Overridden by instance main (8)" in shown


def test_a_stored_secret_is_never_in_a_page_and_stays_when_left_alone(root: Client) -> None:
    project = factories.project(repository_token="tok-123456", secret_variables={"KEY": "hunter2hunter2"})
    shown = page(root, project)
    assert "tok-123456" not in shown
    assert "hunter2" not in shown
    assert KEPT in shown
    save(root, change(project), description="New")
    project.refresh_from_db()
    assert project.description == "New"
    assert project.repository_token == "tok-123456"
    assert project.secret_variables == {"KEY": "hunter2hunter2"}


def test_a_secret_is_replaced_or_taken_away_by_typing(root: Client) -> None:
    project = factories.project(repository_token="tok-123456", secret_variables={"KEY": "one", "OTHER": "two"})
    save(root, change(project), repository_token="tok-999", secret_variables=f"KEY = three\nOTHER = {KEPT}")
    project.refresh_from_db()
    assert project.repository_token == "tok-999"
    assert project.secret_variables == {"KEY": "three", "OTHER": "two"}
    save(root, change(project), repository_token="", secret_variables="")
    project.refresh_from_db()
    assert project.repository_token == ""
    assert project.secret_variables is None


def test_a_form_in_error_does_not_send_typed_secrets_back_and_says_to_type_them_again(root: Client) -> None:
    project = factories.project(repository_token="tok-123456")
    answer = save(root, change(project), name="", repository_token="tok-999", secret_variables="KEY = opensesame")
    shown = answer.content.decode()
    assert "tok-999" not in shown
    assert "opensesame" not in shown
    assert shown.count("Type the secret once more") == 2
    project.refresh_from_db()
    assert project.repository_token == "tok-123456"
    Project.objects.update(repository_token="")
    answer = save(root, change(project), name="", repository_token="tok-999")
    assert not answer.context["adminform"].form["repository_token"].value(), "nothing is kept, so nothing seems to be"


def test_whoever_may_only_look_sees_that_secrets_are_there_and_not_which(root: Client) -> None:
    server = factories.server(postgres_dsn="postgresql://root:dsnsecret@db/x")
    project = factories.project(repository_token="tok-123456", secret_variables={"KEY": "hunter2hunter2"})
    environment = factories.environment(project=project, memory_limit=2 * GIB, server=server)
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(viewer)
    for row in (server, project, environment, environment.instances.get()):
        shown = page(client, row)
        for secret in ("dsnsecret", "tok-123456", "hunter2", project.webhook_secret, environment.odoo_admin_password):
            assert secret not in shown
    assert "2 GiB" in page(client, environment)
    assert KEPT in page(client, server)


def test_a_branch_of_several_environments_is_saved_with_a_warning(root: Client) -> None:
    environment = factories.environment()
    url = reverse("admin:projects_environment_add")
    typed = {
        "project": str(environment.project_id),
        "server": str(environment.server_id),
        "name": "Staging",
        "slug": "staging",
        "branch": "main",
    }
    answer = save(root, url, **typed)
    assert Environment.objects.count() == 2
    assert "they share the branch" in answer.content.decode()
    assert "A push to it also deploys Staging" in page(root, environment)


def test_a_new_environment_has_its_one_instance_at_once(root: Client) -> None:
    project, server = factories.project(), factories.server()
    typed = {"project": str(project.pk), "server": str(server.pk), "name": "Live", "slug": "live"}
    save(root, reverse("admin:projects_environment_add"), **typed)
    assert Instance.objects.get().environment == Environment.objects.get()
    inline = {
        "environments-TOTAL_FORMS": "2",
        "environments-1-name": "Test",
        "environments-1-slug": "test",
        "environments-1-kind": "other",
        "environments-1-server": str(server.pk),
        "environments-1-project": str(project.pk),
    }
    save(root, change(project), **inline)
    assert Instance.objects.filter(environment__slug="test").count() == 1


MISTAKES = [
    ("slug", "acme", "Project with this Slug already exists"),
    ("name", "Acme", "Project with this Name already exists"),
    ("slug", "-x", "slug"),
    ("repository_url", "ext::sh -c id", "“ext::sh"),
    ("memory_limit", "much", "is not a size"),
    ("memory_limit", "5M", "That is too little: at least 256 MiB."),
    ("memory_limit", "9" * 400, "is more than 64 TiB"),
    ("memory_limit", "1G", "Odoo's hard limit (1.75 GiB, from oCore's defaults) is above the container's memory"),
    ("limit_memory_soft", "512", "is too little: at least 128 MiB, or 0 for none"),
    ("limit_memory_soft", "1.8G", "(1.8 GiB, from project New) is above Odoo's hard limit (1.75 GiB, from oCore's"),
    ("limit_memory_hard", "1G", "Odoo's soft limit (1.5 GiB, from oCore's defaults) is above Odoo's hard limit"),
    ("environment_variables", "PATH = /tmp", "“PATH” cannot be set here"),
    ("secret_variables", "PGPASSWORD = x", "“PGPASSWORD” would overrule"),
    ("environment_variables", "ODOO_DB_NAME = x", "“ODOO_DB_NAME” would overrule"),
    ("odoo_conf", "list_db = True", "“list_db” is set by oCore"),
    ("odoo_version", "19", "is not a version of Odoo"),
    ("environment_variables", "A B = 1", "is not a name"),
]


def test_what_cannot_be_is_an_error_at_its_field(root: Client) -> None:
    factories.project()
    url = reverse("admin:projects_project_add")
    form = filled(root, url, name="New", slug="new")
    for field, typed, message in MISTAKES:
        answer = root.post(url, form | {field: typed})
        assert answer.status_code == 200, (field, typed)
        assert message in html.unescape(str(answer.context["adminform"].form.errors[field])), (field, typed)
    assert Project.objects.count() == 1


def error_at(client: Client, row: Any, field: str, **typed: str) -> str:
    """Saving it is refused with one error at this field; nothing else is said."""
    errors = save(client, change(row), **typed).context["adminform"].form.errors
    assert list(errors) == [field]
    return html.unescape(errors[field][0])


def test_sizes_are_compared_as_they_apply_in_the_end(root: Client) -> None:
    project = factories.project(memory_limit=4 * GIB, limit_memory_hard=3 * GIB)
    environment = factories.environment(project=project, limit_memory_soft=GIB)
    instance = environment.instances.get()
    said = error_at(root, environment, "memory_limit", memory_limit="2G")
    assert "Odoo's hard limit (3 GiB, from project Acme) is above the container's memory limit (2 GiB, from env" in said
    said = error_at(root, instance, "limit_memory_hard", limit_memory_hard="0.5G")
    assert "Odoo's soft limit (1 GiB, from environment Production) is above Odoo's hard limit (512 MiB, from" in said
    save(root, change(instance), limit_memory_hard="0")
    assert Instance.objects.get().limit_memory_hard == 0, "0 is no limit"


def test_a_changed_size_must_suit_whatever_inherits_it(root: Client) -> None:
    project = factories.project()
    environment = factories.environment(project=project, limit_memory_hard=2 * GIB)
    Instance.objects.update(limit_memory_soft=2 * GIB)
    typed = {"memory_limit": "1.9G"}
    assert "Of environment Production, which inherits from here: " in error_at(root, project, "memory_limit", **typed)
    said = error_at(root, environment, "limit_memory_hard", limit_memory_hard="1.9G")
    assert said.startswith("Of instance main, which inherits from here: Odoo's soft limit (2 GiB, from instance main)")
    Environment.objects.update(limit_memory_hard=GIB)
    save(root, change(project), description="Notes")
    assert Project.objects.get().description == "Notes", "what is wrong below doesn't matter to what isn't changed"


def test_a_container_gets_no_more_memory_than_its_server_has(root: Client) -> None:
    server = factories.server(facts={"memory_bytes": 3 * GIB}, name="Small")
    environment = factories.environment(server=server)
    said = error_at(root, environment, "memory_limit", memory_limit="4G")
    assert said.endswith("(4 GiB, from environment Production) is more than Small has, which is 3 GiB.")
    assert "Small has" in error_at(root, environment.project, "memory_limit", memory_limit="4G")
    save(root, change(environment), memory_limit="3G")
    assert Environment.objects.get().memory_limit == 3 * GIB


def test_what_is_wrong_with_a_field_that_an_inline_lacks_is_said_above_it(root: Client) -> None:
    project, server = factories.project(), factories.server(facts={"memory_bytes": GIB}, name="Small")
    made = {"environments-TOTAL_FORMS": "1", "environments-0-name": "Test", "environments-0-slug": "test"}
    made |= {"environments-0-kind": "other", "environments-0-server": str(server.pk)}
    answer = save(root, change(project), **made, **{"environments-0-project": str(project.pk)})
    assert "is more than Small has, which is 1 GiB." in answer.content.decode()
    assert not Environment.objects.exists()


def test_a_taken_name_within_a_project_is_an_error(root: Client) -> None:
    environment = factories.environment()
    url = reverse("admin:projects_environment_add")
    typed = {"project": str(environment.project_id), "server": str(environment.server_id)}
    answer = root.post(url, filled(root, url, **typed, name="Production", slug="production"))
    assert "already exists" in answer.content.decode()
    assert Environment.objects.count() == 1


def test_slugs_are_proposed_from_the_name_and_fixed_afterwards(root: Client) -> None:
    environment = factories.environment()
    for row in (environment.server, environment.project, environment, environment.instances.get()):
        opts = row._meta
        added = root.get(reverse(f"admin:{opts.app_label}_{opts.model_name}_add"))
        assert added.context["adminform"].prepopulated_fields
        save(root, change(row), slug="other-slug")
        row.refresh_from_db()
        assert row.slug != "other-slug"


@pytest.mark.django_db(transaction=True)
def test_changed_settings_are_shown_as_due_at_the_next_deployment(root: Client, queues: Any) -> None:
    environment = factories.environment(branch="", secret_variables={"KEY": "hunter2hunter2"})
    root.post(reverse("admin:projects_environment_deploy", args=[environment.pk]))
    queues.run_all()
    assert Deployment.objects.get().live
    assert "Takes effect at the next deployment" not in page(root, environment)
    Project.objects.update(workers=5, odoo_version="18.0")
    environment.refresh_from_db()
    environment.secret_variables = {"KEY": "another"}
    environment.save()
    shown = page(root, environment)
    assert "Takes effect at the next deployment" in shown
    for words in (
        '<td data-label="Next"><strong>5</strong></td><td data-label="From">project Acme',
        "odoo:18.0",
        "another secret",
    ):
        assert words in shown
    assert "hunter2" not in shown


@pytest.mark.django_db(transaction=True)
def test_after_a_setting_was_changed_it_says_how_what_runs_gets_it(root: Client, queues: Any) -> None:
    environment = factories.environment(branch="")
    root.post(reverse("admin:projects_environment_deploy", args=[environment.pk]))
    queues.run_all()
    due = "It takes effect with the next deployment of Acme / Production. To have it now: “Deploy now”"

    assert due not in save(root, change(environment), description="x").content.decode()
    assert due not in save(root, change(environment), auto_deploy="false").content.decode(), "that takes effect at once"
    for holder, workers in ((environment, 3), (environment.instances.get(), 4)):
        assert due in save(root, change(holder), workers=str(workers)).content.decode()
    assert due in save(root, change(environment.project), cron_threads="2").content.decode()

    Deployment.objects.filter(live=True).update(commit="c" * 40)
    shown = save(root, change(environment), cron_threads="3").content.decode()
    assert "with the commit that is live, or ./manage.py deploy acme/production --ref cccccccccc" in shown


def test_what_a_deployment_by_hand_supersedes_is_told(root: Client, queues: Any) -> None:
    environment = factories.environment(branch="")
    queued = factories.deployment(environment, status=Status.QUEUED, commit="c" * 40, requester="Ada")

    answer = root.post(reverse("admin:projects_environment_deploy", args=[environment.pk]), follow=True)

    assert f"#{queued.pk}, a push of cccccccccc by Ada that was waiting, is superseded." in answer.content.decode()


def test_a_production_that_is_none_by_kind_is_warned_about(root: Client) -> None:
    environment = factories.environment(kind=Environment.Kind.OTHER)
    answer = save(root, change(environment), description="x")
    assert "the safety rules of production" in answer.content.decode()


def test_help_texts_are_escaped(root: Client) -> None:
    shown = root.get(reverse("admin:projects_server_add")).content.decode()
    assert "&lt;environment&gt;-&lt;project&gt;.&lt;this&gt;" in shown


def test_two_servers_cannot_have_the_same_edge(root: Client) -> None:
    factories.server(kind=Server.Kind.DOCKER)
    url = reverse("admin:projects_server_add")
    answer = root.post(url, filled(root, url, name="Second", slug="second"))
    assert "already exists" in answer.content.decode()
    assert Server.objects.count() == 1


def test_times_are_relative_with_the_exact_one_to_point_at(root: Client) -> None:
    environment = factories.environment()
    factories.deployment(environment, live=True, live_at=timezone.now() - timezone.timedelta(minutes=3))
    shown = root.get(reverse("admin:projects_environment_changelist")).content.decode()
    assert "3 min ago</time>" in shown
    assert 'UTC">3 min ago' in shown
