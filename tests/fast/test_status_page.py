"""The clients' status page: what it says in each state, and what it never says."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from deployments.condition import conditions
from deployments.models import Deployment, Step
from deployments.states import Status, StepKind, StepStatus, Trigger
from deployments.uptime import DAYS, days_of, percent
from instances.models import Door, HealthCheck, Instance
from projects.models import Environment, Project, Server
from tests import factories

NOW = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)
VISITOR = Client()

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _now() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def real() -> Server:
    return Server.objects.create(name="Canary server", slug="canary-server", edge_port=80, base_domain="example.com")


@pytest.fixture
def production(real: Server) -> Environment:
    return factories.environment(server=real, public=True, branch="canary-branch")


def at(hours: float) -> datetime:
    """So many hours ago."""
    return NOW - timedelta(hours=hours)


def go_live(environment: Environment, hours: float = 100, **fields: Any) -> Deployment:
    version = {"environment": {"odoo_version": {"value": "19.0"}}}
    times = {"started_at": at(hours + 0.02), "finished_at": at(hours), "live_at": at(hours)}
    deployment = factories.deployment(environment, live=True, configuration=version, **(times | fields))
    environment.instances.update(state=Instance.State.RUNNING, state_since=at(hours))
    return deployment


def look(environment: Environment, hours: float = 0.01, *, ok: bool = True, held: bool = False) -> HealthCheck:
    return HealthCheck.objects.create(environment=environment, checked_at=at(hours), ok=ok, held=held)


def get(project: Project, suffix: str = "/", **headers: str) -> Any:
    return VISITOR.get(f"/status/{project.status_token}{suffix}", headers=headers)


def told(environment: Environment) -> dict[str, Any]:
    found: list[dict[str, Any]] = get(environment.project, ".json").json()["environments"]
    return next(one for one in found if one["name"] == environment.name)


# The state now


def test_an_environment_that_never_went_live_says_so(production: Environment) -> None:
    assert told(production)["state"] == "not_live"
    assert told(production)["url"] is None


def test_the_first_deployment_is_setting_up(production: Environment) -> None:
    factories.deployment(production, status=Status.RUNNING)

    assert (told(production)["state"], told(production)["message"]) == (
        "updating",
        "It is being set up for the first time.",
    )


def test_it_is_up_when_the_last_look_found_it_well(production: Environment) -> None:
    go_live(production)
    look(production)

    one = told(production)
    assert (one["state"], one["version"], one["since"]) == ("up", "Odoo 19.0", at(100).isoformat())
    assert one["url"] == production.url


def test_it_is_down_when_the_last_look_failed(production: Environment) -> None:
    go_live(production)
    look(production, 0.02)
    look(production, 0.01, ok=False)

    assert told(production)["state"] == "down"


def test_what_has_just_gone_live_is_up_before_anybody_looked_again(production: Environment) -> None:
    look(production, 0.02, ok=False)
    go_live(production, hours=0.01)

    assert told(production)["state"] == "up"


def test_nobody_claims_that_it_is_up_when_nobody_has_looked_for_long(production: Environment) -> None:
    go_live(production)
    look(production, 5)

    assert told(production)["state"] == "unknown"


def test_while_its_door_is_closed_it_is_being_updated(production: Environment) -> None:
    go_live(production)
    factories.deployment(production, status=Status.RUNNING)
    Door.objects.create(environment=production, server=production.server, holder="canary", closed_at=NOW)

    assert told(production)["state"] == "updating"
    assert told(production)["message"].startswith("Please wait a moment")


def test_while_an_update_is_built_people_can_go_on_working(production: Environment) -> None:
    go_live(production)
    factories.deployment(production, status=Status.RUNNING)

    assert told(production)["message"] == "An update is being prepared. You can go on working."


def test_a_queued_deployment_changes_nothing_yet(production: Environment) -> None:
    go_live(production)
    look(production)
    factories.deployment(production, status=Status.QUEUED)

    assert told(production)["state"] == "up"


def test_what_was_stopped_on_purpose_is_stopped_not_down(production: Environment) -> None:
    go_live(production)
    look(production, ok=False)
    production.instances.update(state=Instance.State.STOPPED)

    assert (told(production)["state"], told(production)["url"]) == ("stopped", None)


def test_a_failed_rollback_is_down_and_not_an_endless_update(production: Environment) -> None:
    go_live(production)
    factories.deployment(production, status=Status.ROLLBACK_FAILED, finished_at=at(1))
    Door.objects.create(environment=production, server=production.server, holder="canary", closed_at=at(1))

    assert told(production)["state"] == "down"
    assert "looking after it" in told(production)["message"]


def test_a_failed_rollback_is_over_once_something_is_live_again(production: Environment) -> None:
    factories.deployment(production, status=Status.ROLLBACK_FAILED, finished_at=at(1))
    go_live(production, hours=0.5)
    look(production)

    assert told(production)["state"] == "up"


def test_a_look_during_a_deployment_says_nothing_about_now(production: Environment) -> None:
    go_live(production, hours=0.03)
    look(production, 0.01, ok=False, held=True)

    assert told(production)["state"] == "up"


# The last updates


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (Status.SUCCEEDED, "Updated"),
        (Status.ROLLED_BACK, "Update was taken back, nothing changed for you"),
        (Status.FAILED, "Update was not carried out, nothing changed for you"),
        (Status.ROLLBACK_FAILED, "Update went wrong, we are looking after it"),
    ],
)
def test_an_update_is_told_in_a_clients_words(production: Environment, status: Status, outcome: str) -> None:
    factories.deployment(production, status=status, started_at=at(2), finished_at=at(1.5))

    assert told(production)["updates"] == [{"at": at(1.5).isoformat(), "seconds": 1800, "outcome": outcome}]


def test_a_rollback_by_hand_is_told_as_going_back(production: Environment) -> None:
    factories.deployment(production, trigger=Trigger.ROLLBACK, started_at=at(2), finished_at=at(1))

    assert told(production)["updates"][0]["outcome"] == "Went back to an earlier version"


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.CANCELLED, Status.SUPERSEDED])
def test_what_never_concerned_a_client_is_not_told(production: Environment, status: Status) -> None:
    factories.deployment(production, status=status, started_at=at(2))

    assert told(production)["updates"] == []


def test_a_deployment_that_left_all_as_it_was_is_no_update(production: Environment) -> None:
    first = go_live(production, 50)
    Step.objects.create(deployment=first, kind=StepKind.SNAPSHOT, status=StepStatus.SKIPPED)
    Step.objects.create(deployment=first, kind=StepKind.DEPLOY, status=StepStatus.SUCCEEDED)
    Deployment.objects.update(live=False)
    second = go_live(production, 20)
    for kind in (StepKind.SNAPSHOT, StepKind.DEPLOY):
        Step.objects.create(deployment=second, kind=kind, status=StepStatus.SKIPPED)

    one = told(production)
    assert [update["at"] for update in one["updates"]] == [at(50).isoformat()]
    assert one["since"] == at(50).isoformat(), "the version that runs is the first one's"


def test_only_the_last_five_are_told_newest_first(production: Environment) -> None:
    for age in range(9, 0, -1):
        factories.deployment(production, started_at=at(age + 0.1), finished_at=at(age))

    assert [one["at"] for one in told(production)["updates"]] == [at(age).isoformat() for age in range(1, 6)]


# Uptime


def test_each_day_is_counted_by_itself(production: Environment) -> None:
    go_live(production, 24 * DAYS)
    for hours, ok in ((1, True), (2, True), (3, True), (4, False)):
        look(production, hours, ok=ok)
    look(production, 25, ok=False)

    days = told(production)["uptime"]["days"]
    assert len(days) == DAYS
    assert days[-1] == {"date": "2026-03-20", "percent": 75.0, "kind": "partly"}
    assert days[-2] == {"date": "2026-03-19", "percent": 0.0, "kind": "down"}
    assert days[-3] == {"date": "2026-03-18", "percent": None, "kind": "none"}
    assert told(production)["uptime"]["percent"] == 60.0


def test_maintenance_is_not_downtime(production: Environment) -> None:
    go_live(production)
    look(production, 1)
    look(production, 2, ok=False, held=True)
    look(production, 30, ok=False, held=True)

    days = told(production)["uptime"]["days"]
    assert (days[-1]["percent"], days[-1]["kind"]) == (100.0, "up")
    assert (days[-2]["percent"], days[-2]["kind"]) == (None, "maintenance")


def test_days_before_the_first_deployment_are_not_shown(production: Environment) -> None:
    go_live(production, 30)
    Deployment.objects.update(live=False)
    go_live(production, 2)
    look(production, 1)

    days = told(production)["uptime"]["days"]
    assert [(day["date"], day["kind"]) for day in days] == [("2026-03-19", "none"), ("2026-03-20", "up")]
    assert "Last 2 days" in get(production.project).content.decode()
    Deployment.objects.filter(live=False).delete()
    page = get(production.project).content.decode()
    assert "<h3>Today</h3>" in page
    assert 'role="img"' not in page, "one day needs no picture"


def test_days_begin_at_midnight(production: Environment) -> None:
    look(production, 12)
    look(production, 12.001, ok=False)

    days = days_of([production.pk])[production.pk]
    assert (days[-1].percent, days[-2].percent) == (100.0, 0.0)


def test_what_is_older_than_the_page_shows_is_not_counted(production: Environment) -> None:
    look(production, 24 * DAYS, ok=False)

    assert told(production)["uptime"]["percent"] is None


def test_a_hundred_percent_means_that_it_never_was_down() -> None:
    assert percent(99_999, 1) == 99.99
    assert percent(100_000, 0) == 100.0
    assert percent(0, 0) is None


# What it never says


def test_internals_are_on_neither_page(production: Environment) -> None:
    canaries = {
        "commit": "c" * 40,
        "subject": "canary-subject",
        "author": "canary-author",
        "requester": "canary-requester",
        "error": "canary-error",
        "detail": "canary-detail",
        "advice": "canary-advice",
        "image": "canary-image",
        "ref": "canary-ref",
    }
    Project.objects.update(repository_url="https://git.example.com/canary", description="canary-description")
    go_live(production, **canaries)
    factories.deployment(production, status=Status.FAILED, finished_at=at(1), **canaries)
    HealthCheck.objects.create(environment=production, checked_at=at(0.01), ok=False, detail="canary-check", status=502)
    production.instances.update(problem="canary-problem", container="canary-container")
    Instance.objects.create(environment=production, slug="canary-instance", name="canary-instance")
    Environment.objects.update(pending={"commits": [{"sha": "d" * 40, "subject": "canary-pending", "author": "x"}]})

    for suffix in ("/", ".json"):
        text = get(production.project, suffix).content.decode().lower()
        assert "canary" not in text
        assert not re.search(r"[cd]{7}|/admin|502", text)
        assert production.project.webhook_secret.lower() not in text


def test_environments_that_are_not_public_or_being_removed_are_not_named(production: Environment) -> None:
    factories.environment(name="Hidden", slug="hidden")
    factories.environment(name="Leaving", slug="leaving", public=True, removing_since=NOW)

    for suffix in ("/", ".json"):
        text = get(production.project, suffix).content.decode()
        assert "Production" in text
        assert "Hidden" not in text
        assert "Leaving" not in text


def test_other_projects_are_not_named(production: Environment) -> None:
    other = factories.project(name="Beta", slug="beta")
    factories.environment(project=other, name="Betas", public=True)

    assert "Beta" not in get(production.project).content.decode()


def test_a_wrong_address_is_a_404_like_any_other(production: Environment) -> None:
    answers = [VISITOR.get(path) for path in ("/status/wrong/", "/status/wrong.json", "/nowhere/")]

    assert {answer.status_code for answer in answers} == {404}
    assert len({re.sub(rb"/[\w./]*", b"", answer.content) for answer in answers}) == 1
    assert len({tuple(sorted(answer.items())) for answer in answers}) == 1


def test_the_projects_slug_and_number_are_no_addresses(production: Environment) -> None:
    for guess in (production.project.slug, production.project.pk):
        assert VISITOR.get(f"/status/{guess}/").status_code == 404


def test_a_project_without_a_public_environment_shows_nothing(real: Server) -> None:
    environment = factories.environment(server=real)

    assert "Nothing is shown here yet." in get(environment.project).content.decode()
    assert get(environment.project, ".json").json()["environments"] == []


def test_no_cookie_is_set_and_none_is_read(production: Environment, admin_client: Client) -> None:
    for suffix in ("/", ".json"):
        answer = get(production.project, suffix)
        assert not answer.cookies
        assert "Cookie" not in answer.get("Vary", "")
        assert admin_client.get(f"/status/{production.project.status_token}{suffix}").content == answer.content


@pytest.mark.parametrize("suffix", ["/", ".json"])
def test_it_may_be_cached_but_neither_indexed_framed_nor_referred_from(production: Environment, suffix: str) -> None:
    answer = get(production.project, suffix)

    assert answer["Cache-Control"] == "public, max-age=15"
    assert "noindex" in answer["X-Robots-Tag"]
    assert answer["Referrer-Policy"] == "no-referrer"
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in policy


def test_the_page_carries_no_script_and_no_inline_style(production: Environment) -> None:
    go_live(production)
    look(production)

    text = get(production.project).content.decode()
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", text)


@pytest.mark.parametrize("suffix", ["/", ".json"])
def test_who_has_it_already_gets_a_304_until_something_changes(production: Environment, suffix: str) -> None:
    etag = get(production.project, suffix)["ETag"]

    same = get(production.project, suffix, if_none_match=etag)
    go_live(production)
    changed = get(production.project, suffix, if_none_match=etag)

    assert (same.status_code, same.content, same["Cache-Control"]) == (304, b"", "public, max-age=15")
    assert (changed.status_code, changed["ETag"] != etag) == (200, True)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_it_may_only_be_read(production: Environment, method: str) -> None:
    assert getattr(VISITOR, method)(f"/status/{production.project.status_token}/").status_code == 405


def test_names_are_escaped(real: Server) -> None:
    project = factories.project(name="<b>Acme</b>")
    factories.environment(project=project, server=real, name='<img src="x">', public=True)

    text = get(project).content.decode()
    assert "<b>" not in text
    assert "<img" not in text


# How it looks and what it costs


def test_a_simulated_server_is_marked_and_not_linked_to() -> None:
    environment = factories.environment(public=True)
    go_live(environment)
    look(environment)

    text = get(environment.project).content.decode()
    assert "Simulated" in text
    assert environment.hostname not in text
    assert (told(environment)["simulated"], told(environment)["url"]) == (True, None)


def test_a_real_server_is_not_marked_and_linked_to(production: Environment) -> None:
    go_live(production)
    look(production)

    text = get(production.project).content.decode()
    assert "Simulated" not in text
    assert f'href="{production.url}"' in text


def test_every_bar_says_in_words_what_it_shows(production: Environment) -> None:
    go_live(production, 24 * DAYS)
    look(production, 1, ok=False)
    look(production, 2)
    look(production, 30, held=True)

    labels = re.findall(r'role="img"[^>]*aria-label="([^"]+)"', get(production.project).content.decode())
    assert len(labels) == DAYS
    assert labels[-2:] == ["19 March: maintenance", "20 March: 50 % up"]
    assert labels[0].endswith("no data")


def test_production_comes_first(production: Environment) -> None:
    factories.environment(name="A development", slug="dev", kind=Environment.Kind.DEVELOPMENT, public=True)
    factories.environment(name="B staging", slug="staging", kind=Environment.Kind.STAGING, public=True)

    names = [one["name"] for one in get(production.project, ".json").json()["environments"]]
    assert names == ["Production", "B staging", "A development"]


def _queries(project: Project) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert get(project).status_code == 200
    return len(captured)


def test_the_number_of_queries_is_constant(production: Environment) -> None:
    go_live(production)
    look(production)
    first = _queries(production.project)
    for number in range(10):
        one = factories.environment(name=f"No {number}", slug=f"no-{number}", public=True)
        go_live(one)
        for hours in range(40):
            look(one, hours + 1)
            factories.deployment(one, started_at=at(hours), finished_at=at(hours))

    assert _queries(production.project) == first <= 12


def test_the_condition_of_no_environment_is_no_work() -> None:
    assert conditions([]) == []
