"""When the git host is told of a deployment, and what becomes of that when it goes wrong."""

import runpy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rq.timeouts import JobTimeoutException

from deployments import jobs, reports
from deployments.models import CommitStatus, Deployment, Step
from deployments.states import FINAL, Status, StepKind, StepStatus
from projects import hosts, reporting
from projects.hosts import Place, Report, StatusNotTaken
from projects.hosts.github import GitHubStatuses
from projects.models import Environment, Project
from tests import factories
from tests.conftest import Queues

pytestmark = pytest.mark.django_db
OLD, NEW = "1" * 40, "2" * 40
TOKEN = "canary-token-51b0"
ADDRESS = "https://github.com/acme/addons"
CONTEXT = f"{settings.OCORE_NAMESPACE}/acme/production"


class Host(GitHubStatuses):
    """GitHub, that keeps what it is told and fails as it is told to."""

    def __init__(self) -> None:
        self.heard: list[Report] = []
        self.fails: Exception | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def send(self, api: Any, place: Place, report: Report) -> str:
        self.heard.append(report)
        self.meanwhile()
        if self.fails:
            raise self.fails
        return report.remote_id or ("42" if report.deployment_state else "")

    @property
    def states(self) -> list[str]:
        return [report.state for report in self.heard]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    it = Host()
    monkeypatch.setitem(hosts.STATUSES, "github", it)
    return it


@pytest.fixture
def acme(queues: Queues) -> Environment:
    project = factories.project(repository_url=ADDRESS, report_to_host="status", report_token=TOKEN)
    return factories.environment(project=project)


def deployed(environment: Environment, status: str = Status.QUEUED, commit: str = NEW, **fields: Any) -> Deployment:
    return factories.deployment(environment, status=status, commit=commit, **fields)


def become(deployment: Deployment, status: str) -> None:
    ended = timezone.now() if status in FINAL else None
    Deployment.objects.filter(pk=deployment.pk).update(status=status, finished_at=ended)


def clock() -> None:
    """What it hands over, and the worker that takes it."""
    for pk in reports.owed():
        jobs.report_deployment(pk)


def after(seconds: float) -> Any:
    return time_machine.travel(timezone.now() + timedelta(seconds=seconds), tick=False)


def test_a_commit_is_told_each_status_once_in_order(acme: Environment, host: Host) -> None:
    deployment = deployed(acme, ref="main")
    for status in (Status.QUEUED, Status.RUNNING, Status.ROLLING_BACK, Status.ROLLED_BACK):
        become(deployment, status)
        clock()
        clock()

    assert host.states == ["pending", "running", "running", "failure"]
    report = host.heard[0]
    assert (report.commit, report.context, report.ref) == (NEW, CONTEXT, "main")
    assert report.url.endswith(f"/admin/deployments/deployment/{deployment.pk}/change/")
    assert report.url.startswith("http")
    assert (report.environment_url, report.production) == ("", True)
    assert reports.owed() == []


def test_every_status_has_a_state_and_words() -> None:
    assert set(reports.STATES) == set(reports.WORDS) == set(Status)


def test_what_failed_is_named_and_its_error_is_not(acme: Environment, host: Host) -> None:
    """Readers of the git host need not be allowed to see anything here."""
    deployment = deployed(acme, Status.FAILED, finished_at=timezone.now(), error="db7.internal refused canary")
    Step.objects.create(deployment=deployment, kind=StepKind.BUILD, status=StepStatus.FAILED, outcome="canary")
    acme.public = True
    acme.save()

    clock()

    assert host.heard[0].description == "Not deployed: it failed, nothing was changed (build) (Production)"
    assert host.heard[0].environment_url.startswith("http"), "clients know the address of a public one"


def test_a_newer_status_takes_the_place_of_one_that_was_not_sent(acme: Environment, host: Host) -> None:
    deployment = deployed(acme)
    host.fails = StatusNotTaken("It answered 502.", again=True)
    clock()
    host.fails = None
    become(deployment, Status.SUCCEEDED)

    clock()
    with after(3600):
        clock()

    assert host.states == ["pending", "success"]
    row = CommitStatus.objects.get()
    assert (row.state, row.settled, row.problem, row.attempts) == ("success", "succeeded", "", 0)


