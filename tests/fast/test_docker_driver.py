"""What can be shown of the Docker driver without an engine."""

import contextlib
import json
import socket
import struct
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import docker
import pytest
import requests
import urllib3

from instances.runtimes.base import (
    NAMESPACE_LABEL,
    ContainerSpec,
    File,
    Image,
    ImageMissing,
    RunFailed,
    ServerSpec,
    ServerUnreachable,
)
from instances.runtimes.docker import base_images, container_config, debian, leftovers
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.hijacked import Conversation
from instances.runtimes.docker.ownership import our_container, our_image
from instances.runtimes.docker.streams import DeadlinePassed, Lines, watched
from ocore.machine import packages

SPEC = ContainerSpec(
    "acme-odoo",
    "odoo:19.0",
    command=["odoo"],
    environment={"A": "1"},
    files=[File("/etc/odoo/odoo.conf", b"admin_passwd = hunter2\n")],
    network="ocore",
    aliases=["odoo"],
    memory_bytes=1024,
)


class TestDeadlines:
    def read(self, items, **more):
        cuts = []
        limits = {"timeout": 5, "silence": 5, **more}
        return watched(items, lambda: cuts.append(1), **limits), cuts

    def test_items_come_in_order_and_the_connection_is_cut_at_the_end(self):
        stream, cuts = self.read(lambda: iter(range(3000)))
        assert list(stream) == list(range(3000))
        assert cuts == [1]

    def test_silence_has_a_deadline(self):
        release = threading.Event()

        def items():
            yield 1
            release.wait(5)

        stream, cuts = self.read(items, silence=0.1)
        with pytest.raises(DeadlinePassed, match=r"said nothing for 0.1 seconds"):
            list(stream)
        release.set()
        assert cuts == [1]

    def test_talking_does_not_stretch_the_deadline_in_all(self):
        def items():
            while True:
                yield 1
                time.sleep(0.01)

        stream, cuts = self.read(items, timeout=0.2)
        with pytest.raises(DeadlinePassed, match=r"took longer than 0.2 seconds"):
            list(stream)
        assert cuts == [1]

    def test_the_first_answer_may_have_a_deadline_of_its_own(self):
        release = threading.Event()

        def items():
            release.wait(5)
            yield 1

        stream, _ = self.read(items, first=0.05, silence=60)
        with pytest.raises(DeadlinePassed, match=r"0.05"):
            list(stream)
        release.set()

    def test_what_the_reading_raises_is_raised_to_the_consumer(self):
        def items():
            yield 1
            raise OSError("gone")

        stream, cuts = self.read(items)
        assert next(stream) == 1
        with pytest.raises(OSError, match="gone"):
            next(stream)
        assert cuts == [1]

    def test_a_consumer_that_raises_cuts_the_connection(self):
        stream, cuts = self.read(lambda: iter(range(10)))
        with contextlib.suppress(KeyError), contextlib.closing(stream):
            next(stream)
            raise KeyError
        assert cuts == [1]

    def test_a_silent_stream_can_be_stopped_by_its_pulse(self, monkeypatch):
        monkeypatch.setattr("instances.runtimes.docker.streams.PULSE_SECONDS", 0.02)
        release = threading.Event()

        def items():
            release.wait(5)
            yield 1

        def pulse(silent):
            if silent > 0.05:
                raise KeyError

        stream, cuts = self.read(items, pulse=pulse)
        with pytest.raises(KeyError):
            next(stream)
        release.set()
        assert cuts == [1]


class TestLines:
    def test_only_whole_lines_are_logged_and_characters_are_not_torn(self):
        seen = []
        lines = Lines(seen.append)
        for piece in (b"one\ntw", "o é".encode()[:-1], "é\n€".encode()[1:-1], "€".encode()[-1:]):
            lines.feed(piece)
        lines.end()

        assert seen == ["one\n", "two é\n", "€\n"]
        assert lines.kept == "one\ntwo é\n€"

    def test_only_the_end_is_kept(self):
        lines = Lines(lambda _: None, keep=10)
        for _ in range(100):
            lines.feed(b"0123456789\n")
        assert lines.kept == "123456789\n"[-10:]


