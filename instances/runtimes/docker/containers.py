"""Containers on one engine: made from a spec, run to their end, spoken to, stopped and removed; only ours."""

import builtins
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from docker.errors import APIError, DockerException, NotFound

from instances.runtimes.base import (
    NAMESPACE_LABEL,
    Container,
    ContainerSpec,
    Exit,
    File,
    ImageMissing,
    Log,
    RunFailed,
    ServerSpec,
    ServerUnreachable,
)
from instances.runtimes.docker import container_config
from instances.runtimes.docker.client import NO_ANSWER, Engine
from instances.runtimes.docker.hijacked import Conversation, Pulse, Sink
from instances.runtimes.docker.ownership import GATE_LABEL, SPEC_LABEL, our_container
from instances.runtimes.docker.stores import CONFLICT, DockerStores
from instances.runtimes.docker.streams import DeadlinePassed, Lines

REMOVAL_SECONDS = 30
APPEARING_SECONDS = 5
LOOK_SECONDS = 5.0
"""Of silence, after which it is looked whether there is still a process that could say something."""
BACK_SECONDS = 10
"""So long an engine that died is waited for before what it ran is left to whoever looks next."""
NEVER_STARTED_BY_US = frozenset({"paused", "restarting"})
"""The engine takes these for running ones, and removes them by force only."""