def test_attempts_are_further_and_further_apart_and_end_loudly(
    acme: Environment, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    deployed(acme)
    host.fails = StatusNotTaken("It answered 502.", again=True)
    clock()
    clock()
    assert len(host.heard) == 1

    passed = 0.0
    for pause in reports.PAUSES:
        with after(passed + pause - 1):
            clock()
        passed += pause + 1
        before = len(host.heard)
        with after(passed):
            clock()
        assert len(host.heard) == before + 1
    with after(passed + 7 * 3600):
        clock()

    assert len(host.heard) == len(reports.PAUSES) + 1
    row = CommitStatus.objects.get()
    assert (row.given_up, row.problem) == (True, "It answered 502.")
    assert "could not be told of" in caplog.text
    assert "given up" in caplog.text
    assert host.heard[1].again


def test_what_only_a_person_can_change_is_given_up_at_once_and_tried_with_the_next_status(
    acme: Environment, host: Host
) -> None:
    deployment = deployed(acme)
    host.fails = StatusNotTaken("It answered 401.", again=False, detail="Bad credentials", advice="Give it a token.")
    clock()
    with after(7200):
        clock()
    assert host.states == ["pending"]
    assert CommitStatus.objects.get().problem == "It answered 401. “Bad credentials” Give it a token."

    host.fails = None
    become(deployment, Status.RUNNING)
    clock()
    assert (host.states, CommitStatus.objects.get().given_up) == (["pending", "running"], False)


def test_a_host_that_asks_to_be_left_alone_is_whatever_happens(acme: Environment, host: Host) -> None:
    deployment = deployed(acme)
    host.fails = StatusNotTaken("It answered 429.", again=True, wait=600)
    clock()
    host.fails = None
    become(deployment, Status.SUCCEEDED)
    with after(590):
        clock()
    assert host.states == ["pending"]
    with after(610):
        clock()
    assert host.states == ["pending", "success"]


def test_a_worker_that_dies_while_it_tells_leaves_it_owed(acme: Environment, host: Host) -> None:
    deployed(acme)
    host.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        clock()
    host.fails = None

    assert CommitStatus.objects.get().problem == reports.BROKE_OFF
    clock()
    assert len(host.heard) == 1, "somebody may still be at it"
    with after(reports.LEASE.total_seconds() + 1):
        clock()
    assert (len(host.heard), CommitStatus.objects.get().problem) == (2, "")


def test_a_worker_that_dies_each_time_is_not_tried_for_ever(
    acme: Environment, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    deployed(acme)
    host.fails = KeyboardInterrupt()
    for day in range(len(reports.PAUSES) + 1):
        with after(day * 8 * 3600), pytest.raises(KeyboardInterrupt):
            clock()

    with after(9 * 8 * 3600):
        clock()
        assert reports.owed() == []

    row = CommitStatus.objects.get()
    assert (len(host.heard), row.given_up, row.problem) == (8, True, reports.BROKE_OFF)
    assert "given up" in caplog.text


def test_a_mistake_of_our_own_is_given_up_and_keeps_its_traceback(acme: Environment, host: Host) -> None:
    deployment = deployed(acme)
    host.fails = TypeError("canary")
    with pytest.raises(TypeError):
        clock()
    row = CommitStatus.objects.get()
    assert (row.given_up, row.problem, row.busy_until, reports.owed()) == (True, reports.DEFECT, None, [])

    become(deployment, Status.RUNNING)
    host.fails = JobTimeoutException()
    with pytest.raises(JobTimeoutException):
        clock()
    row = CommitStatus.objects.get()
    assert (row.given_up, row.problem) == (False, reports.BROKE_OFF), "it took too long, and is tried again"


@pytest.mark.parametrize("latest", [Status.RUNNING, Status.SUCCEEDED])
def test_a_worker_that_slept_does_not_tell_old_news(
    acme: Environment, host: Host, monkeypatch: pytest.MonkeyPatch, latest: Status
) -> None:
    """What it has read is told by another one before it gets the lock."""
    deployment = deployed(acme, Status.RUNNING)
    claim = reports._claim

    def late(row: CommitStatus, known: Deployment) -> Deployment | None:
        monkeypatch.setattr(reports, "_claim", claim)
        become(deployment, latest)
        jobs.report_deployment(deployment.pk)
        return claim(row, known)

    monkeypatch.setattr(reports, "_claim", late)
    jobs.report_deployment(deployment.pk)

    assert host.states == [reports.STATES[latest]]


def test_a_deployment_that_the_host_may_have_made_unheard_of_is_looked_for(acme: Environment, host: Host) -> None:
    """Also where the status changed in between, or a person asked."""
    Project.objects.update(report_to_host="deployment")
    deployment = deployed(acme)
    host.fails = StatusNotTaken("It answered 502.", again=True)
    clock()
    become(deployment, Status.RUNNING)
    clock()
    reports.tell_again(deployment)
    clock()
    host.fails = None
    become(deployment, Status.SUCCEEDED)
    clock()
    reports.tell_again(deployment)
    clock()

    assert [(report.again, report.remote_id) for report in host.heard] == [
        (False, ""),
        (True, ""),
        (True, ""),
        (True, ""),
        (False, "42"),
    ]


def test_a_host_is_left_alone_by_the_whole_project(acme: Environment, host: Host) -> None:
    elsewhere = factories.environment(
        project=acme.project, name="Staging", slug="staging", kind=Environment.Kind.STAGING
    )
    other = factories.environment(
        project=factories.project(
            name="Other",
            slug="other",
            repository_url=ADDRESS,
            report_to_host="status",
            report_token=TOKEN,
            webhook_secret="x" * 40,
        )
    )
    asked = deployed(acme)
    host.fails = StatusNotTaken("It answered 429.", again=True, wait=600)
    clock()
    host.fails = None
    quiet, free = deployed(elsewhere), deployed(other)

    with after(590):
        assert reports.owed() == [free.pk]
        jobs.report_deployment(quiet.pk)
    assert host.states == ["pending"]
    with after(610):
        assert reports.owed() == [asked.pk, quiet.pk, free.pk]
    reports.tell_again(asked)
    assert reports.owed() == [asked.pk, quiet.pk, free.pk], "a person doesn't wait"


def test_nothing_overtakes_what_is_on_its_way(acme: Environment, host: Host) -> None:
    first, second = deployed(acme, Status.RUNNING, commit=OLD), deployed(acme)
    host.meanwhile = lambda: jobs.report_deployment(second.pk) or jobs.report_deployment(first.pk)

    jobs.report_deployment(first.pk)

    assert [report.commit for report in host.heard] == [OLD]
    host.meanwhile = lambda: None
    clock()
    assert [report.commit for report in host.heard] == [OLD, NEW]


def test_what_changes_while_it_is_told_is_told_next(acme: Environment, host: Host) -> None:
    deployment = deployed(acme, Status.RUNNING)
    host.meanwhile = lambda: become(deployment, Status.SUCCEEDED)

    clock()
    clock()

    assert host.states == ["running", "success"]


def test_a_lost_worker_that_wakes_up_changes_nothing(acme: Environment, host: Host) -> None:
    deployed(acme)
    later = timezone.now() + timedelta(hours=1)
    host.meanwhile = lambda: CommitStatus.objects.update(busy_until=later, settled="", state="")

    clock()

    assert CommitStatus.objects.get().state == ""


# Whose word counts


def test_the_newest_deployment_of_a_commit_speaks_for_it(acme: Environment, host: Host) -> None:
    first = deployed(acme, Status.FAILED, finished_at=timezone.now())
    second = deployed(acme, Status.RUNNING)

    jobs.report_deployment(second.pk)
    jobs.report_deployment(first.pk)

    assert host.states == ["running"]
    assert reports.owed() == []


def test_one_that_was_superseded_gives_the_word_back(acme: Environment, host: Host) -> None:
    live = deployed(acme, Status.SUCCEEDED, finished_at=timezone.now())
    clock()
    again = deployed(acme)
    clock()
    become(again, Status.SUPERSEDED)
    Deployment.objects.filter(pk=again.pk).update(superseded_by=live)

    clock()

    assert host.states == ["success", "pending", "success"]


@pytest.mark.parametrize(("begun", "last"), [(False, "success"), (True, "cancelled")])
def test_one_that_was_cancelled_before_it_began_gives_the_word_back(
    acme: Environment, host: Host, begun: bool, last: str
) -> None:
    deployed(acme, Status.SUCCEEDED, finished_at=timezone.now())
    again = deployed(acme, started_at=timezone.now() if begun else None)
    clock()
    become(again, Status.CANCELLED)
    alone = deployed(acme, Status.CANCELLED, commit=OLD, finished_at=timezone.now())

    clock()

    assert {report.commit: report.state for report in host.heard} == {NEW: last, alone.commit: "cancelled"}


def test_one_that_waited_in_vain_says_for_whom(acme: Environment, host: Host) -> None:
    newer = deployed(acme)
    deployed(acme, Status.SUPERSEDED, commit=OLD, superseded_by=newer, finished_at=timezone.now())

    clock()

    words = {report.commit: (report.state, report.description) for report in host.heard}
    assert words[OLD] == ("skipped", f"Not deployed: superseded by #{newer.pk} (Production)")


def test_a_commit_that_its_branch_has_left_behind_does_not_wait_for_ever(acme: Environment, host: Host) -> None:
    """What is deployed is the branch's tip when its turn has come."""
    deployment = deployed(acme, commit=OLD)
    clock()
    Deployment.objects.update(commit=NEW, status=Status.RUNNING)
    clock()
    become(deployment, Status.SUCCEEDED)
    clock()

    told = [(report.commit[0], report.state) for report in host.heard]
    assert told == [("1", "pending"), ("1", "skipped"), ("2", "running"), ("2", "success")]
    assert reports.owed() == []


def test_githubs_deployment_of_one_that_no_longer_speaks_is_ended(acme: Environment, host: Host) -> None:
    Project.objects.update(report_to_host="deployment")
    first = deployed(acme, Status.RUNNING)
    clock()
    become(first, Status.FAILED)
    deployed(acme)

    clock()

    ended = next(report for report in host.heard if report.deployment == first.pk and not report.speaks)
    assert (ended.deployment_state, ended.remote_id) == ("failure", "42")


# What is not told


def test_nothing_is_told_of_before_it_was_switched_on_of_plain_odoo_or_of_long_ago(
    acme: Environment, host: Host
) -> None:
    since = timezone.now()
    Project.objects.update(report_since=since)
    deployed(acme, Status.SUCCEEDED, created_at=since - timedelta(seconds=1), finished_at=since)
    deployed(acme, Status.SUCCEEDED, commit="", finished_at=since)
    deployed(acme, Status.SUCCEEDED, commit=OLD, finished_at=since - timedelta(days=4))

    clock()
    for deployment in Deployment.objects.all()[1:]:
        jobs.report_deployment(deployment.pk)
    jobs.report_deployment(10**9)

    assert host.heard == []


def test_switched_off_nothing_is_told(acme: Environment, host: Host) -> None:
    project = acme.project
    assert project.report_since
    project.report_to_host = ""
    project.save(update_fields=["report_to_host"])
    deployed(acme)

    clock()

    assert (host.heard, Project.objects.get().report_since) == ([], None)


def test_a_configuration_that_leads_nowhere_is_told_to_people(acme: Environment, host: Host) -> None:
    Project.objects.update(host="gogs")
    deployed(acme)

    clock()

    row = CommitStatus.objects.get()
    assert (row.given_up, host.heard) == (True, [])
    assert row.problem == "Gogs has no API for it, so it cannot be told. Correct it on the project's page."


@pytest.mark.django_db(transaction=True)
def test_no_deployment_waits_for_it_or_fails_by_it(
    production: Environment, deploy: Callable[..., Deployment], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "reporting_of", lambda project: reporting.Reporting(host, PLACE, CREDENTIALS, False))
    production.project.report_to_host = "status"
    production.project.save()
    host.fails = StatusNotTaken("It answered 500.", again=True)

    deployment = deploy()

    assert deployment.status == Status.SUCCEEDED
    assert (host.states, CommitStatus.objects.get().problem) == (["success"], "It answered 500.")


PLACE, CREDENTIALS = Place("https://api.github.com", ("acme", "addons")), hosts.Credentials(TOKEN)


# Configuration


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"report_token": ""}, "report_token"),
        ({"report_token": "", "report_url": "https://api.example.com", "repository_token": "t"}, "report_token"),
        ({"report_token": "", "report_url": "https://github.com:8443", "repository_token": "t"}, "report_token"),
        ({"report_token": "é"}, "report_token"),
        ({"host": "gogs"}, "report_to_host"),
        ({"host": "generic"}, "report_to_host"),
        ({"host": "gitlab", "report_to_host": "deployment"}, "report_to_host"),
        ({"repository_url": ""}, "report_to_host"),
        ({"host": "azure_devops"}, "report_to_host"),
        ({"report_url": "http://git.example.com/api/v3"}, "report_url"),
        ({"report_url": "https://user:pass@git.example.com/"}, "report_url"),
        ({"report_url": "https://git.example.com/?x"}, "report_url"),
        ({"report_url": "file:///etc/passwd"}, "report_url"),
    ],
)
def test_a_project_that_could_not_tell_is_refused_when_it_is_saved(fields: dict[str, str], field: str) -> None:
    common = {"name": "A", "slug": "a", "repository_url": ADDRESS, "report_to_host": "status", "report_token": "t"}
    project = Project(**(common | fields))

    with pytest.raises(ValidationError) as caught:
        project.full_clean()
    assert field in caught.value.message_dict


