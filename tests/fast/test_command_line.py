"""deploy, rollback, cancel and status, as somebody at a shell sees them."""

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command, execute_from_command_line
from django.core.management.base import CommandError
from django.db import OperationalError
from django.utils import timezone

from deployments import following, pipeline, schedule, terminal
from deployments.following import plain
from deployments.models import Deployment, LogChunk, Snapshot, Step
from deployments.states import FAILURES, FINAL, Status, StepKind, StepStatus, Trigger
from instances import incidents
from instances.models import Door, Incident, Instance
from instances.runtimes.base import Answer
from instances.runtimes.simulated import Faults
from projects.models import Environment, Project
from tests import factories
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def production(queues: Queues, faults: Faults) -> Environment:
    """Plain Odoo, no repository."""
    return factories.environment(branch="")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """What happens each time that the watcher waits."""

    def install(act: Callable[[], None]) -> None:
        monkeypatch.setattr(
            following.time, "sleep", lambda seconds: act() if seconds == following.POLL_SECONDS else None
        )

    return install


@pytest.fixture
def worker(meanwhile: Any) -> None:
    def work() -> None:
        schedule.hand_out_everywhere()
        for deployment in Deployment.objects.filter(status=Status.QUEUED):
            pipeline.run(deployment.pk)

    meanwhile(work)


def run(*arguments: str, code: int = 0) -> str:
    """What the command printed; it must leave with `code`."""
    out = StringIO()
    try:
        call_command(*arguments, stdout=out)
        left = 0
    except SystemExit as ended:
        left = ended.code
    assert left == code, out.getvalue()
    return out.getvalue()


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command(*arguments, stdout=StringIO())
    assert caught.value.returncode == 1
    return str(caught.value)


# status, where nobody looks after it


def test_status_says_at_its_top_that_the_clock_stands_still(production: Environment, queues: Queues) -> None:
    queues.missing = {"clock"}

    first, second, *_ = run("status").splitlines()

    assert first.startswith("The clock gives no sign of life. Nothing is taken over, brought back or looked at")
    assert second.startswith("make up starts what stands still again within two minutes")
    found = json.loads(run("status", "acme/production", "--json"))
    assert found["portal_problem"] == "The clock gives no sign of life."


# deploy


def test_deploy_queues_and_says_what(production: Environment) -> None:
    told = run("deploy", "acme/production")

    deployment = Deployment.objects.get()
    assert told == f"#{deployment.pk} Acme / Production: plain Odoo, queued by {deployment.requester}\n"
    assert (deployment.status, deployment.trigger, deployment.forced) == (Status.QUEUED, Trigger.COMMAND_LINE, False)


def test_whoever_sits_at_the_shell_is_on_record(production: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.delenv("SUDO_USER", raising=False)
    run("deploy", "acme/production")
    monkeypatch.setenv("SUDO_USER", "ada")
    run("deploy", "acme/production", "--force")

    newer, older = Deployment.objects.all()
    assert (older.requester, newer.requester) == (account, f"ada (as {account})")
    assert newer.forced


def test_an_account_without_a_name_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)

    assert terminal.shell_account().name == f"uid {os.getuid()}"


def test_waiting_tells_every_step_with_its_log_and_leaves_with_0(production: Environment, worker: None) -> None:
    told = run("deploy", "acme/production", "--wait")

    places = [told.index(f"▸ {kind.label}") for kind in StepKind if kind != StepKind.ROLLBACK]
    assert places == sorted(places)
    assert "    odoo:19.0 is simulated." in told
    assert "✓ Deploy: " in told
    assert "– Snapshot: The first deployment" in told
    assert told.count(" s)\n") == 5
    assert "Live at http://production-acme.localhost:8080 after " in told
    assert "\x1b" not in told


def test_a_ref_goes_through_the_whole_way(queues: Queues, faults: Faults, worker: None, tmp_path: Path) -> None:
    remote = GitRemote(tmp_path / "remote")
    remote.commit("Begin", {"notes/__manifest__.py": "{'name': 'Notes', 'version': '1.0'}", "notes/__init__.py": ""})
    remote.tag("v1")
    project = factories.project(repository_url=remote.url)
    factories.environment(project=project)

    told = run("deploy", "acme/production", "--ref", "v1", "--wait")

    assert "“Begin” by Ann Author" in told
    assert Deployment.objects.get().commit == remote.sha("main")


