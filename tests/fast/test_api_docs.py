"""What docs/api.md shows is run against a live server, and what it lists is what there is."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.utils import timezone

from deployments import tokens
from deployments.api import api
from deployments.api.caller import PERMISSIONS
from deployments.api.gate import MOST_BYTES
from deployments.api.problems import KINDS
from deployments.models import Deployment, LogChunk, Step
from deployments.states import Status, StepKind
from tests import factories
from tests.api import secret, user

DOCS = Path(settings.BASE_DIR) / "docs"
PAGE = (DOCS / "api.md").read_text()
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCED.findall(PAGE)
SHELL = [(text, BLOCKS[at + 1 : at + 2]) for at, (kind, text) in enumerate(BLOCKS) if kind == "sh"]


def test_every_operation_is_listed_with_its_verb_and_no_other() -> None:
    listed = dict(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|.*\| (?:`(\w+)`|none) \|$", PAGE, re.MULTILINE))
    paths = api.get_openapi_schema()["paths"]
    assert set(listed) == {
        f"{m.upper()} {path.removeprefix('/api/v1')}" for path, found in paths.items() for m in found
    }
    acts = {"deploy": "deployments", "roll_back": "rollback", "lock": "lock", "cancel": "cancel", "read": ""}
    for call, verb in listed.items():
        if not call.startswith("GET"):
            assert call.endswith(acts[verb])
        elif call != "GET /token":
            assert verb == "read"


def test_every_kind_of_problem_is_explained() -> None:
    told = {(int(status), kind) for status, kind in re.findall(r"^\| (\d{3}) \| `([\w-]+)` \|", PAGE, re.MULTILINE)}
    assert told == {(status, kind) for status, (kind, _) in KINDS.items()} | {(422, "key-reused")}
    assert f"{MOST_BYTES // 1024} KiB" in PAGE


def test_every_verb_is_explained_with_the_permission_that_it_needs() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| `?([\w. ]+?)`? \|$", PAGE, re.MULTILINE))
    assert table == {verb.value: PERMISSIONS.get(verb, "to view that kind of thing") for verb in tokens.Verb}


def test_the_example_asks_again_and_reads_the_last_answer_only(tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, Any]]] = [
        (503, {"status": 503}),
        (201, {"id": 7, "url": "x", "waits_for": ""}),
        (200, {"parts": [{"text": "built\n"}], "next_offset": 1, "more": False, "final": True}),
        (200, {"id": 7, "status": "rolled_back", "error": "Broken", "advice": ""}),
    ]

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = told.pop(0)
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        environment = {"PATH": os.environ["PATH"], "OCORE_URL": url, "OCORE_TOKEN": "t", "TMPDIR": str(tmp_path)}
        script = str(DOCS / "examples" / "deploy-and-wait.sh")
        done = subprocess.run(["sh", script, "acme", "production"], env=environment, capture_output=True, text=True)
        server.shutdown()
    assert (done.returncode, told) == (2, []), done.stderr
    assert done.stdout.splitlines() == ["#7 x ", "built", "#7 rolled_back Broken "]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.fixture
def here(transactional_db: None, queues: Any, live_server: Any) -> dict[str, str]:
    """Acme's production, where something was live before, and the shell's environment for who calls."""
    environment = factories.environment(branch="")
    for content in "ab":
        last = factories.deployment(environment, live_at=timezone.now(), content=content, ref="")
    Deployment.objects.filter(pk=last.pk).update(live=True)
    token = secret(user("ada"), environment.project, name="CI of acme")
    path = os.environ["PATH"]
    return {"PATH": path, "OCORE_URL": live_server.url, "OCORE_TOKEN": token, "OCORE_POLL": "0.05", "no_proxy": "*"}


def test_the_examples_do_what_the_page_says(here: dict[str, str]) -> None:
    assert len(SHELL) > 7
    (prelude, _), *examples = SHELL
    for text, (after,) in examples:
        done = subprocess.run(
            ["sh", "-euc", prelude + text], env=here, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        if after[0] == "json":
            assert set(documents(done.stdout)[-1]) == set(json.loads(after[1])), text


def documents(text: str) -> list[Any]:
    """JSON that stands one behind the other."""
    found = []
    while text := text.lstrip():
        one, end = json.JSONDecoder().raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


def while_it_runs(argv: list[str], where: Path, env: dict[str, str], meanwhile: Callable[[], None]) -> Any:
    process = subprocess.Popen(argv, cwd=where, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        try:
            out, _ = process.communicate(timeout=0.05)
        except subprocess.TimeoutExpired:
            meanwhile()
        else:
            return process.returncode, out
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize(("status", "code"), [(Status.SUCCEEDED, 0), (Status.ROLLED_BACK, 2)])
def test_the_job_of_a_ci_system_ends_as_the_deployment_ended(
    here: dict[str, str], tmp_path: Path, status: Status, code: int
) -> None:
    (workflow,) = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
    (step,) = [one for one in workflow["jobs"]["production"]["steps"] if "run" in one]
    assert set(step["env"]) == {"OCORE_URL", "OCORE_TOKEN"}
    shutil.copy(DOCS / "examples" / "deploy-and-wait.sh", tmp_path)

    def be_the_worker() -> None:
        for one in Deployment.objects.filter(status=Status.QUEUED):
            LogChunk.objects.create(step=Step.objects.create(deployment=one, kind=StepKind.BUILD), text="Building\n")
            Deployment.objects.filter(pk=one.pk).update(status=status, error="Because.", finished_at=timezone.now())

    run = step["run"].replace('"$GITHUB_SHA"', "")  # Acme has no repository here
    ended, out = while_it_runs(["sh", "-euc", run], tmp_path, here | {"GITHUB_RUN_ID": "7"}, be_the_worker)

    assert ended == code, out
    assert "Building\n" in out
    assert f"{status} Because." in out
    assert here["OCORE_TOKEN"] not in out


def test_the_job_says_why_it_was_refused(here: dict[str, str]) -> None:
    script = str(DOCS / "examples" / "deploy-and-wait.sh")
    done = subprocess.run(
        ["sh", script, "acme", "nowhere"], env=here, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "urn:ocore:problem:not-found" in done.stderr