@pytest.mark.parametrize(
    ("repository", "host", "url", "borrowed"),
    [
        ("https://github.com/a/b", "github", "", True),
        ("git@github.com:a/b", "github", "https://api.github.com", True),
        ("https://git.example.com:8443/a/b", "gitea", "https://git.example.com:8443/api/v1", True),
        ("https://git.example.com/a/b", "gitea", "https://git.example.com:8443/api/v1", False),
        ("https://github.com/a/b", "github", "https://api.github.com.example.com", False),
    ],
)
def test_the_repositorys_token_goes_to_its_own_host_only(repository: str, host: str, url: str, borrowed: bool) -> None:
    project = Project(repository_url=repository, host=host, report_url=url, repository_token=TOKEN)

    if borrowed:
        assert reporting.reporting_of(project).borrowed
    else:
        with pytest.raises(reporting.CannotTell):
            reporting.reporting_of(project)
    project.report_token = "own"
    assert reporting.reporting_of(project).credentials.token == "own"


@pytest.mark.parametrize(
    "change",
    [
        {"report_url": "https://evil.example.com"},
        {"repository_url": "https://evil.example.com/acme/addons"},
        {"host": "gitea"},
        {"host": "gogs", "report_to_host": ""},
    ],
)
def test_a_token_is_not_led_to_another_host_by_whoever_changes_an_address(
    acme: Environment, change: dict[str, str]
) -> None:
    project = acme.project
    for name, value in change.items():
        setattr(project, name, value)

    with pytest.raises(ValidationError) as caught:
        project.full_clean()
    assert "another host" in caught.value.message_dict["report_token"][0]
    project.report_token = "one for there"
    if project.report_to_host:
        project.full_clean()


