"""The Docker driver against a real engine."""

import io
import json
import threading
import time
from pathlib import Path

import docker
import pytest
from django.conf import settings

from instances.runtimes.base import (
    NAMESPACE_LABEL,
    BuildFailed,
    ContainerSpec,
    File,
    ImageMissing,
    RunFailed,
    ServerSpec,
    ServerUnreachable,
)
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.images import DockerImages
from instances.runtimes.docker.inventory import everything_of, remove_everything

pytestmark = pytest.mark.real

NAMESPACE = "ocore-test-driver"
SPEC = ServerSpec("this machine", namespace=NAMESPACE)
MB = 1024**2


class Cancelled(Exception):
    pass


@pytest.fixture(scope="module")
def engine():
    return Engine(SPEC)


@pytest.fixture(scope="module")
def images(engine):
    return DockerImages(SPEC, engine)


@pytest.fixture(scope="module")
def image(images):
    return images.ensure_base(settings.OCORE_EDGE_IMAGE, lambda _: None).reference


@pytest.fixture(scope="module", autouse=True)
def nothing_stays(engine):
    remove_everything(engine.api, NAMESPACE)
    yield
    remove_everything(engine.api, NAMESPACE)
    assert not everything_of(engine.api, NAMESPACE)


@pytest.fixture
def containers(engine):
    containers = DockerContainers(SPEC, engine)
    yield containers
    for container in containers.list({}):
        containers.remove(container.name)


def sh(image, script, name="ocore-test-driver-run", **more):
    return ContainerSpec(name=name, image=image, entrypoint=["sh", "-c", script, "sh"], **more)


def sleeper(image, name, **more):
    return sh(image, "trap 'exit 0' TERM; while :; do sleep 0.1; done", name=name, **more)


def quiet(_text):
    pass


SOON = {"timeout": 20, "silence": 20}


