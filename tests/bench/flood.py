"""Many requests at once: so many are always out, each over a connection of its own, as git hosts call."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PATIENCE = 120.0


@dataclass(frozen=True)
class Answer:
    status: int
    """0: none."""
    seconds: float
    """From the connection's beginning to the answer's end."""


@dataclass(frozen=True)
class Flood:
    answers: tuple[Answer, ...]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.answers) / self.seconds

    def milliseconds(self) -> tuple[float, ...]:
        return tuple(1000 * one.seconds for one in self.answers)


def flood(port: int, requests: Sequence[bytes], at_once: int) -> Flood:
    began = time.monotonic()
    answers = asyncio.run(_all(port, requests, at_once))
    return Flood(tuple(answers), time.monotonic() - began)


async def _all(port: int, requests: Sequence[bytes], at_once: int) -> list[Answer]:
    left, answers = iter(requests), list[Answer]()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_some(port, left, answers))
    return answers


async def _some(port: int, left: Iterator[bytes], answers: list[Answer]) -> None:
    for request in left:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                status = await _one(port, request)
        except (OSError, TimeoutError):
            status = 0
        answers.append(Answer(status, time.monotonic() - began))


async def _one(port: int, request: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        answer = await reader.read(-1)
    finally:
        writer.close()
    head = answer.split(b" ", 2)
    return int(head[1]) if len(head) > 2 and head[1].isdigit() else 0


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