def test_plain_http_is_the_operators_to_allow(settings: Any) -> None:
    settings.OCORE_PLAIN_GIT_HOSTS = ["git.lan", "other.lan:3000"]
    project = Project(name="A", slug="a", repository_url="ssh://git@git.lan/a/b", host="gitea", report_token="t")

    for url in ("http://git.lan:3000/api/v1", "http://other.lan:3000/api/v1"):
        project.report_url = url
        project.full_clean(exclude=["webhook_secret"])
    project.report_url = "http://other.lan/api/v1"
    with pytest.raises(ValidationError):
        project.full_clean()


# Pages


def url(row: Any, act: str = "change") -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{act}", args=[row.pk])


def member(*permissions: str) -> Client:
    user = User.objects.create_user("ann", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_the_pages_say_what_was_told_and_what_went_wrong_and_no_token(acme: Environment, host: Host) -> None:
    deployment = deployed(acme, Status.SUCCEEDED, finished_at=timezone.now())
    client = member("view_deployment", "change_project", "view_project", "view_environment")
    host.fails = StatusNotTaken("It answered 401.", again=False, advice="Give it a token.")
    clock()
    page, of_project = (client.get(url(row)).content.decode() for row in (deployment, acme.project))
    assert "Given up:</strong> It answered 401. Give it a token." in page
    assert "It answered 401." in of_project
    assert "<code>acme/addons</code> at <code>https://api.github.com</code>" in of_project
    assert TOKEN not in page + of_project

    deployed(acme, commit=OLD)
    host.fails = None
    clock()
    assert "It answered 401." not in client.get(url(acme.project)).content.decode(), "over"
    reports.tell_again(deployment)
    clock()
    page = client.get(url(deployment)).content.decode()
    assert "success" in page
    assert "Given up" not in page
    assert "Tell GitHub again" not in page


def test_telling_again_needs_its_permission_and_something_to_tell(acme: Environment, host: Host) -> None:
    deployment = deployed(acme, Status.SUCCEEDED, finished_at=timezone.now())
    clock()
    client = member("view_deployment")
    assert client.post(url(deployment, "report")).status_code == 403

    User.objects.get().user_permissions.add(Permission.objects.get(codename="report_deployment"))
    assert "Tell GitHub again" in client.get(url(deployment)).content.decode()
    assert client.get(url(deployment, "report")).status_code == 405
    assert client.post(url(deployment, "report")).status_code == 302
    clock()
    assert host.states == ["success", "success"]

    Project.objects.update(report_since=None)
    page = client.post(url(deployment, "report"), follow=True).content.decode()
    assert "is told nothing of" in page
    assert "Tell GitHub again" not in page


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"report_to_host": "", "report_since": None}, "is not told what becomes of a commit"),
        ({"host": "gogs"}, "it has no API for that"),
        ({"report_token": ""}, "A token is needed"),
    ],
)
def test_a_projects_page_says_why_nothing_is_told(acme: Environment, fields: dict[str, Any], words: str) -> None:
    Project.objects.update(**fields)

    page = member("change_project", "view_project").get(url(acme.project)).content.decode()

    assert words in page