def test_a_ref_that_isnt_there_fails_untouched_with_1(
    queues: Queues, faults: Faults, worker: None, tmp_path: Path
) -> None:
    remote = GitRemote(tmp_path / "remote")
    remote.commit("Begin", {"readme": "x"})
    factories.environment(project=factories.project(repository_url=remote.url))

    told = run("deploy", "acme/production", "--ref", "mian", "--wait", code=1)

    assert "Failed, nothing was changed" in told
    assert "no branch, tag or commit “mian”" in told
    assert "There is, for example: main." in told


def test_a_new_version_that_gets_not_healthy_is_rolled_back_with_2(
    production: Environment, worker: None, faults: Faults
) -> None:
    run("deploy", "acme/production", "--wait")
    Environment.objects.update(health_deadline=0, odoo_conf={"log_level": "debug"})
    faults.unhealthy[f"-d{Deployment.objects.get().pk + 1}"] = Answer(502, "Bad gateway")

    told = run("deploy", "acme/production", "--force", "--wait", code=2)

    assert "▸ Rollback" in told
    assert re.search(r"↶ Deploy: .*; taken back \(", told)
    assert "\nRolled back after " in told


def test_a_changed_setting_reaches_what_runs_without_force(production: Environment, worker: None) -> None:
    """As the admin and the runbook promise after a change."""
    run("deploy", "acme/production", "--wait")
    assert "What runs stays." in run("deploy", "acme/production", "--wait")
    Environment.objects.update(odoo_conf={"log_level": "debug"})

    assert "What runs stays." not in run("deploy", "acme/production", "--wait")


def test_a_step_seen_to_end_is_told_again_when_it_is_taken_back(production: Environment, meanwhile: Any) -> None:
    deployment = factories.deployment(production, status=Status.RUNNING)
    Step.objects.create(deployment=deployment, kind=StepKind.DEPLOY, status=StepStatus.SUCCEEDED, outcome="Updated x")

    def take_back() -> None:
        Step.objects.update(status=StepStatus.UNDONE)
        Deployment.objects.update(status=Status.ROLLED_BACK)

    meanwhile(take_back)
    out: list[str] = []
    following.Follower(deployment, lambda text, ending="\n": out.append(text)).follow()

    assert out[1].startswith("  ✓ Deploy: Updated x (")
    assert out[2] == "  ↶ Deploy: taken back"


@pytest.mark.parametrize(
    ("status", "code"),
    [(Status.FAILED, 1), (Status.ROLLED_BACK, 2), (Status.ROLLBACK_FAILED, 3), (Status.CANCELLED, 1)],
)
def test_the_exit_code_says_how_it_ended(production: Environment, meanwhile: Any, status: Status, code: int) -> None:
    meanwhile(lambda: Deployment.objects.update(status=status, error="It broke.", advice="Mend it."))

    told = run("deploy", "acme/production", "--wait", code=code)

    assert told.endswith("  It broke.\n  Mend it.\n")


def test_there_is_an_exit_code_for_every_end() -> None:
    assert {status: terminal.exit_code(status) for status in FINAL} == {
        Status.SUCCEEDED: 0,
        Status.FAILED: 1,
        Status.CANCELLED: 1,
        Status.SUPERSEDED: 1,
        Status.ROLLED_BACK: 2,
        Status.ROLLBACK_FAILED: 3,
    }


def test_being_superseded_is_told_with_the_newer_one(production: Environment, meanwhile: Any) -> None:
    meanwhile(lambda: run("deploy", "acme/production") and None)

    told = run("deploy", "acme/production", "--wait", code=1)

    assert f"Superseded by #{Deployment.objects.latest().pk}" in told