class DockerContainers(DockerStores):
    def __init__(self, spec: ServerSpec, engine: Engine) -> None:
        super().__init__(spec, engine)
        self.edge_network = f"{spec.namespace}-edge"

    def find(self, name: str) -> Container | None:
        """Ours of that name; another's is not found, and `create` says that its name is taken."""
        raw = self._inspect(name)
        return container_config.container(raw) if raw and self._ours(raw) else None

    def list(self, labels: Mapping[str, str]) -> builtins.list[Container]:
        wanted = {**labels, NAMESPACE_LABEL: self.spec.namespace}
        filters = {"label": [f"{key}={value}" for key, value in wanted.items()]}
        with self.engine.translated("list its containers"):
            ids = [str(raw["Id"]) for raw in self.engine.api.containers(all=True, filters=filters)]
        found = [raw for raw in (self._inspect(identity) for identity in ids) if raw and self._ours(raw)]
        return sorted((container_config.container(raw) for raw in found), key=lambda container: container.name)

    def _inspect(self, name: str) -> dict[str, Any] | None:
        with self.engine.translated(f"look for the container {name}"):
            try:
                raw: dict[str, Any] = self.engine.api.inspect_container(name)
            except NotFound:
                return None
        # The engine also finds by the beginning of an id.
        return raw if name in {raw["Name"].lstrip("/"), raw["Id"]} else None

    def _ours(self, raw: dict[str, Any]) -> bool:
        return our_container(raw["Name"], raw["Config"].get("Labels"), self.spec.namespace)

    def _owned(self, name: str) -> Container | None:
        """Ours, or None where there is none. Raises `RunFailed` for another's."""
        raw = self._inspect(name)
        if raw is None:
            return None
        if not self._ours(raw):
            raise self._refuse("container", name)
        return container_config.container(raw)

    def _required(self, name: str) -> Container:
        container = self._owned(name)
        if container is None:
            raise RunFailed(f"There is no container {name} on {self.engine.name}.")
        return container

    def create(self, spec: ContainerSpec) -> Container:
        """As `Containers.create`. One of that name and the same content is taken as it is; another content replaces it
        unless it runs (`RunFailed`). Without a network it gets none at all."""
        present = self._owned(spec.name)
        if present and present.labels.get(SPEC_LABEL) != container_config.fingerprint(spec):
            if present.running:
                raise RunFailed(
                    f"The container {spec.name} runs on {self.engine.name} with another configuration.",
                    advice="Stop it first; then it is made anew.",
                )
            self.remove(spec.name)
            present = None
        if present is None:
            for volume in spec.volumes:
                self.ensure_volume(volume)
            self._make(spec)
            present = self._required(spec.name)
        if spec.files and present.state == "created":
            self._put(spec.name, spec.files)
        return present

    def _put(self, name: str, files: Sequence[File]) -> None:
        with self.engine.translated(f"put files into the container {name}"):
            self.engine.api.put_archive(name, "/", container_config.archive(files))

    def _make(self, spec: ContainerSpec) -> None:
        api = self.engine.api
        attempt = f"create the container {spec.name}"
        with self.engine.translated(attempt):
            arguments = container_config.arguments(api, spec, self.spec.namespace)
            try:
                self.engine.settle(
                    attempt,
                    lambda: api.create_container(**arguments),
                    lambda: self._owned(spec.name) is not None,
                )
            except RunFailed as error:
                cause = error.__cause__
                if isinstance(cause, APIError) and cause.status_code == CONFLICT and self._appears(spec.name):
                    return  # another process was faster
                if isinstance(cause, NotFound) and "image" in error.detail.lower():
                    raise ImageMissing(
                        f"The image {spec.image} is not on {self.engine.name}.", detail=error.detail
                    ) from error
                raise

    def _appears(self, name: str) -> bool:
        """A name is taken a moment before its container can be found."""
        deadline = time.monotonic() + APPEARING_SECONDS
        while self._owned(name) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def get_ready(self, name: str) -> None:
        container = self._required(name)
        if GATE_LABEL in container.labels and container.state == "created":
            self._run(name)

    def start(self, name: str) -> None:
        gate = self._required(name).labels.get(GATE_LABEL)
        if gate:
            self._put(name, [File(gate, b"", mode=0o444)])
        self._run(name)

    def _run(self, name: str) -> None:
        self.engine.settle(
            f"start the container {name}", lambda: self.engine.api.start(name), lambda: self._required(name).running
        )

    def stop(self, name: str, seconds: int = 30) -> None:
        """Asked to end, killed after `seconds`. A container that isn't there is stopped."""
        if self._owned(name) is None:
            return
        try:
            self.engine.settle(
                f"stop the container {name}",
                lambda: self.engine.api.stop(name, timeout=seconds),
                lambda: self._stopped(name),
            )
        except RunFailed as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def _stopped(self, name: str) -> bool:
        container = self._owned(name)
        return container is None or not container.running

    def remove(self, name: str, *, unless_running: bool = False) -> None:
        """Kill and remove, with the anonymous volumes that its image declares; never a named one."""
        container = self._owned(name)
        if container is None or (unless_running and container.running):
            return
        # Without force the engine itself refuses one that has been started since.
        force = not unless_running or container.state in NEVER_STARTED_BY_US
        deadline = time.monotonic() + REMOVAL_SECONDS
        while True:
            with self.engine.translated(f"remove the container {name}"):
                try:
                    self.engine.api.remove_container(container.id, force=force, v=True)
                except NotFound:
                    return
                except NO_ANSWER:
                    if time.monotonic() > deadline:
                        raise
                except APIError as error:  # somebody else is removing it
                    if error.status_code != CONFLICT or time.monotonic() > deadline:
                        raise
            left = self._inspect(container.id)
            if left is None or (not force and left["State"]["Running"]):
                return
            time.sleep(0.1)

    def run(self, spec: ContainerSpec, log: Log, *, timeout: float, silence: float) -> Exit:
        """As `Containers.run`. What an interrupted run left under that name goes first; what was only created, `create`
        judges. While it is silent, `log` gets an empty text every second, so that it can stop it."""
        deadline = time.monotonic() + timeout
        lines = Lines(log)
        looked = 0.0

        def pulse(silent: float) -> None:
            nonlocal looked
            log("")
            looked = min(looked, silent)
            if silent - looked >= LOOK_SECONDS:
                looked = silent
                self._see_alive(spec.name)

        present = self._owned(spec.name)
        if present and present.state != "created" and not self._waits_at_its_gate(present, spec):
            self.remove(spec.name)
        try:
            self.create(replace(spec, restart=False))
            with Conversation.attached(self.engine, spec.name) as conversation:
                self.start(spec.name)
                for _stream, data in conversation.frames(timeout=timeout, silence=silence, pulse=pulse):
                    lines.feed(data)
            lines.end()
            return Exit(self._exit_code(spec.name, deadline, log), lines.kept)
        except DeadlinePassed as error:
            raise RunFailed(
                f"{spec.name} on {self.engine.name} {error} and was killed.", detail=lines.kept[-4000:]
            ) from error
        finally:
            with contextlib.suppress(ServerUnreachable):
                self._remove_once_back(spec.name)

    def _waits_at_its_gate(self, present: Container, spec: ContainerSpec) -> bool:
        if not present.running or present.labels.get(SPEC_LABEL) != container_config.fingerprint(spec):
            return False
        if present.labels.get(GATE_LABEL) is None:
            return False
        with self.engine.translated(f"look at the gate of {present.name}"):
            try:
                stream, _ = self.engine.api.get_archive(present.name, spec.gate)
            except NotFound:
                return True
        stream.close()
        return False

    def _remove_once_back(self, name: str) -> None:
        """Where all went well before the engine went away, nobody would look for it any more."""
        deadline = time.monotonic() + BACK_SECONDS
        while True:
            try:
                self.remove(name)
            except ServerUnreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def _see_alive(self, name: str) -> None:
        """An engine whose containerd was killed may never hear that a container has ended: it runs there for ever,
        without a process. Raises `RunFailed`."""
        try:
            processes = self.engine.api.top(name)["Processes"]
        except (DockerException, *NO_ANSWER):
            return  # it has just ended, or the engine doesn't answer: whoever reads its output hears of both
        if not processes:
            raise RunFailed(f"{name} has ended, but the engine of {self.engine.name} did not notice how.")

    def _exit_code(self, name: str, deadline: float, log: Log) -> int:
        """Its output has ended; so has it, unless the engine itself was restarted meanwhile."""
        pause = 0.01
        while True:
            container = self._required(name)
            if container.exit_code is not None:
                return container.exit_code
            if time.monotonic() > deadline:
                raise DeadlinePassed("went past its deadline")
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
            log("")

    def exec(
        self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Exit:
        output = bytearray()
        exit_ = self.exec_stream(name, argv, output.extend, output.extend, environment=environment, timeout=timeout)
        return Exit(exit_, bytes(output).decode("utf-8", "replace"))

    def exec_stream(
        self,
        name: str,
        argv: Sequence[str],
        stdout: Sink,
        stderr: Sink,
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        user: str = "",
        timeout: float = 60,
        silence: float | None = None,
        pulse: Pulse = lambda _: None,
    ) -> int:
        """The exit code; output goes to the sinks as it comes, which may raise to end it. `stdin` is for kilobytes: it
        is sent whole before anything is read. Past a deadline `RunFailed`; the engine has no way to kill a process
        inside a running container, so that one may go on there."""
        self._required(name)
        attempt = f"run {argv[0]} in the container {name}"
        with self.engine.translated(attempt):
            identity = self.engine.api.exec_create(
                name, list(argv), environment=dict(environment or {}), stdin=stdin is not None, user=user
            )["Id"]
        try:
            with Conversation.executed(self.engine, identity, attempt) as conversation:
                if stdin is not None:
                    conversation.send(stdin)
                frames: Iterable[tuple[int, bytes]] = conversation.frames(
                    timeout=timeout, silence=timeout if silence is None else silence, pulse=pulse
                )
                for stream, data in frames:
                    (stderr if stream == 2 else stdout)(data)
        except DeadlinePassed as error:
            raise RunFailed(f"{argv[0]} in the container {name} on {self.engine.name} {error}.") from error
        return self._exec_code(identity, attempt)

    def _exec_code(self, identity: str, attempt: str) -> int:
        deadline = time.monotonic() + 10
        while True:
            with self.engine.translated(attempt):
                raw = self.engine.api.exec_inspect(identity)
            if not raw["Running"] and raw["ExitCode"] is not None:
                return int(raw["ExitCode"])
            if time.monotonic() > deadline:
                raise RunFailed(f"The engine of {self.engine.name} could not {attempt}: its connection was cut.")
            time.sleep(0.02)

    def logs(self, name: str, lines: int = 200) -> str:
        """The last lines of standard output and error; empty when there is no such container."""
        if self._owned(name) is None:
            return ""
        with self.engine.translated(f"read the log of {name}"):
            raw: bytes = self.engine.api.logs(name, tail=lines, stream=False, follow=False)
        return raw.decode("utf-8", "replace")

    def join_edge(self, name: str, alias: str) -> None:
        raw = self._required_raw(name)
        endpoint = raw["NetworkSettings"]["Networks"].get(self.edge_network)
        if endpoint is not None:
            if alias in (endpoint.get("Aliases") or []):
                return
            self.leave_edge(name)
        api = self.engine.api
        self.engine.settle(
            f"connect {name} to the edge as {alias}",
            lambda: api.connect_container_to_network(name, self.edge_network, aliases=[alias]),
            lambda: self.edge_network in self._required(name).networks,
        )

    def leave_edge(self, name: str) -> None:
        container = self._owned(name)
        if container is None or self.edge_network not in container.networks:
            return
        api = self.engine.api
        self.engine.settle(
            f"disconnect {name} from the edge",
            lambda: api.disconnect_container_from_network(name, self.edge_network, force=True),
            lambda: self.edge_network not in self._required(name).networks,
        )

    def _required_raw(self, name: str) -> dict[str, Any]:
        self._required(name)
        raw = self._inspect(name)
        if raw is None:
            raise RunFailed(f"There is no container {name} on {self.engine.name}.")
        return raw