def test_a_push_and_the_end_of_a_deployment_hand_it_over_at_once(
    acme: Environment, queues: Queues, django_capture_on_commit_callbacks: Any
) -> None:
    from deployments import services
    from deployments.services import Who
    from deployments.states import Trigger

    with django_capture_on_commit_callbacks(execute=True):
        made = services.request_deployment(acme, Trigger.PUSH, Who("ann"), ref="main", commit=NEW)

    assert queues.jobs["reports"] == [("report_deployment", (made.pk,))]


def test_of_a_backlog_the_oldest_are_handed_over_and_the_queue_is_read_once(
    acme: Environment, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_AT_ONCE", 3)
    first, second, third, *_ = [
        deployed(acme, Status.CANCELLED, commit=f"{number:040d}", finished_at=timezone.now()).pk for number in range(5)
    ]
    reads: list[int] = []
    reading = type(queues.get_queue("reports")).job_ids.fget
    monkeypatch.setattr(
        type(queues.get_queue("reports")), "job_ids", property(lambda queue: reads.append(1) or reading(queue))
    )
    queues.jobs["reports"] = [("report_deployment", (second,))]

    jobs.hand_over_reports()

    assert [arguments for _, arguments in queues.jobs["reports"]] == [(second,), (first,), (third,)]
    assert len(reads) == 1


def test_a_backlog_keeps_no_chore_of_the_clock_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[Any, str] = {}
    monkeypatch.setattr("rq.cron.register", lambda job, queue, **_: registered.__setitem__(job, queue))
    runpy.run_module("deployments.clock")

    assert registered[jobs.hand_over_reports] == "reports"
    assert registered[jobs.reconcile] == "chores"


def test_looking_for_what_is_owed_takes_two_queries(acme: Environment, django_assert_num_queries: Any) -> None:
    for number in range(20):
        deployed(acme, Status.FAILED, commit=f"{number:040d}", finished_at=timezone.now())

    with django_assert_num_queries(2):
        assert len(reports.owed()) == 20
