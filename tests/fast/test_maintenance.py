"""Maintenance by hand and testers' links: rows, people, the clock. What clients see of it: tests/real."""

import json
import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone

from deployments import jobs, keep_out
from deployments.condition import State, conditions
from deployments.keeper import repairs
from instances import doors, edge_files, maintenance, notices, testers
from instances.edge_config import configuration
from instances.models import EdgeNotices, Maintenance
from instances.models import TesterLink as Link
from instances.runtimes import runtime_for
from instances.runtimes.base import Colour, EdgeError, Notice, Pass, Route, Upstream
from projects.models import Environment
from tests import factories
from tests.acme import Client

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def live(deployed: Any, production: Environment) -> Environment:
    return production


def run(*argv: str) -> str:
    out = StringIO()
    call_command(*argv, stdout=out)
    return out.getvalue()


def fetched(environment: Environment, *, past: bool = False) -> int:
    edge = runtime_for(environment.server).edge
    return edge.fetch(environment.hostname, "/web/health", past_the_door=Colour.BLUE if past else None).status


def account(*permissions: str) -> Browser:
    user = User.objects.create_user("eva", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_environment", *permissions]))
    browser = Browser()
    browser.force_login(user)
    return browser


def url(environment: Environment, act: str, *more: Any) -> str:
    return reverse(f"admin:projects_environment_{act}", args=[environment.pk, *more])


def text_of(answer: Any) -> str:
    return answer.content.decode()


def test_maintenance_keeps_clients_out_at_once_and_lets_the_portals_own_look_pass(live: Environment) -> None:
    maintenance.begin(live, "ada", text="We move.")
    assert keep_out.tell(live) == ""
    assert fetched(live) == 503
    assert fetched(live, past=True) == 200
    maintenance.end(live, "ada")
    keep_out.tell(live)
    assert fetched(live) == 200


def test_a_deployment_meanwhile_goes_through_and_does_not_lift_it(live: Environment, deploy: Any) -> None:
    maintenance.begin(live, "ada")
    keep_out.tell(live)
    deployment = deploy(forced=True)
    assert deployment.live
    complete = deployment.steps.get(kind="complete")
    assert complete.outcome == f"Live at {live.url}, still in maintenance"
    assert complete.seconds < 5, "it does not wait for an answer that clients are not to get"
    assert fetched(live) == 503
    assert maintenance.current(live) is not None


def test_setting_it_again_changes_text_and_end_and_keeps_since_when_and_by_whom(live: Environment) -> None:
    until = timezone.now() + timedelta(hours=1)
    first = maintenance.begin(live, "ada", text="One")
    second = maintenance.begin(live, "bob", text="Two\r\nlines ", until=until)
    assert (second.pk, second.began_by, second.text, second.until) == (first.pk, "ada", "Two\nlines", until)
    assert Maintenance.objects.count() == 1


def test_who_ended_it_and_when_stays_on_record(live: Environment) -> None:
    maintenance.begin(live, "ada")
    ended = maintenance.end(live, "bob")
    assert (ended.began_by, ended.ended_by) == ("ada", "bob")
    assert ended.ended_at >= ended.began_at
    with pytest.raises(maintenance.MaintenanceRefused, match="is not in maintenance"):
        maintenance.end(live, "bob")


def test_the_database_allows_one_at_a_time_that_ends_after_it_began(live: Environment) -> None:
    row = maintenance.begin(live, "ada")
    fields = {"environment": live, "began_by": "eve", "began_at": row.began_at}
    with pytest.raises(IntegrityError), transaction.atomic():
        Maintenance.objects.create(**fields)
    with pytest.raises(IntegrityError), transaction.atomic():
        Maintenance.objects.create(**fields, ended_at=row.began_at, until=row.began_at)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"until": timezone.now() - timedelta(minutes=1)}, "is over already"),
        ({"text": "x" * 501}, "500 are possible"),
    ],
)
def test_what_makes_no_sense_is_refused(live: Environment, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(maintenance.MaintenanceRefused, match=words):
        maintenance.begin(live, "ada", **fields)
    assert not Maintenance.objects.exists()


def test_nobody_is_kept_out_of_what_was_never_deployed_or_is_being_removed(production: Environment) -> None:
    with pytest.raises(maintenance.MaintenanceRefused, match="nobody to keep out"):
        maintenance.begin(production, "ada")
    production.removing_since = timezone.now()
    with pytest.raises(maintenance.MaintenanceRefused, match="being removed"):
        maintenance.begin(production, "ada")


def test_when_its_end_has_come_the_clock_takes_it_away(live: Environment) -> None:
    maintenance.begin(live, "ada", until=timezone.now() + timedelta(hours=1))
    keep_out.tell(live)
    jobs.reconcile()
    assert fetched(live) == 503
    over = timezone.now() - timedelta(seconds=1)
    Maintenance.objects.update(until=over, began_at=over - timedelta(hours=1))
    jobs.reconcile()
    assert fetched(live) == 200
    row = Maintenance.objects.get()
    assert (row.ended_by, row.ended_at is not None) == ("", True)


@pytest.mark.parametrize("set_now", [True, False])
def test_whoever_dies_before_the_edge_was_told_leaves_it_to_the_clock(live: Environment, set_now: bool) -> None:
    if not set_now:
        maintenance.begin(live, "ada")
        keep_out.tell(live)
        maintenance.end(live, "ada")
    else:
        maintenance.begin(live, "ada")
    assert fetched(live) == (200 if set_now else 503), "the edge still has what it had"
    jobs.reconcile()
    assert fetched(live) == (503 if set_now else 200)


def test_where_nothing_has_changed_the_clock_asks_no_server(live: Environment, faults: Any) -> None:
    maintenance.begin(live, "ada")
    keep_out.tell(live)
    faults.calls.clear()
    jobs.reconcile()
    assert "edge.tell" not in faults.calls


def test_an_edge_that_lost_its_files_has_them_again_with_the_next_look(live: Environment) -> None:
    maintenance.begin(live, "ada")
    keep_out.tell(live)
    runtime_for(live.server).edge.tell([], [])
    assert fetched(live) == 200
    jobs.probe_environments()
    assert fetched(live) == 503
    runtime_for(live.server).edge.tell([], [])
    repairs.bring_parts_up(live.server, runtime_for(live.server))
    assert fetched(live) == 503


def test_what_another_has_changed_meanwhile_is_told_by_who_comes_late(live: Environment, faults: Any) -> None:
    """It stood still with what it had read, while another ended it all."""
    maintenance.begin(live, "ada")

    def meanwhile() -> None:
        faults.raised.clear()
        maintenance.end(live, "bob")

    faults.raised["edge.tell"] = meanwhile
    notices.ensure(live.server, runtime_for(live.server))
    assert fetched(live) == 200
    assert notices.outdated([live.server]) == []


def test_an_edge_that_cannot_be_told_is_said_and_told_later(live: Environment, faults: Any) -> None:
    faults.raised["edge.tell"] = EdgeError("The edge does not answer.")
    maintenance.begin(live, "ada")
    assert "will be told again by itself: The edge does not answer." in keep_out.tell(live)
    jobs.reconcile()
    faults.raised.clear()
    jobs.reconcile()
    assert fetched(live) == 503


def test_an_environment_that_goes_takes_its_maintenance_along(live: Environment) -> None:
    maintenance.begin(live, "ada")
    keep_out.tell(live)
    Maintenance.objects.all().delete()
    assert notices.outdated([live.server]) == [live.server]
    jobs.reconcile()
    assert fetched(live) == 200
    assert EdgeNotices.objects.count() == 1


def test_the_state_is_maintenance_on_every_screen_with_who_and_until(live: Environment) -> None:
    until = timezone.now().replace(microsecond=0) + timedelta(hours=2)
    maintenance.begin(live, "ada", text="We move <b>house</b>.", until=until)
    assert conditions([live])[0].state == State.MAINTENANCE
    listed = run("status")
    assert f"In maintenance until {until:%Y-%m-%d %H:%M} UTC" in listed
    one = run("status", live.path)
    assert re.search(r"Kept out  by ada since .* until .*: We move <b>house</b>\.", one)
    told = json.loads(run("status", live.path, "--json"))
    assert (told["state"], told["maintenance"]["by"], told["maintenance"]["until"]) == (
        "maintenance",
        "ada",
        until.isoformat(),
    )
    page = text_of(account().get(reverse("admin:projects_environment_change", args=[live.pk])))
    assert "In maintenance" in page
    assert "by ada" in page
    assert "We move &lt;b&gt;house&lt;/b&gt;." in page


def test_the_status_page_says_the_text_and_the_end_and_no_name(live: Environment) -> None:
    Environment.objects.update(public=True)
    maintenance.begin(live, "ada", text="We <move>.", until=timezone.now() + timedelta(hours=2))
    page = text_of(Browser().get(f"/status/{live.project.status_token}/"))
    assert "In maintenance" in page
    assert "Maintenance is underway" in page
    assert "We &lt;move&gt;. Expected to be back by" in page
    assert "ada" not in page
    assert f'href="{live.url}"' not in page


def test_a_failed_rollback_stays_louder_than_maintenance(live: Environment) -> None:
    factories.deployment(live, status="rollback_failed", finished_at=timezone.now())
    live.instances.update(state="failed", state_since=timezone.now())
    maintenance.begin(live, "ada")
    assert conditions([live])[0].state == State.DOWN


def test_the_button_sets_it_and_another_ends_it_and_both_are_in_the_history(live: Environment) -> None:
    browser = account("set_maintenance")
    assert "Keep the clients out" in text_of(browser.get(url(live, "maintenance")))
    assert not Maintenance.objects.exists(), "looking changes nothing"
    answer = browser.post(url(live, "maintenance"), {"text": "We move.", "until": "2100-01-01T10:00"}, follow=True)
    assert "is in maintenance until 2100-01-01 10:00 UTC" in text_of(answer)
    assert fetched(live) == 503
    assert "We move." in text_of(browser.get(url(live, "maintenance")))
    answer = browser.post(url(live, "end_maintenance"), follow=True)
    assert "are let in again" in text_of(answer)
    assert fetched(live) == 200
    assert LogEntry.objects.filter(object_id=str(live.pk), change_message__contains="aintenance").count() == 2
    assert Maintenance.objects.get().ended_by == "eva"


def test_an_end_that_is_over_is_said_at_the_form_or_as_a_message(live: Environment) -> None:
    browser = account("set_maintenance")
    assert "is over already" in text_of(
        browser.post(url(live, "maintenance"), {"until": "2001-01-01T10:00"}, follow=True)
    )
    assert "Enter a valid date" in text_of(browser.post(url(live, "maintenance"), {"until": "tomorrow"}))
    assert not Maintenance.objects.exists()


def test_each_act_needs_its_own_permission(live: Environment) -> None:
    link = testers.make(live, "ada", for_whom="Ann")
    browser = account("manage_tester_links")
    assert browser.get(url(live, "maintenance")).status_code == 403
    assert browser.post(url(live, "maintenance")).status_code == 403
    assert browser.post(url(live, "end_maintenance")).status_code == 403
    assert "Maintenance…" not in text_of(browser.get(url(live, "change")))
    User.objects.all().delete()
    browser = account("set_maintenance")
    assert browser.get(url(live, "testers")).status_code == 403
    assert browser.post(url(live, "testers"), {"for_whom": "Eve", "hours": "1"}).status_code == 403
    assert browser.post(url(live, "revoke_tester", link.pk)).status_code == 403
    page = text_of(browser.get(url(live, "change")))
    assert ("Maintenance…" in page, "Testers…" in page) == (True, False)
    assert Link.objects.get().valid


def test_the_command_sets_changes_and_ends_it(live: Environment) -> None:
    said = run("maintenance", live.path, "--text", "We move.", "--minutes", "30")
    assert "is in maintenance until" in said
    assert fetched(live) == 503
    row = Maintenance.objects.get()
    assert timedelta(minutes=29) < row.until - timezone.now() <= timedelta(minutes=30)
    run("maintenance", live.path, "--until", "2100-01-01T10:00")
    assert f"{Maintenance.objects.get().until:%Y-%m-%d %H:%M}" == "2100-01-01 10:00"
    assert "let in again" in run("maintenance", live.path, "--end")
    assert fetched(live) == 200
    for wrong in (("--until", "soon"), ("--minutes", "-1"), ("--until", "2100-13-01T10:00")):
        with pytest.raises(CommandError):
            run("maintenance", live.path, *wrong)
    with pytest.raises(CommandError, match="is not in maintenance"):
        run("maintenance", live.path, "--end")


def test_a_link_lets_its_tester_pass_until_it_is_revoked_or_expires(live: Environment) -> None:
    client: Any = Client(live).edge
    link = testers.make(live, "ada", for_whom="Ann")
    token = testers.token(link)
    maintenance.begin(live, "ada")
    keep_out.tell(live)
    assert client.write(live.hostname, "as a tester", token)
    assert not client.write(live.hostname, "as anybody")
    assert not client.write(live.hostname, "guessed", "0" * 64)
    client.close(doors.upstreams(live))
    assert not client.write(live.hostname, "behind a closed door", token)
    client.open(doors.upstreams(live), Colour.BLUE)
    testers.revoke(link, "bob")
    keep_out.tell(live)
    assert not client.write(live.hostname, "revoked", token)
    other = testers.make(live, "ada", for_whom="Ann", hours=1)
    keep_out.tell(live)
    assert client.write(live.hostname, "with the other", testers.token(other))
    Link.objects.filter(pk=other.pk).update(expires_at=timezone.now())
    jobs.reconcile()
    assert not client.write(live.hostname, "expired", testers.token(other))


def test_links_differ_and_are_bound_to_their_environment_and_to_the_secret_key(
    live: Environment, settings: Any
) -> None:
    one, other = (testers.make(live, "ada", for_whom="Ann") for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{64}", testers.token(one))
    assert testers.token(one) != testers.token(other)
    assert one.nonce not in testers.address(one)
    before = testers.token(one)
    elsewhere = Environment(key="other")
    assert testers.token(Link(pk=one.pk, nonce=one.nonce, environment=elsewhere)) != before
    settings.SECRET_KEY = "another"
    assert testers.token(one) != before


@pytest.mark.parametrize(
    ("for_whom", "hours"), [(" ", 8), ("Ann", 0), ("Ann", -1), ("Ann", 1000), ("Ann", float("nan"))]
)
def test_a_link_that_makes_no_sense_is_refused(live: Environment, for_whom: str, hours: float) -> None:
    with pytest.raises(testers.LinkRefused):
        testers.make(live, "ada", for_whom=for_whom, hours=hours)


def test_the_page_shows_a_link_once_and_revokes_it(live: Environment) -> None:
    browser = account("manage_tester_links")
    answer = browser.post(url(live, "testers"), {"for_whom": "Ann <x>", "hours": "8"})
    link = Link.objects.get()
    assert "no-store" in answer.headers["Cache-Control"]
    assert testers.address(link) in text_of(answer)
    assert "Ann &lt;x&gt;" in text_of(answer)
    again = text_of(browser.get(url(live, "testers")))
    assert testers.token(link) not in again
    assert "by eva" in again
    answer = browser.post(url(live, "revoke_tester", link.pk), follow=True)
    assert "is revoked" in text_of(answer)
    link.refresh_from_db()
    assert (link.revoked_by, link.valid) == ("eva", False)
    assert "is not valid any more" in text_of(browser.post(url(live, "revoke_tester", link.pk), follow=True))
    assert browser.get(url(live, "revoke_tester", link.pk)).status_code == 405
    history = " ".join(LogEntry.objects.values_list("change_message", flat=True))
    assert "made for Ann" in history
    assert testers.token(link) not in history


def test_a_link_of_another_environment_cannot_be_revoked_from_here(live: Environment) -> None:
    other = factories.environment(name="Other", slug="other")
    link = testers.make(other, "ada", for_whom="Ann")
    assert account("manage_tester_links").post(url(live, "revoke_tester", link.pk)).status_code == 404
    with pytest.raises(CommandError):
        run("tester_link", live.path, "--revoke", str(link.pk))


def test_the_command_makes_lists_and_revokes_links(live: Environment) -> None:
    said = run("tester_link", live.path, "--for", "Ann", "--hours", "2")
    link = Link.objects.get()
    assert testers.address(link) in said
    listed = run("tester_link", live.path)
    assert f"{link.pk}  for Ann" in listed
    assert testers.token(link) not in listed
    assert "is revoked" in run("tester_link", live.path, "--revoke", str(link.pk))
    assert "No tester's link" in run("tester_link", live.path)


def test_the_archive_is_the_same_in_any_order_and_refuses_what_is_no_name() -> None:
    soon = timezone.now()
    a, b = Notice("a", "x"), Notice("b")
    one, other = Pass("a", "0" * 64, soon), Pass("a", "1" * 64, soon)
    assert edge_files.pack([a, b], [one, other]).digest == edge_files.pack([b, a], [other, one]).digest
    assert edge_files.pack([a], []).digest != edge_files.pack([Notice("a", "y")], []).digest
    for wrong in (Pass("a", "../../x", soon), Pass("../a", "0" * 64, soon), Pass("a", "A" * 64, soon)):
        with pytest.raises(EdgeError):
            edge_files.pack([], [wrong])
    with pytest.raises(EdgeError):
        edge_files.pack([Notice("../etc")], [])


def test_setting_and_lifting_changes_nothing_in_the_edges_configuration(live: Environment) -> None:
    """What is told is files; the routes, and so the configuration's name, know nothing of it."""
    from instances import doors

    before = configuration(doors.routes(live.server), pass_key="k", hold_seconds=30)
    maintenance.begin(live, "ada", text="x")
    testers.make(live, "ada", for_whom="Ann")
    assert configuration(doors.routes(live.server), pass_key="k", hold_seconds=30) == before


def test_the_client_is_never_asked_for_more_than_hexadecimal_digits() -> None:
    """Every file that a request names is looked for behind a pattern, in a folder of its own environment."""
    route = Route("acme", ("a.test",), (Upstream("a"),))
    text = json.dumps(configuration([route], pass_key="k", hold_seconds=30))
    assert text.count("{http.regexp.ocore_pass.0}") == 2
    assert text.count('"pattern": "^[0-9a-f]{64}$"') == 3
    assert text.count("/data/notices/passes/acme") == 2
