"""Is this Odoo really serving its database? Asked from inside its container, without a port or a tool of its own."""

import json
import re
from collections.abc import Sequence

from instances.runtimes.base import Answer

from .config import HTTP_PORT

PROBE = """
import http.client, json, socket, sys, time
port, host, timeout, patience = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])

def wait():
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.03)

def ask(path):
    started = time.monotonic()
    answer = {"status": 0, "body": "", "seconds": 0.0, "location": ""}
    cookies = {}
    try:
        follow(path, answer, cookies)
    except (OSError, http.client.HTTPException) as error:
        answer["body"] = type(error).__name__ + ": " + str(error)
    answer["seconds"] = round(time.monotonic() - started, 3)
    form = "oe_login_form" in answer["body"]
    answer["body"] = answer["body"][:4000] + ("\\n[...] oe_login_form" if form else "")
    return answer

def follow(path, answer, cookies):
    for hop in range(4):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        headers = {"Host": host, "User-Agent": "oCore", "X-Forwarded-Host": host, "X-Forwarded-Proto": "http"}
        if cookies:
            headers["Cookie"] = "; ".join("=".join(pair) for pair in cookies.items())
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read(400000).decode("utf-8", "replace")
        location = response.getheader("Location") or ""
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                cookies[key.strip()] = rest.partition(";")[0]
        answer.update(status=response.status, body=body, location=location)
        for scheme in ("http://", "https://"):
            if location.startswith(scheme + host + "/"):
                location = location[len(scheme + host):]
        database = location.startswith("/web/database")
        if response.status not in (301, 302, 303, 307, 308) or not location.startswith("/") or database:
            break
        path = location

wait()
for path in sys.argv[5:]:
    answer = ask(path)
    print("ocore-probe " + json.dumps(answer), flush=True)
    if answer["status"] != 200:
        break
"""
"""Prints a line for each path, up to the first that isn't answered with 200. The body is cut, except for the mark that
tells a login page. Follows what stays on the host, as a browser would; not to the database manager, which is an answer
in itself."""

LOGIN_PATH = "/web/login"
LOGIN_FORM = "oe_login_form"
"""A class in the page of every version, kept by website and by themes, and not in the database manager."""


def probe(
    *paths: str, host: str = "localhost", port: int = HTTP_PORT, timeout: float = 10, patience: float = 0
) -> Sequence[str]:
    """The argv to run in the container; `host` is the name that clients use. `timeout` is of each answer, `patience`
    how long it first waits for somebody to listen; seconds."""
    return ("python3", "-c", PROBE, str(port), host, str(timeout), str(patience), *paths)


def parse_probe(output: str) -> list[Answer]:
    """What the probe saw, an answer for each path that it came to; when it did not run at all, one of status 0 with
    what was printed instead."""
    try:
        seen = [json.loads(line.removeprefix("ocore-probe ")) for line in output.splitlines() if _is_answer(line)]
        answers = [
            Answer(int(one["status"]), str(one["body"]), float(one["seconds"]), str(one["location"])) for one in seen
        ]
    except (ValueError, KeyError, TypeError):
        answers = []
    return answers or [Answer(0, f"The probe did not answer: {output.strip()[-500:]}")]


def _is_answer(line: str) -> bool:
    return line.startswith("ocore-probe ")


def judge(answers: Sequence[Answer]) -> list[str]:
    """Problems with the answers to the health path and, where that was well, to the login page."""
    health, *login = answers
    return judge_health(health) or [problem for answer in login for problem in judge_login(answer)]


def judge_health(answer: Answer) -> list[str]:
    """Problems with the answer to the health path, which says only that a process listens and can serve pages."""
    if answer.ok:
        return []
    if not answer.status:
        return [f"Odoo does not answer yet: {answer.body.strip()[:300]}"]
    return [f"Odoo answers its health path with {answer.status} instead of 200: {_excerpt(answer.body)}"]


def judge_login(answer: Answer) -> list[str]:
    """Problems with the answer to `/web/login`, which can only be rendered with the database's registry loaded.

    A redirect to another host is taken as good: single sign-on does that, from within the database's own code.
    """
    if not answer.status:
        return [f"Odoo does not answer yet: {answer.body.strip()[:300]}"]
    if "/web/database" in answer.location:
        return ["Odoo shows its database selector: it finds no database of this name, or its filter excludes it."]
    if 300 <= answer.status < 400:
        if answer.location.startswith(("http://", "https://")):
            return []
        return [f"The login page redirects in circles, last to {answer.location or 'nowhere'}."]
    if not answer.ok:
        return [f"The login page answers {answer.status} instead of 200: {_excerpt(answer.body)}"]
    if LOGIN_FORM not in answer.body:
        return [f"The login page has no login form: {_excerpt(answer.body)}"]
    return []


def _excerpt(page: str) -> str:
    text = " ".join(re.sub(r"<(style|script|title)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL).split())
    return text[:300] or "(an empty page)"
