"""The deployment's page: the log as it grows, escaped; failure with advice; and what every page must say."""

import re
import time
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import log_reading
from deployments.admin import live
from deployments.models import Deployment, LogChunk, Step
from deployments.states import FORWARD, Status, StepKind, StepStatus
from ocore.ansi import plain, to_html
from projects.models import Server
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def running() -> Deployment:
    deployment = factories.deployment(
        factories.environment(),
        status=Status.RUNNING,
        started_at=timezone.now(),
        commit="c" * 40,
        subject="Fix <b>it</b>",
    )
    Step.objects.create(deployment=deployment, kind=StepKind.BUILD)
    return deployment


def say(deployment: Deployment, text: str, kind: StepKind = StepKind.BUILD) -> LogChunk:
    step, _ = Step.objects.get_or_create(deployment=deployment, kind=kind)
    return LogChunk.objects.create(step=step, text=text)


def poll(client: Client, deployment: Deployment, after: object = 0) -> dict[str, Any]:
    url = reverse("admin:deployments_deployment_live", args=[deployment.pk])
    answer = client.get(url, {"after": after})
    assert answer.status_code == 200
    return answer.json()  # type: ignore[no-any-return]


def test_the_page_works_without_a_script(root: Client, running: Deployment) -> None:
    say(running, "Step 1/3\n")
    shown = root.get(running.get_absolute_url()).content.decode()
    assert "Step 1/3" in shown
    for kind in FORWARD:
        assert kind.label in shown
    assert "Fix &lt;b&gt;it&lt;/b&gt;" in shown
    assert "Under way" in shown


def test_polling_gives_each_line_once_and_goes_on_where_it_was(root: Client, running: Deployment) -> None:
    say(running, "one\n")
    first = poll(root, running)
    assert [part["html"] for part in first["log"]] == ["one\n"]
    assert poll(root, running, first["offset"])["log"] == []
    say(running, "two\n")
    say(running, "three\n", StepKind.DEPLOY)
    second = poll(root, running, first["offset"])
    assert [(part["step"], part["html"]) for part in second["log"]] == [("build", "two\n"), ("deploy", "three\n")]
    assert not second["final"]


def test_polling_shows_the_end_and_takes_the_cancel_button_away(root: Client, running: Deployment) -> None:
    assert "Cancel" in poll(root, running)["controls"]
    Deployment.objects.filter(pk=running.pk).update(
        status=Status.FAILED, error="It broke.", detail="HTTP 502", advice="Push again.", finished_at=timezone.now()
    )
    end = poll(root, running)
    assert end["final"]
    assert "Cancel" not in end["controls"]
    for words in ("Failed", "It broke.", "HTTP 502", "Push again.", "What to do"):
        assert words in end["head"]


@pytest.mark.parametrize("after", ["", "-1", "x", "9" * 30, "1;drop"])
def test_a_senseless_offset_is_the_beginning(root: Client, running: Deployment, after: str) -> None:
    say(running, "one\n")
    assert poll(root, running, after)["log"]


def test_much_log_comes_in_portions(root: Client, running: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reading, "MOST_CHARACTERS", 10)
    for number in range(5):
        say(running, f"line {number}\n")
    lines, offset, more = [], 0, True
    while more:
        news = poll(root, running, offset)
        lines += [part["html"] for part in news["log"]]
        offset, more = news["offset"], news["more"]
    assert "".join(lines) == "".join(f"line {number}\n" for number in range(5))


def test_a_long_log_shows_its_end_and_can_be_had_whole(
    root: Client, running: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PAGE_CHARACTERS", 20)
    for number in range(9):
        say(running, f"\x1b[32mline {number}\x1b[0m\n")
    shown = root.get(running.get_absolute_url()).content.decode()
    assert "line 8" in shown
    assert "line 0" not in shown
    assert "The beginning is left out here" in shown
    whole = root.get(reverse("admin:deployments_deployment_log", args=[running.pk]))
    assert whole.headers["Content-Type"].startswith("text/plain")
    assert b"".join(whole.streaming_content).decode().endswith("".join(f"line {number}\n" for number in range(9)))


def test_colours_become_classes_and_everything_else_is_escaped() -> None:
    shown = to_html('\x1b[1;31mERROR\x1b[0m <script>alert(1)</script> & "quoted"\n')
    assert re.search(r'<span class="ansi1 ansi31">ERROR</span>', shown)
    assert "&lt;script&gt;" in shown
    assert "style=" not in shown


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07",
        "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
        "\x1b[2J\x1b[1;1Hclick",
        "\x1b]0;title\x07click",
        "\x1bP1$r\x1b\\click",
        "\x1b(0click\x1b(B",
        "\x9b31mclick",
        "\x1b[38;5;1;onclick=x]click",
        "click\x1b",
        "\x1b[1Aclick\x07\x08",
    ],
)
def test_no_escape_sequence_but_colour_has_an_effect(hostile: str) -> None:
    shown = to_html(hostile)
    assert "click" in shown
    assert "<a" not in shown
    assert "\x1b" not in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert "\x1b" not in plain(hostile)


def test_a_progress_bar_leaves_its_last_state() -> None:
    assert to_html("10%\r50%\r100%\ndone\r\n") == "100%\ndone\n"