def wait_for(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def foreign(engine, image, name, **more):
    """Somebody else's container, which inherits our image's labels."""
    engine.api.create_container(image, ["sleep", "60"], name=name, **more)
    engine.api.start(name)


class TestRun:
    def test_output_arrives_while_it_runs_and_the_exit_code_at_its_end(self, containers, image):
        arrivals = []
        script = "echo one; sleep 0.6; echo two >&2; sleep 0.3; printf three; exit 7"
        spec = sh(image, script)
        done = containers.run(
            spec, lambda text: text and arrivals.append((time.monotonic(), text)), timeout=30, silence=10
        )

        assert done.code == 7
        assert done.output == "one\ntwo\nthree"
        assert "".join(text for _, text in arrivals) == "one\ntwo\nthree\n"
        assert arrivals[1][0] - arrivals[0][0] > 0.4
        assert containers.find(spec.name) is None

    def test_only_the_last_64_kb_are_kept_but_all_is_logged(self, containers, image):
        seen = []
        done = containers.run(sh(image, "seq 1 40000"), seen.append, timeout=60, silence=30)

        assert "".join(seen).splitlines() == [str(number) for number in range(1, 40001)]
        assert len(done.output) == 64 * 1024
        assert done.output.endswith("40000\n")

    @pytest.mark.parametrize(
        ("script", "timeout", "silence", "says"),
        [
            ("while :; do echo busy; sleep 0.1; done", 1, 10, "took longer than 1 seconds"),
            ("echo begin; sleep 60", 30, 1, "said nothing for 1 seconds"),
        ],
    )
    def test_past_a_deadline_it_is_killed_and_removed(self, containers, image, script, timeout, silence, says):
        began = time.monotonic()
        with pytest.raises(RunFailed, match=says) as caught:
            containers.run(sh(image, script), quiet, timeout=timeout, silence=silence)

        assert time.monotonic() - began < 10
        assert caught.value.detail.startswith(("busy", "begin"))
        assert containers.find("ocore-test-driver-run") is None

    @pytest.mark.parametrize("script", ["while :; do echo busy; sleep 0.1; done", "sleep 60"])
    def test_a_log_that_raises_kills_and_removes_it_even_when_it_is_silent(self, containers, image, script):
        calls = []

        def log(text):
            calls.append(text)
            if len(calls) == 2:
                raise Cancelled

        began = time.monotonic()
        with pytest.raises(Cancelled):
            containers.run(sh(image, script), log, timeout=60, silence=60)

        assert time.monotonic() - began < 8
        assert containers.find("ocore-test-driver-run") is None

    def test_what_an_interrupted_run_left_is_replaced(self, containers, image):
        containers.create(sleeper(image, "ocore-test-driver-run"))
        containers.start("ocore-test-driver-run")

        assert containers.run(sh(image, "echo fresh"), quiet, timeout=30, silence=10).output == "fresh\n"

    def test_an_image_that_is_not_there_is_said_to_be_missing(self, containers):
        with pytest.raises(ImageMissing, match="ocore-test-driver/none:1"):
            containers.run(sh("ocore-test-driver/none:1", "true"), quiet, timeout=30, silence=10)

    def test_running_out_of_memory_is_seen(self, containers, image):
        spec = sh(
            image,
            "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
            name="ocore-test-driver-oom",
            memory_bytes=32 * MB,
        )
        containers.create(spec)
        containers.start(spec.name)
        deadline = time.monotonic() + 20
        while containers.find(spec.name).running and time.monotonic() < deadline:
            time.sleep(0.1)

        assert containers.find(spec.name).out_of_memory


class TestHardening:
    def test_every_container_is_hardened_and_labelled(self, containers, engine, image):
        spec = sleeper(image, "ocore-test-driver-hard", memory_bytes=64 * MB, pids=77, restart=True)
        containers.create(spec)
        containers.start(spec.name)
        raw = engine.api.inspect_container(spec.name)
        host = raw["HostConfig"]

        status = containers.exec(spec.name, ["cat", "/proc/1/status"]).output
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (64 * MB, 64 * MB, 77)
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert raw["Config"]["Labels"][NAMESPACE_LABEL] == NAMESPACE
        assert host["NetworkMode"] == "none"

    def test_only_the_capabilities_asked_for_are_given_back(self, containers, image):
        spec = sh(image, "grep CapEff /proc/1/status", capabilities=["CHOWN"])
        assert containers.run(spec, quiet, timeout=30, silence=10).output == "CapEff:\t0000000000000001\n"

    def test_files_are_there_with_owner_and_mode_and_not_in_what_inspect_shows(self, containers, engine, image):
        file = File("/etc/odoo/secret.conf", b"hunter2\n", mode=0o440, uid=101, gid=102)
        spec = sh(
            image, "stat -c '%u %g %a' /etc/odoo/secret.conf; cat /etc/odoo/secret.conf", files=[file], user="101:102"
        )
        containers.create(spec)
        raw = json.dumps(engine.api.inspect_container(spec.name))

        assert "hunter2" not in raw
        assert containers.run(spec, quiet, timeout=30, silence=10).output == "101 102 440\nhunter2\n"

    def test_an_empty_entrypoint_makes_the_command_the_whole_argv(self, containers, images, tmp_path, image):
        (tmp_path / "Dockerfile").write_text(f'FROM {image}\nENTRYPOINT ["echo", "from the image"]\n')
        images.build("ocore-test-driver/entry:1", tmp_path, {}, quiet, timeout=60, silence=30)
        spec = ContainerSpec(
            "ocore-test-driver-run", "ocore-test-driver/entry:1", entrypoint=(), command=("echo", "a b")
        )
        assert containers.run(spec, quiet, timeout=30, silence=10).output == "a b\n"


class TestCreate:
    def test_the_same_spec_twice_makes_one_container(self, containers, image):
        spec = sleeper(image, "ocore-test-driver-same", environment={"A": "1"})
        first = containers.create(spec)
        containers.start(spec.name)
        containers.start(spec.name)
        second = containers.create(spec)

        assert second.id == first.id
        assert second.running
        assert second.started_at is not None
        assert second.exit_code is None

    def test_another_content_replaces_it_unless_it_runs(self, containers, image):
        name = "ocore-test-driver-other"
        first = containers.create(sleeper(image, name, environment={"A": "1"}))
        second = containers.create(sleeper(image, name, environment={"A": "2"}))
        containers.start(name)

        assert second.id != first.id
        with pytest.raises(RunFailed, match="another configuration"):
            containers.create(sleeper(image, name, environment={"A": "3"}))
        assert containers.find(name).id == second.id

    def test_two_threads_that_create_it_at_once_get_the_same(self, containers, image):
        spec = sleeper(image, "ocore-test-driver-race")
        got = []
        threads = [threading.Thread(target=lambda: got.append(containers.create(spec).id)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert len(got) == 4
        assert len(set(got)) == 1

    @pytest.mark.parametrize("state", ["exited", "paused", "running"])
    def test_one_that_somebody_starts_after_the_look_is_not_removed(
        self, containers, engine, image, monkeypatch, state
    ):
        spec = sh(image, "sleep 60", f"ocore-test-driver-{state}")
        containers.create(spec)
        if state != "exited":
            containers.start(spec.name)
        if state == "paused":
            engine.api.pause(spec.name)
        look = containers._owned

        def then_it_is_started(name):
            found = look(name)
            if state == "exited":
                engine.api.start(name)
            return found

        monkeypatch.setattr(containers, "_owned", then_it_is_started)
        containers.remove(spec.name, unless_running=True)
        monkeypatch.undo()

        found = containers.find(spec.name)
        assert (found and found.running) == (None if state == "paused" else True)
        containers.remove(spec.name)

    def test_stop_and_remove_are_idempotent_and_keep_named_volumes(self, containers, engine, image):
        spec = sh(
            image, "echo kept > /data/file; sleep 60", "ocore-test-driver-vol", volumes={"ocore-test-driver-v": "/data"}
        )
        containers.create(spec)
        containers.start(spec.name)
        for _ in range(2):
            containers.stop(spec.name, 0)
        assert containers.find(spec.name).state == "exited"
        for _ in range(2):
            containers.remove(spec.name)
            containers.stop(spec.name)

        assert containers.find(spec.name) is None
        assert engine.api.inspect_volume("ocore-test-driver-v")["Labels"] == {NAMESPACE_LABEL: NAMESPACE}
        reader = sh(image, "cat /data/file", volumes={"ocore-test-driver-v": "/data"})
        assert containers.run(reader, quiet, timeout=30, silence=10).output == "kept\n"
        for _ in range(2):
            containers.remove_volume("ocore-test-driver-v")
        assert containers.find_volume("ocore-test-driver-v") is None

    def test_anonymous_volumes_go_with_their_container(self, containers, engine, images, tmp_path, image):
        (tmp_path / "Dockerfile").write_text(f"FROM {image}\nVOLUME /anonymous\n")
        images.build("ocore-test-driver/volume:1", tmp_path, {}, quiet, timeout=60, silence=30)
        containers.create(sleeper("ocore-test-driver/volume:1", "ocore-test-driver-anon"))
        [mount] = engine.api.inspect_container("ocore-test-driver-anon")["Mounts"]
        containers.remove("ocore-test-driver-anon")

        assert containers.find_volume(mount["Name"]) is None

    def test_logs_are_the_last_lines(self, containers, image):
        spec = sh(image, "seq 1 50", name="ocore-test-driver-logs")
        containers.create(spec)
        containers.start(spec.name)
        deadline = time.monotonic() + 10
        while containers.find(spec.name).running and time.monotonic() < deadline:
            time.sleep(0.05)

        assert containers.logs(spec.name, 2) == "49\n50\n"
        assert containers.logs("ocore-test-driver-none") == ""
        assert containers.find(spec.name).exit_code == 0


class TestGate:
    """What it loads is loaded before its turn has come."""

    @staticmethod
    def spec(image, **more):
        script = "echo loaded; while ! [ -e /tmp/gate ]; do sleep 0.05; done; echo began; exit 3"
        return sh(image, script, name="ocore-test-driver-gate", gate="/tmp/gate", **more)

    def test_what_is_ready_waits_until_it_is_started(self, containers, image):
        spec = self.spec(image)
        containers.create(spec)
        containers.get_ready(spec.name)
        containers.get_ready(spec.name)
        wait_for(lambda: containers.logs(spec.name) == "loaded\n")
        time.sleep(0.3)
        assert containers.find(spec.name).running
        containers.start(spec.name)
        wait_for(lambda: containers.find(spec.name).exit_code == 3)
        assert containers.logs(spec.name) == "loaded\nbegan\n"
        containers.start(spec.name)
        wait_for(lambda: containers.logs(spec.name).count("began") == 2)

    def test_started_at_once_it_does_not_wait(self, containers, image):
        spec = self.spec(image)
        containers.create(spec)
        containers.start(spec.name)
        wait_for(lambda: containers.find(spec.name).exit_code == 3)

    @pytest.mark.parametrize("loaded", [True, False])
    def test_a_run_goes_on_with_what_is_ready(self, containers, image, loaded):
        spec = self.spec(image)
        containers.create(spec)
        if loaded:
            containers.get_ready(spec.name)
            wait_for(lambda: "loaded" in containers.logs(spec.name))
            identity = containers.find(spec.name).id
        said = []
        ended = containers.run(
            spec, lambda text: said.append(text) or (loaded and self.same(containers, spec, identity)), **SOON
        )
        assert ended.code == 3
        assert "began" in ended.output
        assert containers.find(spec.name) is None

    @staticmethod
    def same(containers, spec, identity):
        found = containers.find(spec.name)
        assert found is None or found.id == identity

    @pytest.mark.parametrize("left", ["under way", "of another content"])
    def test_a_run_replaces_what_is_not_waiting_for_it(self, containers, image, left):
        containers.create(self.spec(image, environment={"OTHER": "1"} if left == "of another content" else {}))
        containers.get_ready("ocore-test-driver-gate")
        wait_for(lambda: "loaded" in containers.logs("ocore-test-driver-gate"))
        before = containers.find("ocore-test-driver-gate").id
        if left == "under way":
            containers.exec("ocore-test-driver-gate", ["touch", "/tmp/gate"])
        ids = set()
        ended = containers.run(self.spec(image), lambda _: ids.update(one.id for one in containers.list({})), **SOON)
        assert ended.code == 3
        assert before not in ids


class TestExec:
    @pytest.fixture
    def name(self, containers, image):
        spec = sleeper(image, "ocore-test-driver-exec")
        containers.create(spec)
        containers.start(spec.name)
        return spec.name

    def test_it_returns_output_and_exit_code_and_passes_the_environment(self, containers, name):
        done = containers.exec(name, ["sh", "-c", 'echo "$WORD"; echo bad >&2; exit 3'], environment={"WORD": "a b"})
        assert (done.code, sorted(done.output.splitlines())) == (3, ["a b", "bad"])

    def test_it_fails_past_its_deadline(self, containers, name):
        began = time.monotonic()
        with pytest.raises(RunFailed, match=r"took longer than 1 seconds|said nothing for 1 seconds"):
            containers.exec(name, ["sleep", "20"], timeout=1)
        assert time.monotonic() - began < 5

    def test_streams_are_told_apart_and_standard_input_is_given(self, containers, name):
        out, err = io.BytesIO(), io.BytesIO()
        code = containers.exec_stream(
            name, ["sh", "-c", "cat; echo e >&2"], out.write, err.write, stdin=b"x" * 50_000, timeout=20
        )
        assert (code, out.getvalue(), err.getvalue()) == (0, b"x" * 50_000, b"e\n")

    def test_large_output_arrives_whole(self, containers, name):
        out = io.BytesIO()
        containers.exec_stream(name, ["head", "-c", "30000000", "/dev/zero"], out.write, out.write, timeout=60)
        assert len(out.getvalue()) == 30_000_000

    def test_a_program_that_is_not_there_is_an_exit_code(self, containers, name):
        assert containers.exec(name, ["no-such-program"]).code in {126, 127}

    def test_threads_do_not_get_each_others_answers(self, containers, name):
        got = {}

        def ask(word):
            got[word] = containers.exec(name, ["echo", word]).output

        threads = [threading.Thread(target=ask, args=(f"word-{number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert got == {f"word-{number}": f"word-{number}\n" for number in range(6)}

    def test_in_a_container_that_does_not_run_it_fails(self, containers, name):
        containers.stop(name, 0)
        with pytest.raises(RunFailed, match="could not run echo"):
            containers.exec(name, ["echo"])


class TestEdgeNetwork:
    @pytest.fixture(autouse=True)
    def networks(self, containers):
        for network in (NAMESPACE, f"{NAMESPACE}-edge"):
            containers.ensure_network(network)
            containers.ensure_network(network)

    def address(self, containers, name):
        return containers.exec(name, ["hostname", "-I"]).output.split()

    def test_the_alias_is_moved_from_the_old_container_to_the_new_one(self, containers, image):
        for name in ("ocore-test-driver-blue", "ocore-test-driver-green"):
            containers.create(sleeper(image, name, network=NAMESPACE))
            containers.start(name)
        containers.create(sleeper(image, "ocore-test-driver-eye", network=f"{NAMESPACE}-edge"))
        containers.start("ocore-test-driver-eye")

        def seen():
            return containers.exec("ocore-test-driver-eye", ["getent", "hosts", "acme"]).output.split()[:1]

        assert seen() == []
        for _ in range(2):
            containers.join_edge("ocore-test-driver-blue", "acme")
        assert seen()[0] in self.address(containers, "ocore-test-driver-blue")
        for _ in range(2):
            containers.leave_edge("ocore-test-driver-blue")
        containers.join_edge("ocore-test-driver-green", "other")
        assert seen() == []
        containers.join_edge("ocore-test-driver-green", "acme")

        assert seen()[0] in self.address(containers, "ocore-test-driver-green")
        assert containers.find("ocore-test-driver-blue").networks == (NAMESPACE,)
        assert containers.find("ocore-test-driver-green").networks == (NAMESPACE, f"{NAMESPACE}-edge")


class TestOwnership:
    NAME = "ocore-test-driver-foreign"

    @pytest.fixture
    def theirs(self, engine, images, image, tmp_path):
        """Somebody runs an image of ours, with its inherited labels, and has a volume and a network."""
        (tmp_path / "Dockerfile").write_text(f"FROM {image}\n")
        images.build("ocore-test-driver/ours:1", tmp_path, {}, quiet, timeout=60, silence=30)
        foreign(engine, "ocore-test-driver/ours:1", self.NAME)
        engine.api.create_volume("ocore-test-foreign-v")
        yield
        engine.api.remove_container(self.NAME, force=True)
        engine.api.remove_volume("ocore-test-foreign-v")

    def test_what_is_not_ours_is_refused(self, containers, images, theirs, image):
        for attempt in (
            lambda: containers.create(sleeper(image, self.NAME)),
            lambda: containers.start(self.NAME),
            lambda: containers.stop(self.NAME),
            lambda: containers.remove(self.NAME),
            lambda: containers.exec(self.NAME, ["true"]),
            lambda: containers.leave_edge(self.NAME),
            lambda: containers.run(sh(image, "true", name=self.NAME), quiet, timeout=10, silence=10),
            lambda: containers.create(sleeper(image, "ocore-test-driver-x", volumes={"ocore-test-foreign-v": "/x"})),
            lambda: containers.remove_volume("ocore-test-foreign-v"),
            lambda: containers.ensure_network("bridge"),
        ):
            with pytest.raises(RunFailed, match="left alone"):
                attempt()
        with pytest.raises(RunFailed, match="stays"):
            images.remove(image)
        assert containers.find(self.NAME) is None
        assert containers.list({}) == []

    def test_removing_everything_removes_ours_and_nothing_else(self, containers, engine, images, theirs, image):
        containers.ensure_network(NAMESPACE)
        containers.create(
            sleeper(image, "ocore-test-driver-a", network=NAMESPACE, volumes={"ocore-test-driver-v": "/v"})
        )
        containers.start("ocore-test-driver-a")
        engine.api.tag("ocore-test-driver/ours:1", "ocore-test-foreign/theirs", "1")
        before = everything_of(engine.api, NAMESPACE)
        said = []
        left = remove_everything(engine.api, NAMESPACE, say=said.append)

        assert before.containers == ["ocore-test-driver-a"]
        assert "ocore-test-driver/ours:1" in before.images
        assert before.volumes == ["ocore-test-driver-v"]
        assert NAMESPACE in before.networks
        assert "container ocore-test-driver-a removed" in said
        assert not left
        assert not everything_of(engine.api, NAMESPACE).containers
        assert engine.api.inspect_container(self.NAME)["State"]["Running"]
        assert engine.api.inspect_image("ocore-test-foreign/theirs:1")
        assert images.find(image) is not None
        engine.api.remove_container(self.NAME, force=True)
        engine.api.remove_image("ocore-test-foreign/theirs:1")
        foreign(engine, image, self.NAME)


class TestBuild:
    REFERENCE = "ocore-test-driver/built:1"

    def folder(self, tmp_path: Path, image: str, *lines: str) -> Path:
        (tmp_path / "Dockerfile").write_text("\n".join([f"FROM {image}", *lines]) + "\n")
        return tmp_path

    def intermediate(self, engine: Engine) -> list:
        return [
            container["Id"]
            for container in engine.api.containers(all=True)
            if "ocore-test-marker" in str(container["Command"])
        ]

    def test_an_image_is_labelled_and_its_lines_are_logged(self, images, image, tmp_path):
        seen = []
        folder = self.folder(tmp_path, image, "RUN echo hello from the build")
        labels = {"io.ocore.commit": "abc", "io.ocore.title": 'Ünter "quotes" \\ $HOME'}
        built = images.build(self.REFERENCE, folder, labels, seen.append, timeout=60, silence=30)

        assert "hello from the build\n" in seen
        assert {key: built.labels[key] for key in labels} == labels
        assert built.labels[NAMESPACE_LABEL] == NAMESPACE
        assert images.find(self.REFERENCE).id == built.id
        for _ in range(2):
            images.remove(self.REFERENCE)
        assert images.find(self.REFERENCE) is None

    @pytest.mark.parametrize(
        ("line", "timeout", "silence", "says", "detail"),
        [
            ("RUN echo ocore-test-marker; echo because; exit 9", 60, 30, "failed", "because"),
            ("RUN echo ocore-test-marker; sleep 60", 60, 1.5, "said nothing for 1.5", "ocore-test-marker"),
            (
                "RUN while :; do echo ocore-test-marker; sleep 0.1; done",
                2,
                30,
                "took longer than 2",
                "ocore-test-marker",
            ),
            ("NONSENSE", 60, 30, "could not be built|failed", "NONSENSE"),
        ],
    )
    def test_a_failure_tells_the_last_lines_and_leaves_no_container(
        self, images, engine, image, tmp_path, line, timeout, silence, says, detail
    ):
        with pytest.raises(BuildFailed, match=says) as caught:
            images.build(
                self.REFERENCE, self.folder(tmp_path, image, line), {}, quiet, timeout=timeout, silence=silence
            )

        assert detail in caught.value.detail
        assert images.find(self.REFERENCE) is None
        self.assert_nothing_stays(engine)

    @pytest.mark.parametrize(
        "line", ["RUN while :; do echo ocore-test-marker; sleep 0.1; done", "RUN : ocore-test-marker; sleep 60"]
    )
    def test_a_log_that_raises_stops_it_even_when_it_is_silent(self, images, engine, image, tmp_path, line):
        calls = []

        def log(text):
            calls.append(text)
            if "" in calls or len(calls) > 20:
                raise Cancelled

        began = time.monotonic()
        with pytest.raises(Cancelled):
            images.build(self.REFERENCE, self.folder(tmp_path, image, line), {}, log, timeout=60, silence=60)

        assert time.monotonic() - began < 15
        self.assert_nothing_stays(engine)

    def assert_nothing_stays(self, engine):
        deadline = time.monotonic() + 15
        while self.intermediate(engine) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.intermediate(engine) == []

    def test_a_second_build_of_the_same_is_quick(self, images, image, tmp_path):
        folder = self.folder(tmp_path, image, "RUN sleep 1")
        first = images.build(self.REFERENCE, folder, {}, quiet, timeout=60, silence=30)
        began = time.monotonic()
        second = images.build(self.REFERENCE, folder, {}, quiet, timeout=60, silence=30)

        assert second.id == first.id
        assert time.monotonic() - began < 0.9


def test_an_engine_that_does_not_answer_is_unreachable(tmp_path):
    spec = ServerSpec("far away", endpoint=f"unix://{tmp_path}/docker.sock", namespace=NAMESPACE)
    engine = Engine(spec)
    for attempt in (
        lambda: DockerContainers(spec, engine).find("any"),
        lambda: DockerImages(spec, engine).find("any:1"),
        lambda: DockerImages(spec, engine).build("any:1", tmp_path, {}, quiet, timeout=5, silence=5),
    ):
        with pytest.raises(ServerUnreachable, match="far away"):
            attempt()


def test_the_servers_facts_are_the_engines():
    from instances.runtimes.docker import DockerRuntime

    runtime = DockerRuntime(SPEC)
    info = docker.APIClient().info()
    facts = runtime.facts()
    from_a_container = DockerRuntime(ServerSpec("this machine", "tcp://elsewhere", NAMESPACE))
    from_a_container._containers.engine = from_a_container._images.engine = runtime.engine

    assert facts.engine == f"Docker {info['ServerVersion']}"
    assert (facts.cpus, facts.memory_bytes) == (info["NCPU"], info["MemTotal"])
    assert abs(from_a_container._free_bytes(Path("/")) - facts.disk_free_bytes) < 500 * MB