class TestContainerConfig:
    @pytest.fixture
    def api(self):
        return docker.APIClient(base_url="tcp://127.0.0.1:1", version="1.41")

    def test_every_container_is_hardened(self, api):
        host = container_config.arguments(api, SPEC, "ours")["host_config"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] == host["MemorySwap"] == 1024
        assert host["PidsLimit"] == 512
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}

    def test_a_files_content_reaches_neither_configuration_nor_labels(self, api):
        arguments = container_config.arguments(api, SPEC, "ours")
        assert "hunter2" not in json.dumps(arguments, default=str)
        assert b"hunter2" in container_config.archive(SPEC.files)

    @pytest.mark.parametrize(
        "change",
        [
            {"environment": {"A": "2"}},
            {"files": [File("/etc/odoo/odoo.conf", b"admin_passwd = other\n")]},
            {"files": [File("/etc/odoo/odoo.conf", b"admin_passwd = hunter2\n", uid=101)]},
            {"memory_bytes": 2048},
            {"command": ["odoo", "-u", "base"]},
        ],
    )
    def test_any_change_of_content_is_seen(self, change):
        assert container_config.fingerprint(replace(SPEC)) == container_config.fingerprint(SPEC)
        assert container_config.fingerprint(replace(SPEC, **change)) != container_config.fingerprint(SPEC)


class TestOwnership:
    def test_inherited_labels_make_nothing_ours(self):
        image = {NAMESPACE_LABEL: "ocore", "io.ocore.image": "ocore/acme:1"}
        assert our_image("ocore/acme:1", image, "ocore")
        assert our_image("ocore/acme:1", image, None)
        assert not our_image("theirs/built-on-it:1", image, "ocore")
        assert not our_image("ocore/acme:1", image, "another")
        assert not our_container("/theirs", image, "ocore")
        assert not our_container("/copy", {**image, "io.ocore.container": "acme-odoo"}, "ocore")
        assert our_container("/acme-odoo", {**image, "io.ocore.container": "acme-odoo"}, "ocore")
        assert not our_container("/any", None, None)


class TestMirror:
    ONE_LINE = (
        "# deb http://comment.example/debian bookworm main\n"
        "deb [signed-by=/etc/k.gpg arch=amd64] http://third.example/repo bookworm-third main\n"
        "deb-src http://source.example/debian bookworm main\n"
        "deb [ arch=amd64 ] http://mirror.example/debian bookworm main contrib # note\n"
    )
    DEB822 = (
        "Types: deb\nURIs: http://node.example/x\nSuites: nodistro\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n\n"
        "Types: deb deb-src\n# a comment\nURIs: http://deb822.example/debian\nSuites: bookworm\n bookworm-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n"
    )

    @pytest.fixture
    def etc(self, tmp_path):
        (tmp_path / "apt/sources.list.d").mkdir(parents=True)
        (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
        return tmp_path

    def test_it_is_read_from_one_line_sources(self, etc):
        (etc / "apt/sources.list").write_text(self.ONE_LINE)
        assert debian.mirror(etc) == "http://mirror.example/debian"

    def test_it_is_read_from_deb822_sources(self, etc):
        (etc / "apt/sources.list.d/debian.sources").write_text(self.DEB822)
        assert debian.mirror(etc) == "http://deb822.example/debian"

    def test_a_file_of_mirrors_gives_its_first(self, etc):
        (etc / "mirrors.list").write_text("https://first.example/debian\nhttps://second.example/debian\n")
        (etc / "apt/sources.list").write_text(f"deb mirror+file://{etc}/mirrors.list bookworm main\n")
        assert debian.mirror(etc) == "https://first.example/debian"

    def test_without_one_or_without_debian_it_says_so(self, etc):
        with pytest.raises(ImageMissing, match="No Debian mirror"):
            debian.mirror(etc)
        (etc / "os-release").write_text("ID=fedora\n")
        with pytest.raises(ImageMissing, match="not Debian"):
            debian.mirror(etc)

    @pytest.fixture
    def bare(self, monkeypatch):
        """A machine on which mmdebstrap isn't."""
        monkeypatch.setattr(debian, "mirror", lambda: "http://mirror.example/debian")
        monkeypatch.setattr(packages, "find_program", lambda name: None)
        monkeypatch.setattr(packages, "installed", lambda name: False)
        monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}")

    def test_without_mmdebstrap_it_installs_it_where_it_may(self, bare, monkeypatch, tmp_path):
        asked, said = [], []
        monkeypatch.setattr(packages, "may_install", lambda: True)
        monkeypatch.setattr(packages, "_install", lambda names, progress: asked.append(names))
        with pytest.raises(ImageMissing, match="No base image can be built"):  # it isn't there afterwards either
            debian.make_root(tmp_path / "root.tar", said.append, lambda _: None)
        assert asked == [["mmdebstrap"]]
        assert "Installing mmdebstrap" in said[0]

    def test_without_mmdebstrap_and_the_right_to_install_it_says_what_to_run(self, bare, monkeypatch, tmp_path):
        monkeypatch.setattr(packages, "may_install", lambda: False)
        with pytest.raises(ImageMissing) as caught:
            debian.make_root(tmp_path / "root.tar", lambda _: None, lambda _: None)
        assert "apt-get install --no-install-recommends mmdebstrap" in caught.value.advice


