"""What starts the portal: progress for people, processes, packages, the engine's failures explained."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.test import override_settings

from ocore.machine import daemons, engine, packages, prepare, redis, web
from ocore.machine.processes import Process, end, end_alone, family
from ocore.machine.programs import portal_programs
from ocore.machine.progress import Progress

QUIET = Progress(io.StringIO().write)
FORKER = """
import os, sys, time
if os.fork() == 0:
    os.setpgrp()          # as an RQ work horse does
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.fixture
def forker():
    """A process whose child is in a process group of its own."""
    parent = subprocess.Popen([sys.executable, "-c", FORKER], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child = Process.of(int(parent.stdout.readline()))
    yield parent, child
    end([child], patience=0)
    parent.kill()
    parent.communicate()


def test_a_machine_without_ssh_can_still_run_the_portal(monkeypatch):
    """Who has only https repositories never needs it."""
    asked = []

    def ensure(program, *_, **__):
        asked.append(program)
        if program == "ssh":
            raise packages.ProgramMissing("No ssh.")

    monkeypatch.setattr(prepare, "ensure_program", ensure)
    monkeypatch.setattr(prepare, "ensure_redis", lambda progress: asked.append("redis"))
    prepare.prepare_programs(QUIET)
    assert asked == ["git", "ssh", "redis"]


def test_long_silent_work_says_that_it_goes_on_and_what_it_last_reported():
    stream = io.StringIO()
    progress = Progress(stream.write, heartbeat=0.05)
    with progress.step("Installing docker.io"):
        progress.log("Unpacking containerd\nSetting up runc\n")
        time.sleep(0.2)
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("Installing docker.io ...")
    assert "still installing docker.io, 0 s: Setting up runc" in lines[1]


def test_a_step_that_speaks_is_not_interrupted_by_heartbeats():
    stream = io.StringIO()
    progress = Progress(stream.write, heartbeat=0.2)
    with progress.step("Working"):
        for _ in range(6):
            progress.say("news")
            time.sleep(0.05)
    assert "still" not in stream.getvalue()


def test_a_failed_step_says_so_and_lets_the_error_through():
    stream = io.StringIO()
    with pytest.raises(ValueError, match="broken"), Progress(stream.write).step("Building"):
        raise ValueError("broken")
    assert "Building: failed after" in stream.getvalue()


def test_only_the_innermost_step_has_a_heartbeat():
    stream = io.StringIO()
    progress = Progress(stream.write, heartbeat=0.05)
    with progress.step("Outer"), progress.step("Inner"):
        time.sleep(0.2)
    assert "still inner" in stream.getvalue()
    assert "still outer" not in stream.getvalue()


def test_a_process_is_known_by_its_beginning_not_by_its_number_alone():
    own = Process.of(os.getpid())
    assert own.alive
    assert not Process(own.pid, own.began + 1).alive


def test_a_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 5
    while Process.of(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Process.of(child.pid) is None
    child.wait()


def test_a_family_includes_a_child_with_a_process_group_of_its_own(forker):
    parent, child = forker
    assert {process.pid for process in family([Process.of(parent.pid)])} == {parent.pid, child.pid}


def test_a_family_is_found_by_its_session_after_the_middle_has_died(forker):
    parent, child = forker
    leader = Process.of(parent.pid)
    assert child in family([leader])
    end([leader], patience=0.5)
    parent.wait()
    assert not child.alive


def test_ending_one_alone_spares_its_child(forker):
    parent, child = forker
    assert end_alone(Process.of(parent.pid), patience=5)
    assert child.alive


def test_what_ignores_the_request_to_stop_is_killed_after_the_patience():
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    stubborn.stdout.readline()
    end([Process.of(stubborn.pid)], patience=0.2)
    assert stubborn.wait(timeout=5) == -signal.SIGKILL
    stubborn.stdout.close()


@pytest.fixture
def bare_debian(monkeypatch, tmp_path):
    """No package is there; apt-get is a script that notes its arguments and answers as told."""
    calls = tmp_path / "calls"
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {calls}\necho "Setting up things"\nexit $(cat {tmp_path}/code)\n')
    apt.chmod(0o755)
    (tmp_path / "code").write_text("0")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(packages, "installed", lambda package: False)
    monkeypatch.setattr(packages, "may_install", lambda: True)
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "LISTS", tmp_path / "lists")
    return tmp_path


def test_missing_packages_are_installed_after_an_update_where_there_are_no_lists(bare_debian):
    packages.ensure_packages(["redis-server"], Progress(io.StringIO().write), purpose="the queue")
    update, install = (bare_debian / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith("--no-install-recommends install redis-server")


def test_no_service_starts_while_packages_are_installed_and_the_policy_is_gone_afterwards(bare_debian):
    (bare_debian / "apt-get").write_text(f"#!/bin/sh\ncp {bare_debian}/policy-rc.d {bare_debian}/seen\n")
    packages.ensure_packages(["redis-server"], Progress(io.StringIO().write), purpose="the queue")
    assert "exit 101" in (bare_debian / "seen").read_text()
    assert not (bare_debian / "policy-rc.d").exists()


def test_a_machine_with_a_policy_of_its_own_keeps_it(bare_debian):
    (bare_debian / "policy-rc.d").write_text("#!/bin/sh\nexit 0\n")
    packages.ensure_packages(["redis-server"], Progress(io.StringIO().write), purpose="the queue")
    assert (bare_debian / "policy-rc.d").read_text() == "#!/bin/sh\nexit 0\n"


def test_a_failed_installation_tells_what_apt_said_and_what_to_run(bare_debian):
    (bare_debian / "code").write_text("100")
    with pytest.raises(packages.ProgramMissing) as caught:
        packages.ensure_packages(["docker.io"], Progress(io.StringIO().write), purpose="the engine")
    assert "Setting up things" in caught.value.detail
    assert "apt-get install docker.io" in caught.value.advice


def test_who_may_not_install_is_told_exactly_what_to_run(bare_debian, monkeypatch):
    monkeypatch.setattr(packages, "may_install", lambda: False)
    with pytest.raises(packages.ProgramMissing) as caught:
        packages.ensure_packages(["redis-server"], Progress(io.StringIO().write), purpose="the queue")
    assert caught.value.advice == "Run: sudo apt-get install --no-install-recommends redis-server"
    assert not (bare_debian / "calls").exists()


@pytest.mark.parametrize(
    ("log", "meaning"),
    [
        ("failed to start daemon: Error initializing network controller: iptables: can't initialize", "kernel lacks"),
        ("failed to mount overlay: operation not permitted", "lacks privileges"),
        ("failed to start daemon: Devices cgroup isn't mounted", "control groups"),
        ("--live-restore daemon configuration is incompatible with swarm mode", "swarm"),
        ("write /var/lib/docker/x: no space left on device", "disk is full"),
        ("pid file found, ensure docker is not running or delete /var/run/docker.pid", "another dockerd"),
        ("something nobody foresaw", "dockerd does not start."),
    ],
)
def test_why_the_engine_does_not_start_is_read_from_its_log(log, meaning):
    error = daemons.explain("dockerd", f"level=info msg=starting\n{log}")
    assert meaning in error.message
    assert log in error.detail
    assert error.advice


def test_a_daemon_that_ends_at_once_is_explained_without_waiting(tmp_path, monkeypatch):
    script = tmp_path / "dockerd"
    script.write_text("#!/bin/sh\necho 'iptables: Permission denied (you must be root)'; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(daemons, "DOCKER_PID_FILE", tmp_path / "docker.pid")
    monkeypatch.setattr(daemons, "_accepts", lambda path: True)
    began = time.monotonic()
    with pytest.raises(engine.EngineUnavailable, match="lacks privileges"):
        daemons.start(tmp_path / "engine", Progress(io.StringIO().write), answers=lambda: False)
    assert time.monotonic() - began < 5


@pytest.fixture
def our_engine(tmp_path, monkeypatch):
    """A dockerd that oCore has started; its folder."""
    script = tmp_path / "dockerd"
    script.write_text("#!/bin/sh\nenv; echo up; exec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DJANGO_SECRET_KEY", "hunter2")
    monkeypatch.setattr(daemons, "DOCKER_PID_FILE", tmp_path / "docker.pid")
    monkeypatch.setattr(daemons, "_accepts", lambda path: True)
    folder = tmp_path / "engine"
    log = folder / "dockerd.log"
    monkeypatch.setattr(engine, "_answers", lambda: "up" in log.read_text())
    daemons.start(folder, QUIET, answers=engine._answers)
    yield folder
    daemons.stop(folder, patience=5)


def test_a_started_daemon_is_remembered_and_gets_none_of_our_secrets(our_engine):
    assert "hunter2" not in (our_engine / "dockerd.log").read_text()
    (started,) = daemons.started(our_engine)
    daemons.stop(our_engine, patience=5)
    assert not started.alive
    assert daemons.started(our_engine) == []


def kill_engine(folder):
    (daemon,) = daemons.started(folder)
    os.kill(daemon.pid, signal.SIGKILL)
    while daemon.alive:
        time.sleep(0.01)
    return daemon


def test_an_engine_of_ours_that_died_is_started_again(our_engine):
    said = io.StringIO()
    guard = engine.Guard(our_engine)
    guard.look(Progress(said.write))
    assert said.getvalue() == ""
    dead = kill_engine(our_engine)

    guard.look(Progress(said.write))

    (daemon,) = daemons.started(our_engine)
    assert daemon != dead
    assert "started again: dockerd" in said.getvalue()


def test_an_engine_that_was_stopped_stays_stopped(our_engine):
    daemons.stop(our_engine, patience=5)
    engine.Guard(our_engine).look(QUIET)
    assert daemons.started(our_engine) == []


def test_an_engine_that_somebody_else_has_started_since_is_theirs(our_engine, monkeypatch):
    kill_engine(our_engine)
    monkeypatch.setattr(daemons, "_runs_already", lambda: True)
    guard = engine.Guard(our_engine)
    guard.look(QUIET)
    monkeypatch.setattr(daemons, "_runs_already", lambda: False)
    guard.look(QUIET)
    assert daemons.started(our_engine) == []


def test_an_engine_that_does_not_start_is_tried_again_after_a_pause(our_engine, tmp_path, monkeypatch):
    kill_engine(our_engine)
    (tmp_path / "dockerd").write_text("#!/bin/sh\necho no space left on device; exit 1\n")
    said = io.StringIO()
    guard = engine.Guard(our_engine)
    guard.look(Progress(said.write))
    guard.look(Progress(said.write))
    assert said.getvalue().count("the disk is full") == 1
    (tmp_path / "dockerd").write_text("#!/bin/sh\necho up; exec sleep 60\n")
    monkeypatch.setattr(guard, "_due", 0.0)
    guard.look(Progress(said.write))
    assert len(daemons.started(our_engine)) == 1


def test_an_engine_that_never_started_has_not_died(tmp_path, monkeypatch):
    script = tmp_path / "dockerd"
    script.write_text("#!/bin/sh\necho 'mount: operation not permitted'; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(daemons, "DOCKER_PID_FILE", tmp_path / "docker.pid")
    monkeypatch.setattr(daemons, "_accepts", lambda path: True)
    folder = tmp_path / "engine"
    with pytest.raises(engine.EngineUnavailable, match="lacks privileges"):
        daemons.start(folder, QUIET, answers=lambda: False)
    first = (folder / "dockerd.log").stat().st_ino

    said = io.StringIO()
    engine.Guard(folder).look(Progress(said.write))

    assert said.getvalue() == ""
    assert (folder / "dockerd.log").stat().st_ino == first, "it was not tried again"


def test_an_engine_that_dies_while_the_disk_is_full_is_started_once_there_is_room(our_engine, monkeypatch):
    kill_engine(our_engine)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = io.StringIO()
    guard = engine.Guard(our_engine)
    for what, verb in ((subprocess, "Popen"), (Path, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(what, verb, full)
            patch.setattr(guard, "_due", 0.0)
            guard.look(Progress(said.write))
            guard.look(Progress(said.write))
    assert said.getvalue().count("No space left on device") == 2, "after a pause each"
    monkeypatch.setattr(guard, "_due", 0.0)
    guard.look(Progress(said.write))
    assert len(daemons.started(our_engine)) == 1


@pytest.mark.parametrize("text", ["", '{"dockerd": [12', "null", '{"dockerd": 12}', "\udcff"])
def test_a_record_that_cannot_be_read_is_said_once_and_taken_as_empty(our_engine, text, caplog):
    (daemon,) = daemons.started(our_engine)
    whole = (our_engine / "started.json").read_text()
    (our_engine / "started.json").write_text(text, errors="surrogateescape")
    guard = engine.Guard(our_engine)
    for _ in range(3):
        guard.look(QUIET)
    assert caplog.text.count("can't be read") == 1

    (our_engine / "started.json").write_text(whole)
    kill_engine(our_engine)
    guard.look(QUIET)
    assert daemons.started(our_engine) != [daemon]


def test_a_record_is_whole_or_the_one_before(our_engine, monkeypatch):
    before = (our_engine / "started.json").read_text()

    def dies(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            daemons.forget_dead(our_engine)
    assert (our_engine / "started.json").read_text() == before


def test_output_that_nobody_takes_ends_no_work(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    Progress().say("It goes on.")


def test_a_pid_file_that_names_somebody_else_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(daemons, "DOCKER_PID_FILE", tmp_path / "docker.pid")
    (tmp_path / "docker.pid").write_text(str(os.getpid()))
    assert not daemons._runs_already()
    assert not (tmp_path / "docker.pid").exists()


def test_what_the_engines_configuration_says_is_not_said_again(tmp_path, monkeypatch):
    monkeypatch.setattr(daemons, "DAEMON_JSON", tmp_path / "daemon.json")
    assert "--live-restore" in daemons._dockerd_options()
    (tmp_path / "daemon.json").write_text(json.dumps({"live-restore": False}))
    assert "--live-restore" not in daemons._dockerd_options()


def test_an_engine_that_was_asked_for_and_does_not_answer_is_not_replaced_by_another(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(engine.EngineUnavailable, match="DOCKER_HOST"):
        engine.ensure_engine(Progress(io.StringIO().write))


def test_a_user_without_root_is_told_how_to_get_an_engine(monkeypatch):
    monkeypatch.setattr(engine, "find_engine", lambda: None)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(engine, "find_program", lambda name: None)
    with pytest.raises(engine.EngineUnavailable, match="only root can install it") as caught:
        engine.ensure_engine(Progress(io.StringIO().write))
    assert "Install Docker" in caught.value.advice


def test_the_portals_redis_is_private():
    argv = redis.command()
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert (options["--port"], options["--unixsocketperm"]) == ("0", "700")


def test_a_redis_elsewhere_is_not_started_here():
    with override_settings(REDIS_URL="redis://redis.example.com:6379/0"):
        assert "redis" not in [program.name for program in portal_programs()]


def test_there_are_as_many_workers_as_the_settings_say():
    with override_settings(OCORE_WORKERS=3):
        names = [program.name for program in portal_programs()]
    assert names == ["redis", "web", "worker.1", "worker.2", "worker.3", "urgent", "chores", "slow", "reports", "clock"]


@pytest.mark.parametrize("bind", ["8000", "localhost", "http://localhost:8000", "localhost:8000/x", ":8000"])
def test_an_address_to_listen_on_has_a_host_and_a_port(bind):
    with pytest.raises(ValueError):
        web.address(bind)


def test_a_taken_address_is_said_before_anything_starts():
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with (
            override_settings(OCORE_WEB_BIND=f"127.0.0.1:{other.getsockname()[1]}"),
            pytest.raises(web.WebUnavailable, match="Address already in use"),
        ):
            web.refuse_taken_address()


def test_a_containerd_that_dies_while_dockerd_starts_is_started_too(our_engine, monkeypatch):
    """dockerd waits for it, and whoever waited for dockerd alone would wait in vain."""
    kill_engine(our_engine)
    (our_engine.parent / "containerd").write_text("#!/bin/sh\nexec sleep 60\n")
    (our_engine.parent / "containerd").chmod(0o755)
    alive = iter([True, False])
    monkeypatch.setattr(daemons, "_accepts", lambda path: next(alive, True))
    monkeypatch.setattr(engine, "_answers", lambda: len(daemons.started(our_engine)) == 2)
    engine.Guard(our_engine).look(QUIET)
    assert len(daemons.started(our_engine)) == 2