def test_ctrl_c_stops_watching_and_says_that_it_goes_on(production: Environment, meanwhile: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(interrupt)

    told = run("deploy", "acme/production", "--wait", code=130)

    deployment = Deployment.objects.get()
    assert "Stopped watching." in told
    assert f"{deployment} goes on" in told
    assert f"./manage.py cancel {deployment.pk}" in told
    assert deployment.status == Status.QUEUED


def test_in_a_log_a_long_silence_is_broken_by_a_line(
    production: Environment, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: clock[0])

    def wait() -> None:
        clock[0] += 10
        if clock[0] > 60:
            Deployment.objects.update(status=Status.CANCELLED)

    meanwhile(wait)

    told = run("deploy", "acme/production", "--wait", code=1)

    assert told.count("… still queued for ") == 3


def test_it_says_behind_what_it_waits(production: Environment, meanwhile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENCE_SECONDS", -1)
    ahead = factories.deployment(production, status=Status.RUNNING)
    meanwhile(lambda: Deployment.objects.exclude(pk=ahead.pk).update(status=Status.CANCELLED))

    told = run("deploy", "acme/production", "--wait", code=1)

    assert f"Waits for the end of #{ahead.pk} in this environment" in told


def test_what_a_terminal_shows_last_is_wiped_before_the_next_line(production: Environment, worker: None) -> None:
    written: list[str] = []
    deployment = factories.deployment(production, status=Status.QUEUED)

    def write(text: str, ending: str = "\n") -> None:
        written.append(text + ending)

    following.Follower(deployment, write, live=True).follow()

    assert written[0].startswith("… queued for 0 s")
    assert written[1] == "\r\x1b[2K"
    assert not any(one.startswith("…") for one in written[-2:])


def test_the_last_steps_end_is_awaited_for_a_moment(production: Environment, meanwhile: Any) -> None:
    """A deployment's row is final an instant before its last step's."""
    deployment = factories.deployment(production, status=Status.SUCCEEDED)
    step = Step.objects.create(deployment=deployment, kind=StepKind.COMPLETE)

    def close() -> None:
        LogChunk.objects.create(step=step, text="the last line\n")
        Step.objects.update(status=StepStatus.SUCCEEDED, outcome="Live", finished_at=timezone.now())

    meanwhile(close)
    out: list[str] = []
    following.Follower(deployment, lambda text, ending="\n": out.append(text)).follow()

    assert out[0] == "▸ Complete"
    assert out[1] == "    the last line"
    assert out[2].startswith("  ✓ Complete: Live (")


@pytest.mark.parametrize(
    ("printed", "shown", "coloured"),
    [
        ("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m"),
        ("\x1b]0;owned\x07title", "title", "title"),
        ("\x1b]8;;http://evil\x1b\\link", "link", "link"),
        ("\x1b[2J\x1b[Hgone", "gone", "gone"),
        ("10 %\r50 %\r100 %\r\n", "100 %\n", "100 %\n"),
        ("a\x00\x08b\u202ec\ttab", "abc\ttab", "abc\ttab"),
        ("\x1b", "", ""),
        ("\x9b31mc1", "31mc1", "31mc1"),
    ],
)
def test_what_a_build_prints_cannot_take_over_the_terminal(printed: str, shown: str, coloured: str) -> None:
    assert plain(printed) == shown
    assert plain(printed, colours=True) == coloured


@pytest.mark.parametrize(
    ("waiting", "words"),
    [
        ({"commit": "c" * 40, "requester": "Ada"}, "a push of cccccccccc by Ada"),
        ({"trigger": Trigger.MANUAL, "ref": "v1", "requester": "bea"}, "a deployment of v1 by bea"),
        ({"trigger": Trigger.MANUAL, "ref": "", "requester": ""}, "a deployment of plain Odoo"),
    ],
)
def test_what_a_deployment_by_hand_supersedes_is_told(
    production: Environment, waiting: dict[str, Any], words: str
) -> None:
    queued = factories.deployment(production, status=Status.QUEUED, **waiting)

    assert f"\n#{queued.pk}, {words} that was waiting, is superseded.\n" in run("deploy", "acme/production")


# While nobody works


@pytest.fixture
def asleep(queues: Queues, settings: Any) -> None:
    """The portal isn't running."""
    queues.workers = 0


def test_what_nobody_takes_is_queued_with_a_word_about_it(production: Environment, asleep: None) -> None:
    told = run("deploy", "acme/production")

    queued = Deployment.objects.get()
    assert told.endswith(f"Queued as #{queued.pk}, but the portal isn't running. Start it with: make up.\n")
    assert queued.status == Status.QUEUED


def test_a_running_one_that_is_cancelled_waits_for_somebody_to_put_it_back(
    production: Environment, asleep: None
) -> None:
    running = factories.deployment(production, status=Status.RUNNING)

    assert "\nBut the portal isn't running. Start it with: make up.\n" in run("cancel", str(running.pk))


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
def test_waiting_ends_with_advice_when_nobody_is_there_for_long(
    production: Environment, asleep: None, meanwhile: Any, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    clock = [0.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: clock[0])

    def wait() -> None:
        clock[0] += 1
        Deployment.objects.update(status=status, heartbeat_at=timezone.now() - timedelta(minutes=1))
        assert clock[0] < 60, "it waits for ever"

    meanwhile(wait)

    told = refused("deploy", "acme/production", "--wait")

    deployment = Deployment.objects.get()
    assert clock[0] >= terminal.ALONE_SECONDS
    assert f"{deployment} stays {status}: for 15 s nobody has worked on it. The portal isn't running." in told
    assert "make up" in told
    assert (f"./manage.py cancel {deployment.pk}" in told) == (status == Status.QUEUED)
    assert deployment.status == status


def test_waiting_goes_on_when_somebody_comes(
    production: Environment, queues: Queues, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: clock[0])
    queues.workers = 0

    def wait() -> None:
        clock[0] += 1
        queues.workers = int(clock[0] > 10)
        if clock[0] > 40:
            Deployment.objects.update(status=Status.SUCCEEDED)

    meanwhile(wait)

    assert "Live at " in run("deploy", "acme/production", "--wait")


def test_a_horse_whose_worker_was_killed_is_waited_for(
    production: Environment, asleep: None, meanwhile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: clock[0])

    def wait() -> None:
        clock[0] += 1
        Deployment.objects.update(status=Status.RUNNING, heartbeat_at=timezone.now())
        if clock[0] > 40:
            Deployment.objects.update(status=Status.SUCCEEDED)

    meanwhile(wait)

    assert "Live at " in run("deploy", "acme/production", "--wait")


def test_status_says_first_that_the_portal_isnt_running(production: Environment, asleep: None) -> None:
    for arguments in (["status"], ["status", "acme/production"]):
        assert run(*arguments).startswith("The portal isn't running. ")
    assert json.loads(run("status", "--json"))[0]["portal_problem"] == "The portal isn't running."


def test_status_says_nothing_of_the_portal_while_a_worker_lives(production: Environment) -> None:
    assert run("status").startswith("ENVIRONMENT")
    assert json.loads(run("status", "--json"))[0]["portal_problem"] == ""


# What is refused


def test_an_unknown_environment_is_refused_with_near_ones(production: Environment) -> None:
    told = refused("deploy", "acme/prodction")

    assert told == "There is no environment “acme/prodction”.\nDid you mean acme/production?"


@pytest.mark.parametrize("name", ["production", "acme"])
def test_half_a_name_is_refused_with_the_whole(production: Environment, name: str) -> None:
    assert "Did you mean acme/production?" in refused("deploy", name)


def test_an_unknown_project_is_refused_with_near_ones(production: Environment) -> None:
    assert refused("status", "acmee") == "There is no project “acmee”.\nDid you mean acme?"


def test_where_nothing_is_near_it_tells_what_there_is(production: Environment) -> None:
    assert refused("cancel", "zzz/qqq").endswith("There is: acme/production.")


def test_where_there_is_nothing_it_says_so(db: None) -> None:
    assert refused("deploy", "acme/production").endswith("There is none yet: create one in the admin.")


@pytest.mark.parametrize("ref", ["--upload-pack=x", "a..b", "x;reboot y", "\x1b[2J"])
def test_a_ref_that_can_be_none_is_refused(queues: Queues, ref: str) -> None:
    factories.environment(project=factories.project(repository_url="https://git.example.com/x.git"))

    told = refused("deploy", "acme/production", f"--ref={ref}")

    assert "is no branch, tag or commit id" in told
    assert "\x1b" not in told
    assert not Deployment.objects.exists()


def test_a_ref_without_a_repository_is_refused_with_advice(production: Environment) -> None:
    assert "Leave the ref empty" in refused("deploy", "acme/production", "--ref=main")


def test_an_environment_without_a_branch_wants_a_ref(queues: Queues) -> None:
    project = factories.project(repository_url="https://git.example.com/x.git")
    factories.environment(project=project, branch="")

    assert "has no git branch" in refused("deploy", "acme/production")


def test_a_database_that_cannot_be_used_is_told_with_the_next_move(
    production: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: str) -> None:
        raise OperationalError("no such table: projects_environment")

    monkeypatch.setattr("deployments.management.commands.deploy.find_environment", broken)

    assert "make up" in refused("deploy", "acme/production")


def shell(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OCORE_STATE_DIR": str(state), "DJANGO_SETTINGS_MODULE": "ocore.settings"}
    environment.pop("DATABASE_URL", None)
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wrong_argument_leaves_with_1_because_2_means_rolled_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        execute_from_command_line(["manage.py", "deploy"])

    assert ended.value.code == 1
    assert "required: project/environment" in capsys.readouterr().err


def test_before_the_first_make_up_there_is_no_traceback(tmp_path: Path) -> None:
    done = shell("status", state=tmp_path)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "make up" in done.stderr


@pytest.mark.parametrize("command", ["deploy", "rollback", "cancel", "status"])
def test_help_tells_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command(command, "--help")

    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "exit codes:\n  0" in told
    assert command not in ("deploy", "rollback") or "3    a person must look" in told


# rollback


@pytest.fixture
def twice_live(production: Environment) -> tuple[Deployment, Deployment]:
    """An earlier deployment with its data, and what replaced it three hours ago."""
    Project.objects.update(repository_url="https://git.example.com/acme.git")
    production.refresh_from_db()
    then, now = timezone.now() - timedelta(days=2), timezone.now() - timedelta(hours=3)
    addons = {"notes": {"version": "19.0.1.0.0"}, "sale": {"version": "19.0.1.0.0"}}
    newer = addons | {"notes": {"version": "19.0.2.0.0"}}
    old = factories.deployment(
        production, commit="a" * 40, subject="Old", live_at=then, image="acme:old", addons=addons
    )
    new = factories.deployment(production, commit="b" * 40, subject="New", live=True, live_at=now, addons=newer)
    Snapshot.objects.create(
        environment=production,
        deployment=new,
        of=old,
        state=Snapshot.State.READY,
        taken_at=now,
        database="s1",
        label="s1",
    )
    return old, new


def test_rollback_says_before_what_will_happen(twice_live: tuple[Deployment, Deployment]) -> None:
    old, new = twice_live

    told = run("rollback", "acme/production", "--with-data", "--yes")

    assert f"Acme / Production goes back to #{old.pk}, which went live {old.live_at:%Y-%m-%d %H:%M:%S UTC}." in told
    assert f"Live now   #{new.pk} bbbbbbbbbb New" in told
    assert f"Then       #{old.pk} aaaaaaaaaa Old" in told
    assert "Image      acme:old" in told
    assert f"as of {new.live_at:%Y-%m-%d %H:%M:%S UTC}, 3 h ago: what was entered since then goes." in told
    assert "A snapshot of today's data is taken first" in told
    queued = Deployment.objects.latest()
    assert (queued.rollback_to, queued.restores, queued.trigger) == (old, Snapshot.objects.get(), Trigger.ROLLBACK)


def test_without_data_it_warns_of_modules_that_are_newer_in_the_database(
    twice_live: tuple[Deployment, Deployment],
) -> None:
    told = run("rollback", "acme/production", "--yes")

    assert "Data       stays as it is now." in told
    assert "--with-data would bring back" in told
    assert "newer in the database than in this image: notes." in told
    assert Deployment.objects.latest().restores is None


def test_without_yes_it_asks_and_only_a_yes_counts(
    twice_live: tuple[Deployment, Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keyboard:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard())
    for answer, queued in (("", 0), ("n", 0), ("nope", 0), ("Yes", 1)):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        if queued:
            run("rollback", "acme/production")
        else:
            assert refused("rollback", "acme/production") == "Nothing was done."
        assert Deployment.objects.filter(trigger=Trigger.ROLLBACK).count() == queued


def test_where_nobody_can_be_asked_yes_must_be_said(
    twice_live: tuple[Deployment, Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(""))

    assert "Say --yes" in refused("rollback", "acme/production")
    assert not Deployment.objects.filter(trigger=Trigger.ROLLBACK).exists()


def test_to_names_the_deployment(twice_live: tuple[Deployment, Deployment]) -> None:
    old, _ = twice_live

    run("rollback", "acme/production", "--to", f"#{old.pk}", "--yes")

    assert Deployment.objects.latest().rollback_to == old


@pytest.mark.parametrize("number", ["99999", "abc", "-1", "9" * 40])
def test_to_something_else_is_refused_with_the_choices(twice_live: tuple[Deployment, Deployment], number: str) -> None:
    told = refused("rollback", "acme/production", f"--to={number}", "--yes")

    assert "is no deployment of Acme / Production" in told
    assert f"There is: #{twice_live[0].pk} (live from" in told


def test_to_a_deployment_of_another_environment_is_refused(twice_live: tuple[Deployment, Deployment]) -> None:
    other = factories.deployment(factories.environment(name="Staging", slug="staging"))

    assert "is no deployment of" in refused("rollback", "acme/production", "--to", str(other.pk), "--yes")


def test_to_what_runs_now_is_refused(twice_live: tuple[Deployment, Deployment]) -> None:
    assert "is what runs now" in refused("rollback", "acme/production", "--to", str(twice_live[1].pk), "--yes")


def test_with_data_that_is_gone_is_refused_before_anybody_is_asked(twice_live: tuple[Deployment, Deployment]) -> None:
    Snapshot.objects.update(state=Snapshot.State.GONE)

    assert "Leave --with-data out" in refused("rollback", "acme/production", "--with-data")


def test_what_ran_before_and_is_the_same_is_gone_back_to_for_its_data_only(
    twice_live: tuple[Deployment, Deployment],
) -> None:
    old, new = twice_live
    Deployment.objects.filter(pk=old.pk).update(content="the same", environment=new.environment)
    Deployment.objects.filter(pk=new.pk).update(content="the same")

    Deployment.objects.filter(pk=new.pk).update(configuration={"workers": 2})
    run("rollback", "acme/production", "--yes")
    assert Deployment.objects.latest().rollback_to == old, "to its settings"
    Deployment.objects.latest().delete()
    Deployment.objects.filter(pk=new.pk).update(configuration=old.configuration)

    told = refused("rollback", "acme/production", "--yes")
    assert "a rollback would change nothing" in told
    assert f"that of #{old.pk}" in told
    run("rollback", "acme/production", "--with-data", "--yes")
    assert Deployment.objects.latest().rollback_to == old


def test_nothing_to_go_back_to_is_refused(production: Environment) -> None:
    assert "no earlier deployment" in refused("rollback", "acme/production", "--yes")


def test_a_rollback_is_followed_to_its_end(production: Environment, worker: None) -> None:
    Environment.objects.update(strategy="recreate")
    run("deploy", "acme/production", "--wait")
    Environment.objects.update(odoo_conf={"log_level": "debug"})
    run("deploy", "acme/production", "--force", "--wait")

    told = run("rollback", "acme/production", "--with-data", "--yes", "--wait")

    assert "Putting back the data as of" in told
    assert "Live at " in told


# cancel


def test_cancel_takes_the_queued_one(production: Environment) -> None:
    queued = factories.deployment(production, status=Status.QUEUED)

    told = run("cancel", "acme/production")

    queued.refresh_from_db()
    assert told == f"{queued} is cancelled by {queued.cancelled_by}; it had not begun.\n"
    assert (queued.status, queued.cancelled_by) == (Status.CANCELLED, terminal.shell_account().name)


def test_cancel_asks_the_running_one_to_stop(production: Environment) -> None:
    running = factories.deployment(production, status=Status.RUNNING)

    told = run("cancel", str(running.pk))

    running.refresh_from_db()
    assert running.status == Status.CANCELLING
    assert "what it changed is put back" in told


def test_with_two_of_them_one_must_be_named(production: Environment) -> None:
    running = factories.deployment(production, status=Status.RUNNING)
    queued = factories.deployment(production, status=Status.QUEUED)

    told = refused("cancel", "acme/production")
    run("cancel", f"#{queued.pk}")

    assert f"#{running.pk} (running) and #{queued.pk} (queued)" in told
    running.refresh_from_db()
    assert running.status == Status.RUNNING


@pytest.mark.parametrize(
    ("status", "fields", "why"),
    [
        (Status.SUCCEEDED, {}, "It has ended: succeeded"),
        (Status.RUNNING, {"switched_at": timezone.now()}, "past the point of no return"),
    ],
)
def test_what_cannot_be_cancelled_says_why(
    production: Environment, status: Status, fields: dict[str, Any], why: str
) -> None:
    deployment = factories.deployment(production, status=status, **fields)

    assert why in refused("cancel", str(deployment.pk))


def test_cancelling_nothing_is_refused(production: Environment) -> None:
    assert refused("cancel", "acme/production") == "Nothing is queued or running in Acme / Production."
    assert refused("cancel", "77") == (
        "There is no deployment #77.\nThose of an environment are listed by: ./manage.py status project/environment"
    )


def test_who_cancelled_is_told_by_every_command_that_shows_it(production: Environment) -> None:
    ended = factories.deployment(production, status=Status.CANCELLED, cancelled_by="bea", requester="ada")

    assert "It has ended: cancelled by bea." in refused("cancel", str(ended.pk))
    assert "Cancelled by bea" in run("status", "acme/production")


# status


def test_status_is_a_table_of_what_runs_where_since_when(production: Environment) -> None:
    went_live = timezone.now()
    live = factories.deployment(production, commit="a" * 40, live=True, live_at=went_live)
    production.instances.update(state=Instance.State.RUNNING, state_since=went_live)
    factories.environment(name="Staging", slug="staging")

    lines = run("status").splitlines()

    assert lines[0].split() == ["ENVIRONMENT", "STATE", "LIVE", "SINCE", "BY", "SERVER"]
    assert lines[1].split("  ")[0] == "acme/production"
    assert f"Up            #{live.pk} aaaaaaaaaa main  {went_live:%Y-%m-%d %H:%M UTC}  ada  Sim (simulated)" in lines[1]
    assert "Not live yet" in lines[2]


def test_status_shows_what_is_underway_and_what_waits(production: Environment) -> None:
    running = factories.deployment(production, status=Status.RUNNING)
    assert f"#{running.pk} running" in run("status", "acme")

    Door.objects.create(environment=production, server=production.server, holder="x", closed_at=timezone.now())
    assert f"#{running.pk} running, requests wait" in run("status", "acme")

    running.delete()
    Door.objects.all().delete()
    queued = factories.deployment(production, status=Status.QUEUED)
    assert f"Not live yet; #{queued.pk} queued" in run("status", "acme")


def test_status_is_loud_about_a_failed_rollback(production: Environment) -> None:
    factories.deployment(production, live=True, live_at=timezone.now() - timedelta(days=1))
    factories.deployment(production, status=Status.ROLLBACK_FAILED)

    assert "Down: rollback failed, a person must look" in run("status")


@pytest.mark.parametrize("status", sorted(FAILURES))
def test_status_shows_a_failure_that_is_newer_than_what_is_live(production: Environment, status: Status) -> None:
    factories.deployment(production, live=True, live_at=timezone.now())
    failed = factories.deployment(
        production,
        status=status,
        commit="c" * 40,
        error="It does not load.\nLine 2",
        finished_at=timezone.now(),
    )
    factories.deployment(production, status=Status.CANCELLED)
    when = f"{failed.finished_at:%Y-%m-%d %H:%M UTC}"

    note = f"#{failed.pk} cccccccccc main {failed.get_status_display().lower()}, {when}: It does not load."
    assert run("status").splitlines()[2] == f"  not live: {note}"
    assert f"Not live  {note}\n" in run("status", "acme/production")
    assert json.loads(run("status", "--json"))[0]["last_failure"]["id"] == failed.pk


def test_a_failure_that_was_mended_since_is_not_shown_any_more(production: Environment) -> None:
    factories.deployment(production, status=Status.FAILED, error="It does not load.")
    factories.deployment(production, live=True, live_at=timezone.now())

    assert "not live:" not in run("status")
    assert json.loads(run("status", "--json"))[0]["last_failure"] is None


def test_status_of_a_project_leaves_the_others_out(production: Environment) -> None:
    factories.environment(project=factories.project(name="Beta", slug="beta"), name="Live", slug="live")

    assert "beta/live" in run("status")
    assert "beta/live" not in run("status", "acme")


def test_status_of_an_environment_tells_details_the_last_deployments_and_what_is_pending(
    production: Environment,
) -> None:
    Environment.objects.update(
        branch="main", pending={"commits": [{"sha": "d" * 40, "subject": "Not \x1b[2Jyet", "author": "Ann"}]}
    )
    factories.deployment(production, commit="a" * 40, subject="Fix the tax", live=True, live_at=timezone.now())
    failed = factories.deployment(
        production, status=Status.FAILED, error="It does not build.", commit="c" * 40, started_at=timezone.now()
    )
    production.instances.update(state=Instance.State.FAILED, problem="It fell over.")

    told = run("status", "acme/production")

    assert "aaaaaaaaaa main Fix the tax" in told
    assert "Instance  main: failed: It fell over." in told
    assert "Pending on main, not deployed: 1\n  dddddddddd  Not yet (Ann)" in told
    assert f"#{failed.pk}" in told
    assert "Failed, nothing was changed" in told
    assert "by ada (push)\n         It does not build." in told
    assert "Succeeded, live" in told


def test_status_tells_what_was_given_up_and_the_last_incidents(production: Environment) -> None:
    factories.deployment(production, live=True, live_at=timezone.now() - timedelta(days=1))
    production.instances.update(state=Instance.State.FAILED)
    instance = production.instances.get()
    brought_back = incidents.notice(Incident.Part.EDGE, production.server, "The edge is gone.")
    incidents.attempt(brought_back)
    incidents.end(brought_back)
    given_up = incidents.notice(Incident.Part.INSTANCE, production.server, "It is gone.", instance=instance)
    incidents.give_up(given_up, "It keeps ending.", "Read its log.")

    assert "Down: given up, a person must look" in run("status")
    told = run("status", "acme/production")
    assert "Edge of Sim (simulated): The edge is gone. Brought back" in told
    assert "Given up: a person must look (0 attempts)\n         It keeps ending.\n         Read its log." in told
    as_json = json.loads(run("status", "acme/production", "--json"))
    assert as_json["needs_a_person"] is True
    assert [one["outcome"] for one in as_json["incidents"]] == ["given_up", "brought_back"]


def test_status_names_the_step_that_a_deployment_is_at(production: Environment) -> None:
    running = factories.deployment(production, status=Status.RUNNING)
    Step.objects.create(deployment=running, kind=StepKind.BUILD, status=StepStatus.SUCCEEDED)
    Step.objects.create(deployment=running, kind=StepKind.HEALTH_CHECK)

    assert f"#{running.pk} running: health check" in run("status")
    assert json.loads(run("status", "acme/production", "--json"))["step"] == "Health check"


def test_status_calls_an_incident_over_that_is_over(production: Environment) -> None:
    incident = incidents.notice(Incident.Part.EDGE, production.server, "The edge is gone.")
    incidents.give_up(incident, "It keeps ending.", "Read its log.")
    incidents.end(incident)

    told = run("status", "acme/production")

    assert "The edge is gone. Given up, over since " in told
    assert "a person must look" not in told


def test_status_says_when_an_incident_is_tried_again_and_when_it_is_given_up(production: Environment) -> None:
    incident = incidents.notice(Incident.Part.EDGE, production.server, "The edge is gone.")
    incidents.attempt(incident)
    due = f"{incident.next_attempt_at:%H:%M:%S} UTC"

    assert f"attempt 2 of 5 where it is down at {due}" in run("status", "acme/production")
    told = json.loads(run("status", "acme/production", "--json"))["incidents"][0]
    assert told["next_attempt_at"] == incident.next_attempt_at.isoformat()

    Incident.objects.update(attempts=incidents.LIMIT)
    assert f"given up unless it is well by {due}" in run("status", "acme/production")


def test_a_reader_who_has_had_enough_gets_no_traceback(tmp_path: Path) -> None:
    code = """
import os, sys
import django
django.setup()
from deployments.terminal import PortalCommand
class Told(PortalCommand):
    requires_system_checks = []
    def handle(self, *args, **options):
        for number in range(10000):
            self.stdout.write("line %d" % number)
Told().run_from_argv(["manage.py", "told"])
"""
    reader, writer = os.pipe()
    os.close(reader)
    surroundings = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "OCORE_STATE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=surroundings,
        cwd=ROOT,
        check=False,
        timeout=50,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr.decode()) == (terminal.PIPE_CLOSED, "")


def test_status_as_json_is_for_programs(production: Environment) -> None:
    live = factories.deployment(production, commit="a" * 40, live=True, live_at=timezone.now())

    everything = json.loads(run("status", "--json"))
    one = json.loads(run("status", "acme/production", "--json"))

    assert [each["environment"] for each in everything] == ["acme/production"]
    assert everything[0]["live"]["id"] == live.pk
    assert everything[0]["simulated"] is True
    assert one["deployments"][0]["commit"] == "a" * 40
    assert one["instances"] == [{"name": "main", "state": "new", "problem": ""}]


def test_status_takes_a_constant_number_of_queries(production: Environment, django_assert_num_queries: Any) -> None:
    factories.deployment(production, live=True, live_at=timezone.now())
    for number in range(8):
        one = factories.environment(name=f"No {number}", slug=f"no-{number}")
        factories.deployment(one, live=True, live_at=timezone.now())
        factories.deployment(one, status=Status.RUNNING)

    with django_assert_num_queries(8):
        run("status")


def test_status_before_there_is_anything_says_so(db: None) -> None:
    assert "There is no environment yet" in refused("status")
    assert json.loads(run("status", "--json")) == []


@pytest.mark.django_db
@pytest.mark.parametrize("host", ["github", "generic"])
def test_a_push_is_announced_in_words_that_the_projects_git_host_would_use(host: str) -> None:
    from deployments.management.commands.announce_push import signed
    from projects.hosts import HOSTS

    project = factories.project(host=host)
    commit = {"id": "2" * 40, "message": "Fix", "author": {"name": "Ann"}}
    document = {"ref": "refs/heads/main", "before": "1" * 40, "after": "2" * 40, "head_commit": commit}

    body, headers = signed(project, document | {"commits": [commit], "pusher": {"name": "Ann"}})

    HOSTS[host].verify(body, headers, project.webhook_secrets)
    push = HOSTS[host].parse(body, headers)
    assert (push.changes[0].head, push.pusher, push.commits[0].subject) == ("2" * 40, "Ann", "Fix")
    project.host = "gitlab"
    with pytest.raises(CommandError, match="GitLab only"):
        signed(project, document)