class FakeEngine:
    name = "this machine"


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


class TestConversation:
    @pytest.fixture
    def hasty(self, tmp_path):
        """An engine whose process has ended before anybody reads: its output comes in one piece with the headers."""
        path = tmp_path / "engine.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"Detach" not in request:
                    request += connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
                    + frame(1, b"170004,t\n")
                    + frame(2, b"NOTICE")
                )

        server = threading.Thread(target=serve)
        server.start()
        yield path
        server.join()
        listener.close()

    def test_what_a_fast_process_said_is_not_lost(self, hasty):
        class Hasty(FakeEngine):
            def connect(self):
                return docker.APIClient(base_url=f"unix://{hasty}", version="1.41")

            def translated(self, _):
                return contextlib.nullcontext()

        with Conversation.executed(Hasty(), "abc", "try") as conversation:
            said = list(conversation.frames(timeout=5, silence=5, pulse=lambda _: None))

        assert said == [(1, b"170004,t\n"), (2, b"NOTICE")]


class FakeImages:
    def __init__(self, *images):
        self.engine = FakeEngine()
        self.there = {image.reference: image for image in images}
        self.discarded = []

    def find(self, reference):
        return self.there.get(reference)

    def discard(self, identity):
        self.discarded.append(identity)


class TestEnsureBase:
    @pytest.fixture
    def builds(self, monkeypatch, settings, tmp_path):
        settings.STATE_DIR = tmp_path
        built = []

        def build(images, reference, recipe, log):
            built.append(reference)
            time.sleep(0.05)
            labels = {base_images.BASE_LABEL: recipe.name, base_images.RECIPE_LABEL: recipe.fingerprint}
            images.there[reference] = Image(reference, f"built-{len(built)}", 1, labels)
            return images.there[reference]

        monkeypatch.setattr(base_images, "_build", build)
        monkeypatch.setattr(base_images, "_pull", lambda *_: "no such host")
        return built

    def test_four_who_ask_at_once_cause_one_build(self, builds):
        images = FakeImages()
        got = []
        threads = [
            threading.Thread(target=lambda: got.append(base_images.ensure_base(images, "odoo:19.0", lambda _: None).id))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

        assert builds == ["odoo:19.0"]
        assert got == ["built-1"] * 4

    def test_an_image_of_an_older_recipe_is_built_anew_and_a_registrys_is_not(self, builds):
        old = Image("odoo:19.0", "old", 1, {base_images.BASE_LABEL: "odoo", base_images.RECIPE_LABEL: "older"})
        images = FakeImages(old, Image("postgres:17", "official"))

        assert base_images.ensure_base(images, "odoo:19.0", lambda _: None).id == "built-1"
        assert images.discarded == ["old"]
        assert base_images.ensure_base(images, "postgres:17", lambda _: None).id == "official"

    def test_the_registry_comes_before_the_recipe(self, builds, monkeypatch):
        images = FakeImages()

        def pull(images, reference, log):
            images.there[reference] = Image(reference, "pulled")

        monkeypatch.setattr(base_images, "_pull", pull)
        assert base_images.ensure_base(images, "odoo:19.0", lambda _: None).id == "pulled"
        assert builds == []

    def test_what_nobody_has_is_missing_with_what_was_tried(self, builds):
        with pytest.raises(ImageMissing) as caught:
            base_images.ensure_base(FakeImages(), "acme/odoo:19.0", lambda _: None)
        assert "no such host" in caught.value.detail

    @pytest.mark.parametrize(
        ("reference", "recipe"),
        [
            ("odoo:19.0", ("odoo", {"MAJOR": "19"})),
            ("odoo:18", ("odoo", {"MAJOR": "18"})),
            ("postgres:17", ("postgres", {"MAJOR": "17"})),
            ("caddy:2.11", ("edge", {})),
            ("caddy:2", ("edge", {})),
        ],
    )
    def test_these_have_a_recipe(self, reference, recipe):
        found = base_images.recipe_for(reference)
        assert found is not None
        assert (found.name, found.arguments) == recipe

    @pytest.mark.parametrize(
        "reference", ["odoo:saas-18.1", "caddy:2.6", "caddy:1", "acme/odoo:19.0", "postgres:latest", ""]
    )
    def test_these_have_none(self, reference):
        assert base_images.recipe_for(reference) is None


class Dying:
    """An engine that goes away during a build, and is back after a while."""

    def __init__(self, absent: int) -> None:
        self.name, self.absent = "this machine", absent
        self.left = [{"Id": "layer", "State": "created"}]
        self.api = self

    translated = Engine.translated

    def containers(self, **_):
        self.absent -= 1
        if self.absent >= 0:
            raise requests.exceptions.ConnectionError("gone")
        return list(self.left)

    def remove_container(self, identity, **_):
        self.left.clear()

    def images(self, **_):
        return []


class TestDeathOfTheEngine:
    def test_a_stream_that_breaks_off_is_no_bug(self):
        with (
            pytest.raises(ServerUnreachable, match="does not answer"),
            Engine(ServerSpec("this machine")).translated("build"),
        ):
            raise urllib3.exceptions.ProtocolError("Connection broken")

    def test_what_its_build_has_left_goes_once_it_is_back(self):
        engine = Dying(absent=3)
        with pytest.raises(ServerUnreachable), leftovers.swept(engine, "ocore"):
            raise ServerUnreachable("gone")
        assert not engine.left

    def test_a_helper_that_had_done_its_work_is_removed_once_it_is_back(self, monkeypatch):
        containers = DockerContainers(ServerSpec("this machine"), Engine(ServerSpec("this machine")))
        answers = iter([ServerUnreachable("gone"), ServerUnreachable("gone"), None])
        asked = []

        def remove(name):
            asked.append(name)
            if error := next(answers):
                raise error

        monkeypatch.setattr(containers, "remove", remove)
        containers._remove_once_back("helper")
        assert asked == ["helper"] * 3

    def test_one_that_stays_away_is_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(leftovers, "ENDING_SECONDS", 0.1)
        with pytest.raises(ServerUnreachable, match="first"), leftovers.swept(Dying(absent=1000), "ocore"):
            raise ServerUnreachable("first")


class TestLostProcess:
    """An engine whose containerd was killed shows a container as running that has ended."""

    @pytest.fixture
    def containers(self, monkeypatch):
        made = object.__new__(DockerContainers)
        made.engine = SimpleNamespace(name="this machine", api=SimpleNamespace(top=lambda name: {"Processes": None}))
        for verb in ("create", "start", "remove"):
            monkeypatch.setattr(made, verb, lambda *_, **__: None)
        monkeypatch.setattr(made, "_owned", lambda name: None)

        @contextlib.contextmanager
        def attached(engine, name):
            def frames(*, timeout, silence, pulse):
                yield 1, b"first\n"
                pulse(1.0)
                pulse(6.0)
                raise AssertionError("it would wait for ever")

            yield SimpleNamespace(frames=frames)

        monkeypatch.setattr("instances.runtimes.docker.containers.Conversation.attached", attached)
        return made

    def test_what_has_no_process_any_more_is_not_waited_for(self, containers):
        said = []
        with pytest.raises(RunFailed, match="has ended, but the engine of this machine did not notice"):
            containers.run(SPEC, said.append, timeout=100, silence=100)
        assert said[0] == "first\n"

    def test_what_has_one_may_be_silent(self, containers):
        containers.engine.api.top = lambda name: {"Processes": [["1", "odoo"]]}
        with pytest.raises(AssertionError, match="for ever"):
            containers.run(SPEC, lambda _: None, timeout=100, silence=100)

    def test_an_engine_that_does_not_say_is_not_believed_to_have_lost_it(self, containers):
        def silent(name):
            raise docker.errors.APIError("not running")

        containers.engine.api.top = silent
        containers._see_alive("acme-odoo")
