"""The raw connection on which an engine passes a process's input and output."""

import contextlib
import io
import socket
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import docker

from instances.runtimes.base import ServerUnreachable
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.streams import watched

Sink = Callable[[bytes], object]
Pulse = Callable[[float], None]
HEADER = struct.Struct(">BxxxL")
"""Of a frame: which stream, and how many bytes follow."""


class Conversation:
    """Has a connection of its own, since it is cut off when its reader has enough."""

    def __init__(self, engine: Engine, attempt: str, opened: Callable[[docker.APIClient], Any]) -> None:
        self._engine = engine
        self._attempt = attempt
        self._api = engine.connect()
        with engine.translated(attempt):
            self._stream = opened(self._api)

    @classmethod
    def attached(cls, engine: Engine, container: str) -> Self:
        """To what a container will say from now on."""
        params = {"stdout": 1, "stderr": 1, "stream": 1}
        return cls(engine, f"attach to {container}", lambda api: api.attach_socket(container, params))

    @classmethod
    def executed(cls, engine: Engine, identity: str, attempt: str) -> Self:
        return cls(engine, attempt, lambda api: api.exec_start(identity, socket=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    @property
    def _socket(self) -> socket.socket:
        found: socket.socket = getattr(self._stream, "_sock", self._stream)
        return found

    def send(self, data: bytes) -> None:
        """All of standard input."""
        with self._engine.translated(self._attempt):
            self._socket.sendall(data)
            self._socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._api.close()

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """The SDK reads from the socket, past the buffer with which the answer's headers were read: whatever a fast
        process said came with these, and would be lost."""
        response = getattr(self._stream, "_response", None)
        reader = response.raw._fp.fp if response is not None else io.BufferedReader(self._stream)
        while len(header := reader.read(HEADER.size)) == HEADER.size:
            stream, length = HEADER.unpack(header)
            yield stream, reader.read(length)

    def frames(self, *, timeout: float, silence: float, pulse: Pulse) -> Iterator[tuple[int, bytes]]:
        """(1 for standard output, 2 for error; bytes). Raises `DeadlinePassed`."""
        try:
            yield from watched(self._read, self.cut, timeout=timeout, silence=silence, pulse=pulse)
        except OSError as error:
            raise ServerUnreachable(
                f"The engine of {self._engine.name} went away (trying to {self._attempt}).", detail=str(error)
            ) from error
