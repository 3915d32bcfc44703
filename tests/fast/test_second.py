"""A second version beside the first: set up, looked at, given clients, and ended by keeping one of the two."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client as DjangoClient
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from deployments import at_work, claims, control, keeper, recovery, removal, retries, second, services
from deployments.models import Deployment
from deployments.run import Run
from deployments.services import NotPossible
from deployments.states import Status, Trigger, Way
from deployments.steps import copy
from instances import doors
from instances.models import Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Colour, DatabaseError
from instances.runtimes.simulated import Faults
from projects.models import Environment, Split
from tests import factories
from tests.acme import ADA, Client, addon, running, simulated
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)
PYTHON = {"acme_notes/models.py": "X = 2\n"}


@pytest.fixture
def first(deployed: Deployment, production: Environment, faults: Faults) -> Environment:
    faults.calls.clear()
    return production


@pytest.fixture
def begin(first: Environment, remote: GitRemote, queues: Queues, once: Any) -> Callable[..., Split]:
    def run(files: dict[str, str] | None = None, *, shared: bool = True) -> Split:
        commit = remote.commit("Other", addon() | PYTHON if files is None else files, branch="other")

        def make() -> None:
            deployment = second.begin(first, "Second", ADA, ref="other", shared=shared)
            queues.run_all()
            deployment.refresh_from_db()
            assert deployment.status == Status.SUCCEEDED, deployment.error

        once(f"second {commit} {shared}", make)
        return split()

    return run


def split() -> Split:
    return Split.objects.select_related("environment__second_of", "environment__server").get()


def lead(share: int, queues: Queues) -> None:
    second.lead(split(), share, ADA)
    queues.run_all()


def end(keep: str, queues: Queues) -> None:
    second.end(split(), keep, ADA)
    for _ in range(4):
        queues.run_all()
        recovery.reconcile()
    queues.run_all()


def fresh(environment: Environment) -> Environment:
    return Environment.objects.select_related("project", "server").get(pk=environment.pk)


def live(environment: Environment) -> Deployment:
    return Deployment.objects.get(environment=environment, live=True)


def databases() -> list[str]:
    return sorted(name for name in simulated(lambda state: state["databases"]) if not name.startswith("ocore_base"))


# On the same database


def test_a_second_version_on_the_same_database_starts_beside_the_first(
    begin: Callable[..., Split], first: Environment
) -> None:
    there = begin().environment

    assert (there.database, there.volume, there.role) == (first.database, first.volume, first.database)
    assert databases() == [first.database]
    assert live(there).way == Way.BLUE_GREEN
    assert "uses the database" in live(there).way_because
    assert len(running(first)) == 2, "both serve"
    assert there.hostname != first.hostname
    assert runtime_for(first.server).edge.fetch(there.hostname, "/", timeout=1).ok
    assert there.inherits_from == first, "its settings are the first one's"


def test_the_status_at_a_shell_tells_of_both(
    first: Environment, begin: Callable[..., Split], capsys: pytest.CaptureFixture[str]
) -> None:
    split = begin()
    Split.objects.update(share=30)
    call_command("status", "acme/production")
    assert f"{split.environment} is its second version, and gets 30 % of its clients" in capsys.readouterr().out
    call_command("status", f"acme/{split.environment.slug}")
    assert "the second version of Acme / Production, with 30 % of its clients" in capsys.readouterr().out


def test_it_is_refused_on_the_same_database_where_the_versions_of_modules_differ(
    first: Environment, remote: GitRemote, queues: Queues
) -> None:
    remote.commit("Newer", addon("2.0"), branch="other")
    deployment = second.begin(first, "Second", ADA, ref="other")
    queues.run_all()
    deployment.refresh_from_db()

    assert deployment.status == Status.FAILED
    assert "acme_notes: version" in deployment.error
    assert "copy of the data of its own" in deployment.advice
    assert running(first) == [first.instances.get().container]
    assert databases() == [first.database]


def test_only_the_first_version_runs_scheduled_actions(begin: Callable[..., Split], first: Environment) -> None:
    there = begin().environment
    found = {}
    for environment in (first, there):
        run = Run(live(environment))
        files = {file.path: file.content.decode() for file in run.serving[0].files}
        found[environment.pk] = next(text for text in files.values() if "max_cron_threads" in text)
    assert "max_cron_threads = 0" not in found[first.pk]
    assert "max_cron_threads = 0" in found[there.pk]
    assert f"db_user = {first.database}" in found[there.pk]


def test_while_it_uses_the_database_nobody_changes_that_under_it(
    begin: Callable[..., Split], first: Environment, remote: GitRemote, deploy: Any
) -> None:
    begin()
    before = live(first)
    remote.commit("An update", addon("1.1"))
    refused = deploy()

    assert refused.status == Status.FAILED
    assert "uses the same database" in refused.error
    assert live(first) == before
    assert len(running(first)) == 2
    remote.commit("Code only", addon() | {"acme_notes/static/more.js": "1\n"})
    assert deploy().way == Way.BLUE_GREEN, "what touches no data goes on"


def test_removing_it_leaves_the_first_ones_data(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    begin()
    client = Client(first)
    assert client.write("one")
    with pytest.raises(NotPossible, match="second version"):
        removal.request(fresh(first), ADA)
    end("first", queues)

    assert not Split.objects.exists()
    assert not Environment.objects.exclude(pk=first.pk).exists()
    assert client.write("two")
    assert client.found == ["one", "two"]
    assert running(first) == [first.instances.get().container]


# A share of the clients


def test_clients_are_led_there_and_back_and_lose_nothing(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    there = begin().environment
    client = Client(first)
    client.write("before")
    assert second.consequences(split(), 100).endswith("nothing is lost, whichever serves.")
    lead(100, queues)
    assert _reached(first).startswith(f"ocore-{there.key}")
    client.write("there")
    lead(0, queues)
    assert _reached(first).startswith(f"ocore-{first.key}")
    client.write("back")
    assert client.found == client.accepted == ["before", "there", "back"]
    assert split().set_by == "ada"


def _reached(environment: Environment) -> str:
    from instances.runtimes.simulated import serving

    return simulated(lambda state: serving(state, environment.hostname)).replace("ocore-test-", "ocore-")


def test_a_new_test_forgets_the_cookies_of_the_last_one(begin: Callable[..., Split], queues: Queues) -> None:
    begin()
    lead(30, queues)
    marks = [split().mark]
    lead(60, queues)
    assert split().mark == marks[0], "who was led there by chance stays there"
    lead(0, queues)
    lead(30, queues)
    assert split().mark != marks[0]


@pytest.mark.parametrize("share", [-1, 101])
def test_a_share_is_a_percentage(begin: Callable[..., Split], share: int) -> None:
    begin()
    with pytest.raises(NotPossible, match="0 to 100"):
        second.lead(split(), share, ADA)


def test_nobody_is_led_to_what_does_not_serve(first: Environment, remote: GitRemote, queues: Queues) -> None:
    remote.commit("Newer", addon("2.0"), branch="other")
    second.begin(first, "Second", ADA, ref="other")
    queues.run_all()
    with pytest.raises(NotPossible, match="not live"):
        second.lead(split(), 10, ADA)
    assert doors.route(fresh(first)).second is None, "its doors lead nowhere yet"


def test_the_second_one_takes_the_place_of_the_first_on_the_same_database(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    there = begin().environment
    wanted = live(there).commit
    lead(50, queues)
    client = Client(first)
    client.write("one")
    end("second", queues)

    assert live(first).commit == wanted
    assert not Environment.objects.exclude(pk=first.pk).exists()
    assert client.write("two")
    assert client.found == ["one", "two"]
    assert databases() == sorted([first.database, Deployment.objects.get(live=True).snapshots.get().database])
    assert not Door.objects.exists()


# On a copy


def test_a_copy_begins_with_the_first_ones_data_and_goes_its_own_way(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    here = Client(first)
    here.write("before")
    there = begin(addon("2.0"), shared=False).environment
    assert there.database != first.database
    assert there.role == first.database
    assert split().copied_at is not None
    clients = Client(there)
    assert clients.found == ["before"]
    clients.write("there")
    here.write("here")
    assert (here.found, clients.found) == (["before", "here"], ["before", "there"])
    assert not Door.objects.exists()
    assert databases() == sorted([first.database, there.database])
    volumes = simulated(lambda state: state["volumes"])
    assert [one["snapshots"] for one in volumes.values()].count({}) == len(volumes), "nothing of the copying stays"


def test_what_may_be_lost_is_said_before_each_switch(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    begin(shared=False)
    Client(first).write("here")
    assert "notes 1" in second.consequences(split(), 100)
    lead(100, queues)
    assert "do not see what they wrote" in second.consequences(split(), 0)
    assert "removed with its data" in second.end_consequences(split(), "first")
    told = second.end_consequences(split(), "second")
    assert "kept as a snapshot" in told
    assert "set for itself" not in told
    Environment.objects.filter(pk=split().environment_id).update(workers=2, odoo_conf={"log_level": "warn"})
    assert "has set for itself goes with it: workers, odoo_conf." in second.end_consequences(split(), "second")
    assert "set for itself" not in second.end_consequences(split(), "first")


@pytest.mark.parametrize("share", [100, 40, 0])
def test_its_data_takes_the_place_of_the_first_ones_which_is_kept(
    begin: Callable[..., Split], first: Environment, queues: Queues, remote: GitRemote, share: int
) -> None:
    here = Client(first)
    here.write("before")
    there = begin(addon("2.0"), shared=False).environment
    wanted = live(there).commit
    remote.commit("Nobody has tried this", addon("2.1"), branch="other")
    lead(share, queues)
    Client(there).write("there")
    end("second", queues)

    assert not Environment.objects.exclude(pk=first.pk).exists()
    assert live(first).commit == wanted
    assert here.write("after")
    assert here.found == ["before", "there", "after"]
    kept = services.rollback_offer(fresh(first))
    assert kept.snapshot is not None, "what the first one had can be gone back to"
    assert not Door.objects.exists()
    assert databases() == sorted([first.database, kept.snapshot.database])


def test_when_it_cannot_take_the_place_both_go_on_with_what_they_had(
    begin: Callable[..., Split], first: Environment, queues: Queues, faults: Faults
) -> None:
    here = Client(first)
    here.write("before")
    there = begin(shared=False).environment
    lead(100, queues)
    here.write("there")
    faults.raised["filestores.carry"] = DatabaseError("The disk is full.")
    end("second", queues)

    ended = Deployment.objects.filter(environment=first).latest()
    assert ended.status == Status.ROLLED_BACK
    assert split().ending == ""
    assert "The disk is full" in split().problem
    assert Client(there).found == ["before", "there"]
    assert here.found == ["before"], "the first one's own data"
    assert here.write("there again"), "its clients are served where they were"
    assert Client(there).found == ["before", "there", "there again"]
    assert not Door.objects.exists()
    assert len(running(first)) == 2


class Killed(BaseException):
    """As -9."""


def test_a_worker_killed_while_it_copies_leaves_the_first_one_open_and_nothing_else(
    first: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    remote.commit("Other", addon("2.0"), branch="other")
    second.begin(first, "Second", ADA, ref="other", shared=False)

    def die(source: str, target: str) -> None:
        raise Killed

    faults.raised["databases.clone"] = die
    with pytest.raises(Killed):
        queues.run_all()
    Door.objects.update_or_create(
        environment=first,
        defaults={"server": first.server, "holder": f"{copy.HOLDER}acme/second", "closed_at": first.created_at},
    )
    runtime_for(first.server).edge.close(doors.upstreams(first))
    faults.clear()
    Deployment.objects.filter(environment__slug="second").update(heartbeat_at=None, holder="")
    Environment.objects.update(busy_with="", busy_until=None, busy_by="")
    for _ in range(3):
        recovery.reconcile()
        queues.run_all()

    assert not Door.objects.exists()
    assert Client(first).write("served")
    assert databases() == [first.database]
    assert Deployment.objects.get(environment__slug="second").final


@pytest.mark.parametrize("wrong", ["its own second", "another second", "not deployed"])
def test_what_may_have_a_second_version(begin: Callable[..., Split], first: Environment, wrong: str) -> None:
    begin()
    if wrong == "its own second":
        with pytest.raises(NotPossible, match="second version itself"):
            second.begin(split().environment, "Third", ADA)
    elif wrong == "another second":
        with pytest.raises(NotPossible, match="has a second version already"):
            second.begin(fresh(first), "Third", ADA)
    else:
        Split.objects.all().delete()
        with pytest.raises(NotPossible, match="no second version"):
            second.split_of(fresh(first))


def test_a_route_has_its_second_version_with_doors_of_its_own(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    there = begin().environment
    lead(40, queues)
    found = doors.route(fresh(first)).second
    assert found is not None
    assert (found.share, found.own_data, found.upstreams) == (40, False, doors.upstreams(fresh(there)))
    assert runtime_for(first.server).edge.doors()[there.instances.get().alias] == Colour.BLUE
    assert Instance.objects.filter(environment=there, state=Instance.State.RUNNING).exists()


# As people see it


@pytest.fixture
def ops(client: DjangoClient) -> DjangoClient:
    person = User.objects.create_user("ops", is_staff=True)
    names = ["view_environment", "split_environment", "view_deployment"]
    person.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(person)
    return client


def page_of(environment: Environment) -> str:
    return reverse("admin:projects_environment_versions", args=[environment.pk])


def test_it_is_set_up_split_and_ended_on_its_page(
    first: Environment, remote: GitRemote, queues: Queues, ops: DjangoClient
) -> None:
    remote.commit("Other", addon() | PYTHON, branch="other")
    before = ops.get(page_of(first)).content.decode()
    assert "Set it up" in before
    assert "what was written in the second is removed with it" in before
    ops.post(page_of(first), {"name": "Blue", "ref": "other", "uses": "shared"})
    queues.run_all()
    compared = ops.get(page_of(first)).content.decode()
    assert "Acme / Blue" in compared
    assert "Switch to the second" in compared
    asked = ops.get(page_of(first), {"share": "25"}).content.decode()
    assert "nothing is lost" in asked
    assert split().share == 0, "asking changes nothing"
    ops.post(page_of(first), {"share": "25"})
    assert (split().share, split().set_by) == (25, "ops")
    own = ops.get(reverse("admin:projects_environment_change", args=[first.pk])).content.decode()
    assert "is its second version, and gets <strong>25 %</strong>" in own
    assert "being removed" not in own
    asked = ops.get(page_of(split().environment), {"keep": "first"}).content.decode()
    assert "same database" in asked
    ops.post(page_of(first), {"keep": "first"})
    assert split().ending == "first"


def test_what_is_not_possible_is_said_on_its_page(begin: Callable[..., Split], ops: DjangoClient) -> None:
    there = begin().environment
    answer = ops.post(page_of(there), {"share": "101"}, follow=True)
    assert "0 to 100 percent" in answer.content.decode()
    answer = ops.post(page_of(there), {"share": "many"}, follow=True)
    assert "whole number" in answer.content.decode()


def test_the_page_needs_its_permission(first: Environment, client: DjangoClient) -> None:
    person = User.objects.create_user("viewer", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename="view_environment"))
    client.force_login(person)
    assert client.get(page_of(first)).status_code == 403
    assert client.post(page_of(first), {"share": "10"}).status_code == 403


def test_the_command_line_does_the_same(
    first: Environment, remote: GitRemote, queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.commit("Other", addon() | PYTHON, branch="other")
    call_command("versions", "acme/production", "--begin", "Blue", "--ref", "other")
    queues.run_all()
    with pytest.raises(CommandError, match="Nobody is here to be asked"):
        call_command("versions", "acme/production", "--share", "30")
    assert split().share == 0
    call_command("versions", "acme/production", "--share", "30", "--yes")
    call_command("versions", "acme/production")
    said = capsys.readouterr().out
    assert "nothing is lost" in said
    assert "first  acme/production" in said
    assert "second acme/blue" in said
    assert "30 %" in said
    with pytest.raises(CommandError, match="Nobody is here to be asked"):
        call_command("versions", "acme/production", "--keep", "first")
    assert not split().ending
    call_command("versions", "acme/production", "--keep", "first", "--yes")
    assert split().ending == "first"
    with pytest.raises(CommandError, match="being ended"):
        call_command("versions", "acme/production", "--share", "10", "--yes")


# What must not happen meanwhile


def test_without_a_version_it_begins_with_the_first_ones_branch(first: Environment, queues: Queues) -> None:
    assert second.begin(first, "Standby", ADA).ref == first.branch


def test_a_name_that_is_taken_is_said(first: Environment) -> None:
    Environment.objects.create(project=first.project, server=first.server, name="Second", slug="other-slug")
    with pytest.raises(NotPossible, match="already exists"):
        second.begin(first, "Second", ADA, ref="main")


def test_of_two_who_end_it_one_wins_and_nobody_is_led_there_after_that(begin: Callable[..., Split]) -> None:
    begin(shared=False)
    seen = split()
    second.end(split(), "second", ADA)
    with pytest.raises(NotPossible, match="being ended"):
        second.end(seen, "first", ADA)
    with pytest.raises(NotPossible, match="Somebody else"):
        second.lead(seen, 100, ADA)


def test_nothing_begins_in_it_while_it_is_ended(begin: Callable[..., Split], queues: Queues) -> None:
    there = begin(shared=False).environment
    lead(100, queues)
    second.end(split(), "second", ADA)
    with pytest.raises(NotPossible, match="being ended"):
        services.request_deployment(fresh(there), Trigger.MANUAL, ADA, ref="other")
    with pytest.raises(NotPossible, match="being ended"):
        control.request(there.instances.get(), "restart")
    with pytest.raises(NotPossible, match="second version"):
        removal.request(fresh(there), ADA)
    assert at_work.hindrance(fresh(there)) is not None
    assert Environment.objects.filter(at_work.occupied(), pk=there.pk).exists()


def test_it_is_not_ended_while_somebody_is_at_work_in_it_or_its_data_may_not_be_whole(
    begin: Callable[..., Split], queues: Queues
) -> None:
    there = begin(shared=False).environment
    with claims.claimed(there.pk, "scaling", copy.CLAIM), pytest.raises(NotPossible, match="at work"):
        second.end(split(), "second", ADA)
    factories.deployment(there, status=Status.ROLLBACK_FAILED)
    with pytest.raises(NotPossible, match="The rollback of"):
        second.end(split(), "second", ADA)


def test_a_failed_take_over_is_not_deployed_again_but_kept_again(
    begin: Callable[..., Split], first: Environment, queues: Queues, faults: Faults
) -> None:
    begin(shared=False)
    lead(100, queues)
    faults.raised["filestores.carry"] = DatabaseError("The disk is full.")
    end("second", queues)
    faults.clear()
    failed = Deployment.objects.filter(environment=first).latest()
    with pytest.raises(NotPossible, match="second version"):
        retries.retry(failed, ADA, Trigger.MANUAL)
    end("second", queues)
    assert not Split.objects.exists()
    assert Client(first).write("after")
    assert not Door.objects.exists()


def test_nobody_is_let_into_data_that_is_still_to_be_put_back(
    begin: Callable[..., Split], first: Environment, queues: Queues, faults: Faults, settings: Any
) -> None:
    settings.OCORE_ROLLBACK_SECONDS = 0
    there = begin().environment
    lead(100, queues)
    here = Client(first)
    here.write("before")
    Environment.objects.filter(pk=first.pk).update(update_policy="all")
    faults.raised["databases.put_back"] = DatabaseError("No.")
    faults.raised["containers.run"] = DatabaseError("No update.")
    second.end(split(), "second", ADA)
    for _ in range(4):
        queues.run_all()
        recovery.reconcile()
        keeper.keep()
    broken = Deployment.objects.filter(environment=first).latest()
    assert broken.status == Status.ROLLBACK_FAILED
    assert not Door.objects.filter(at_work=True).exists(), "the edge can be told of others"
    assert not here.write("lost?")
    assert not Client(there).write("lost?")
    faults.clear()
    services.retry_rollback(broken, ADA)
    for _ in range(4):
        queues.run_all()
        recovery.reconcile()
    assert here.found == ["before"]
    assert here.write("after")


def test_its_clients_are_led_back_before_the_new_version_is_looked_at(
    begin: Callable[..., Split], first: Environment, queues: Queues
) -> None:
    begin(addon("2.0"), shared=False)
    lead(100, queues)
    second.end(split(), "second", ADA)
    queues.run_all()
    taken = Deployment.objects.filter(environment=first).latest()
    outcome = taken.steps.get(kind="complete").outcome
    assert "look at the edge" not in outcome


def test_it_is_removed_at_its_end_whatever_its_kind(begin: Callable[..., Split], queues: Queues) -> None:
    there = begin().environment
    Environment.objects.filter(pk=there.pk).update(kind="production")
    end("first", queues)
    assert not Split.objects.exists()


def test_the_last_one_that_serves_is_not_stopped_while_clients_are_led_there(
    begin: Callable[..., Split], queues: Queues
) -> None:
    there = begin().environment
    lead(100, queues)
    with pytest.raises(NotPossible, match="100 % of the clients"):
        control.request(there.instances.get(), "stop")


def test_what_a_share_would_do_is_told_before_there_is_any_data(
    first: Environment, remote: GitRemote, ops: DjangoClient
) -> None:
    remote.commit("Other", addon("2.0"), branch="other")
    second.begin(first, "Second", ADA, ref="other", shared=False)
    assert "is not live" in ops.get(page_of(first), {"share": "50"}).content.decode()


def test_the_edges_routes_take_as_many_queries_with_a_second_version(
    begin: Callable[..., Split], first: Environment
) -> None:
    with CaptureQueriesContext(connection) as alone:
        doors.routes(first.server)
    begin()
    with CaptureQueriesContext(connection) as beside:
        doors.routes(first.server)
    assert len(beside) <= len(alone) + 2, [one["sql"][:120] for one in beside]
