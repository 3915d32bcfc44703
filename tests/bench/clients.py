"""Clients of an Odoo, in a process of their own: each request starts at its time, whatever became of earlier ones.

`python -m tests.bench.clients` reads what to ask as a line of JSON, goes on until its standard input ends, waits for
the answers that are still out, and prints what became of each request. A wait counts from the instant at which a
request was to start: what is late here, because the machine is busy, is a client's wait too.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from django.conf import settings

PATIENCE = 120.0
"""Seconds after which a client gives up."""
MOST = 20_000
"""Requests, after which it stops by itself."""
LEAD = 2.0
"""Seconds of quiet traffic before and after what is measured."""


@dataclass(frozen=True)
class Aim:
    """Whom to ask, as whom, and how often."""

    port: int
    host: str
    cookie: str
    """Of a session that is logged in."""
    prefix: str
    """Of the writes' titles: what the ledger goes by."""
    per_second: float


@dataclass(frozen=True)
class Request:
    kind: str
    title: str
    """Of a write; empty for a read."""
    started: float
    """When it was to start; seconds since the first one."""
    seconds: float
    """From then to the end of its answer, or to its failure."""
    ok: bool
    said: str
    """The status, or why there is none."""


@dataclass
class Seen:
    """What clients saw."""

    requests: list[Request] = field(default_factory=list)

    @property
    def accepted(self) -> list[str]:
        """Titles of the writes that were answered with success."""
        return [one.title for one in self.requests if one.ok and one.title]

    @property
    def failed(self) -> list[Request]:
        return [one for one in self.requests if not one.ok]


@contextmanager
def at_work(aim: Aim) -> Iterator[Seen]:
    """From before the block until after it; complete when it has been left."""
    seen = Seen()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.clients"],
        cwd=Path(settings.BASE_DIR),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is ours to pass on
    )
    try:
        assert process.stdin
        process.stdin.write(json.dumps(asdict(aim)) + "\n")
        process.stdin.flush()
        time.sleep(LEAD)
        yield seen
        time.sleep(LEAD)
        told, _ = process.communicate(timeout=PATIENCE + 10)
        seen.requests += [Request(**one) for one in json.loads(told)]
    finally:
        process.kill()
        process.wait()


def longest_wait(requests: Sequence[Request]) -> float:
    """For how long a client that keeps asking got nothing, at most: from a request's start, or from the first of those
    that failed in a row, to the end of the next success. Seconds."""
    longest, since = 0.0, None
    for one in sorted(requests, key=lambda one: one.started):
        since = one.started if since is None else since
        if one.ok:
            longest = max(longest, one.started + one.seconds - since)
            since = None
    return longest


@dataclass(frozen=True)
class Question:
    kind: str
    title: str
    content: bytes
    status: str
    proof: bytes = b""
    """What an answer that means success has in it."""


def question(aim: Aim, number: int) -> Question:
    """Half of them write, a quarter read a page, a quarter read as a program does that is logged in."""
    kind = ("write", "page", "write", "json")[number % 4]
    if kind == "page":
        return Question(kind, "", _http(aim, "GET /web/login"), "200", b"oe_login_form")
    if kind == "write":
        title = f"{aim.prefix}-{number}"
        return Question(kind, title, _http(aim, "POST /acme_notes/post", json.dumps({"title": title})), "201")
    call = {"model": "acme.note", "method": "search_count", "args": [[["title", "=", aim.prefix]]], "kwargs": {}}
    body = json.dumps({"jsonrpc": "2.0", "params": call})
    cookie = f"Cookie: session_id={aim.cookie}"
    return Question(kind, "", _http(aim, "POST /web/dataset/call_kw", body, cookie), "200", b'"result"')


def _http(aim: Aim, line: str, body: str = "", *headers: str) -> bytes:
    about = ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    lines = [f"{line} HTTP/1.1", f"Host: {aim.host}", "Connection: close", *about, *headers]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


def judge(asked: Question, answer: bytes) -> tuple[bool, str]:
    """Was it answered with success, and with what."""
    status = answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "no answer"
    if status != asked.status:
        return False, status
    if not _is_whole(answer):
        return False, f"{status}, cut off"
    return asked.proof in answer, status if asked.proof in answer else f"{status}, but not what was asked for"


async def _talk(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read(-1)
    finally:
        writer.close()


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) == int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n") if b"chunked" in head.lower() else bool(head)


async def _keep_asking(aim: Aim, over: asyncio.Event) -> list[Request]:
    began = time.monotonic()
    found: list[Request] = []

    async def one(number: int, due: float) -> None:
        asked = question(aim, number)
        try:
            async with asyncio.timeout(PATIENCE):
                ok, said = judge(asked, await _talk(aim.port, asked.content))
        except (OSError, TimeoutError) as error:
            ok, said = False, type(error).__name__
        found.append(Request(asked.kind, asked.title, due, time.monotonic() - began - due, ok, said))

    async with asyncio.TaskGroup() as asked:
        for number in range(MOST):
            due = number / aim.per_second
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            if over.is_set():
                break
            asked.create_task(one(number, due))
    return found


async def _main() -> None:
    aim = Aim(**json.loads(sys.stdin.readline()))
    over, loop = asyncio.Event(), asyncio.get_running_loop()

    def listen() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=listen, daemon=True).start()
    found = await _keep_asking(aim, over)
    sys.stdout.write(json.dumps([asdict(one) for one in found]))


if __name__ == "__main__":
    asyncio.run(_main())