def test_half_a_megabyte_of_log_is_coloured_within_a_second() -> None:
    text = "2026-11-23 \x1b[32mINFO\x1b[0m odoo.modules.loading: loading <module> 1/200\n" * 7000
    taken = []
    for _ in range(3):
        started = time.process_time()
        assert "ansi32" in to_html(text)
        taken.append(time.process_time() - started)
    assert min(taken) < 1


def test_steps_that_were_taken_back_and_never_reached_are_told_apart(root: Client, running: Deployment) -> None:
    Step.objects.create(deployment=running, kind=StepKind.DEPLOY, status=StepStatus.UNDONE, outcome="Boom")
    Step.objects.create(deployment=running, kind=StepKind.ROLLBACK, status=StepStatus.SUCCEEDED)
    Deployment.objects.update(status=Status.ROLLED_BACK)
    shown = root.get(running.get_absolute_url()).content.decode()
    for words in ("Taken back", "not reached", "Rollback", "Boom", "Rolled back"):
        assert words in shown


def test_related_deployments_are_linked(root: Client, running: Deployment) -> None:
    environment = running.environment
    older = factories.deployment(environment, status=Status.SUPERSEDED)
    newer = factories.deployment(environment, status=Status.FAILED)
    Deployment.objects.filter(pk=older.pk).update(superseded_by=newer)
    back = factories.deployment(environment, rollback_to=running, requester="bob")
    assert newer.get_absolute_url() in root.get(older.get_absolute_url()).content.decode()
    assert running.get_absolute_url() in root.get(back.get_absolute_url()).content.decode()
    assert older.get_absolute_url() in root.get(newer.get_absolute_url()).content.decode()
    assert back.get_absolute_url() in root.get(running.get_absolute_url()).content.decode()


def test_the_frozen_configuration_is_shown_with_origins_and_without_secrets(root: Client, queues: Any) -> None:
    project = factories.project(workers=3, secret_variables={"SMTP_PASSWORD": "hunter2hunter2"})
    environment = factories.environment(project=project, branch="", odoo_conf={"log_level": "debug"})
    deployment = factories.deployment(environment, status=Status.QUEUED, ref="", admitted_at=timezone.now())
    from deployments import jobs

    jobs.run_deployment(deployment.pk)
    shown = root.get(deployment.get_absolute_url()).content.decode()
    assert '<td>3</td><td data-label="From">project Acme</td>' in shown
    assert '<code>log_level</code> = debug</td><td data-label="From">environment Production</td>' in shown
    assert "SMTP_PASSWORD" in shown
    assert "hunter2" not in shown


def test_a_simulated_server_is_marked_on_every_page(root: Client) -> None:
    assert "nothing really runs on" not in root.get(reverse("admin:index")).content.decode()
    factories.server()
    for name in ("admin:index", "admin:projects_project_add", "admin:deployments_deployment_changelist"):
        assert "nothing really runs on Sim" in root.get(reverse(name)).content.decode()
    assert "nothing really runs" not in Client().get(reverse("admin:login")).content.decode()


def test_a_failed_rollback_stands_on_every_page_until_something_succeeds_there(root: Client) -> None:
    environment = factories.environment()
    broken = factories.deployment(environment, status=Status.ROLLBACK_FAILED, finished_at=timezone.now())
    for name in ("admin:index", "admin:projects_server_changelist"):
        shown = root.get(reverse(name)).content.decode()
        assert "A person must look" in shown
        assert broken.get_absolute_url() in shown
    factories.deployment(environment, status=Status.FAILED)
    assert "A person must look" in root.get(reverse("admin:index")).content.decode()
    factories.deployment(environment, status=Status.SUCCEEDED)
    assert "A person must look" not in root.get(reverse("admin:index")).content.decode()


def test_no_page_has_an_inline_script_or_style(root: Client, running: Deployment) -> None:
    environment = running.environment
    rows = (environment, environment.project, environment.server, environment.instances.get(), running)
    addresses = [reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk]) for row in rows]
    addresses += [reverse("admin:index"), reverse("admin:projects_environment_changelist")]
    addresses += [reverse("admin:projects_environment_delete", args=[environment.pk])]
    addresses += [reverse("admin:projects_environment_roll_back", args=[environment.pk])]
    for address in addresses:
        answer = root.get(address)
        shown = answer.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>", shown.replace('type="application/json"', "src=")), address
        assert not re.search(r"<[^>]+\s(?:style|on\w+)=", shown), address
        assert "<style" not in shown, address
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_staff_without_the_right_to_see_environments_have_no_overview(running: Deployment) -> None:
    user = User.objects.create_user("ops", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_server"))
    client = Client()
    client.force_login(user)
    shown = client.get(reverse("admin:index")).content.decode()
    assert "Acme / Production" not in shown
    assert reverse("admin:projects_server_changelist") in shown
    assert reverse("admin:deployments_deployment_changelist") not in shown


def test_a_server_problem_is_in_its_list(root: Client) -> None:
    factories.server(problem="It is down.")
    shown = root.get(reverse("admin:projects_server_changelist")).content.decode()
    assert "Problem" in shown
    assert "It is down." in shown
    assert Server.objects.get().problem
