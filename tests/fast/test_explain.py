"""`manage.py explain`: how a delivery reads, and what it would cause."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.models import Delivery, Deployment
from projects.hosts import HOSTS, Unreadable
from projects.models import Environment, Project
from tests import factories
from tests.conftest import Queues

OLD, NEW = "1" * 40, "2" * 40
BODY = {
    "ref": "refs/heads/main",
    "before": OLD,
    "after": NEW,
    "forced": True,
    "pusher": {"name": "ann"},
    "repository": {"full_name": "acme/addons", "clone_url": "https://git.example.com/acme/addons.git"},
}


def explain(tmp_path: Path, body: Any, *arguments: str, provider: str = "github") -> tuple[dict[str, Any], int]:
    """What it prints, and its exit code."""
    file = tmp_path / "body"
    file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    return run(provider, str(file), *arguments)


def run(*arguments: str) -> tuple[dict[str, Any], int]:
    said, code = io.StringIO(), 0
    try:
        call_command("explain", *arguments, stdout=said)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return json.loads(said.getvalue()), code


def test_a_push_is_told_in_the_words_of_every_host(tmp_path: Path) -> None:
    told, code = explain(tmp_path, BODY, "--header", "X-GitHub-Event: push", "--header", "X-GitHub-Delivery: d-1")

    assert code == 0
    assert told == {
        "provider": "github",
        "event": "push",
        "kind": "push",
        "changes": [
            {
                "kind": "push",
                "ref": "refs/heads/main",
                "ref_type": "branch",
                "name": "main",
                "before": OLD,
                "after": NEW,
                "head_sha": NEW,
                "created": False,
                "deleted": False,
                "forced": True,
            }
        ],
        "urls": ["https://git.example.com/acme/addons.git"],
        "repo_full_name": "acme/addons",
        "pusher": "ann",
        "delivery_id": "d-1",
    }


def test_without_the_header_the_shape_tells_the_event(tmp_path: Path) -> None:
    assert explain(tmp_path, BODY)[0]["kind"] == "push"
    assert explain(tmp_path, b"\xef\xbb\xbf" + json.dumps(BODY).encode())[0]["kind"] == "push"


@pytest.mark.parametrize("body", [b"", b"[", b"\xff\x00", b"[]", b"[" * 100_000, b'{"ref": 1, "after": "x"}'])
@pytest.mark.parametrize("provider", list(HOSTS))
def test_what_cannot_be_read_is_an_error_and_exit_code_1(tmp_path: Path, body: bytes, provider: str) -> None:
    told, code = explain(tmp_path, body, provider=provider)

    assert ("error" in told, code) in ((True, 1), (False, 0))
    assert body.startswith(b"{") or code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("nobody", "/nonexistent"),
        ("github", "/nonexistent"),
        ("github", "/"),
        ("github", "a\x00b"),
        ("github", __file__, "--header", "no colon"),
    ],
)
def test_a_wrong_argument_is_an_error_in_json_too(arguments: tuple[str, ...]) -> None:
    told, code = run(*arguments)

    assert (list(told), code) == (["error"], 1)


def test_the_body_may_come_through_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(BODY).encode())))

    assert run("github", "-")[0]["kind"] == "push"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(HOSTS)), st.binary(max_size=200), st.text(max_size=30))
def test_whatever_the_bytes_are_it_prints_json(tmp_path: Path, provider: str, body: bytes, header: str) -> None:
    told, code = explain(tmp_path, body, f"--header={header}", provider=provider)

    assert code == ("error" in told)


@pytest.fixture
def production(queues: Queues) -> Environment:
    project = factories.project(repository_url="https://git.example.com/acme/addons.git")
    return factories.environment(project=project)


@pytest.mark.django_db
def test_with_a_project_it_says_what_would_be_deployed_and_why_the_rest_not(
    tmp_path: Path, production: Environment
) -> None:
    factories.environment(name="Staging", slug="staging", branch="staging", kind="staging")

    told, code = explain(tmp_path, BODY, "--project", "acme")

    assert (code, told["verdict"], told["reason"]) == (0, "accepted", "Queued: acme/production.")
    assert told["signature"]["verdict"] == "unknown"
    assert told["environments"] == [{"environment": "acme/production", "verdict": "accepted", "reason": "Queued."}]
    assert told["not"] == [
        {
            "environment": "acme/staging",
            "ref": "refs/heads/main",
            "reason": "Its branch is staging, and none of its rules matches main.",
        }
    ]
    assert not Delivery.objects.exists()
    assert not Deployment.objects.exists()


@pytest.mark.django_db
def test_the_signature_is_checked_where_headers_are_given(tmp_path: Path, production: Environment) -> None:
    body, headers = HOSTS["github"].sample(production.project.webhook_secret, "d-1")
    lines = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]

    right, _ = explain(tmp_path, body, *lines, "--project", "acme")
    wrong, _ = explain(tmp_path, body + b" ", *lines, "--project", "acme")
    stranger, _ = explain(tmp_path, body, "--project", "acme", provider="gitlab")

    assert (right["signature"]["verdict"], right["kind"]) == ("right", "ping")
    assert (wrong["signature"]["verdict"], wrong["verdict"]) == ("refused", "refused")
    assert stranger["signature"]["reason"] == "Acme takes webhooks of GitHub, and of nobody else."
    assert production.project.webhook_secret not in json.dumps([right, wrong, stranger])


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["nobody", "\udcff", "a\x00b", "x" * 5000])
def test_an_unknown_project_is_an_error(tmp_path: Path, slug: str) -> None:
    Project.objects.all().delete()

    told, code = explain(tmp_path, BODY, "--project", slug)

    assert (list(told), code) == (["error"], 1)


def test_a_change_that_cannot_be_read_at_all_does_not_hide_the_others(tmp_path: Path) -> None:
    end = {"type": "branch", "target": {"hash": NEW}}
    body = {"push": {"changes": [{"new": end}, {"new": end | {"name": "main"}}]}, "repository": {"full_name": "a/b"}}

    told, code = explain(tmp_path, body, provider="bitbucket_cloud")

    assert (code, told["error"]) == (1, "“name” is not the name of a ref")
    assert (told["repo_full_name"], [change["name"] for change in told["changes"]]) == ("a/b", ["main"])


def test_where_only_a_commits_id_is_none_the_rest_is_told_beside_the_error(tmp_path: Path) -> None:
    told, code = explain(tmp_path, BODY | {"after": "abc123"})

    assert (code, told["error"]) == (1, "“after” is not a commit id")
    assert (told["kind"], told["changes"][0]["after"]) == ("push", "abc123")
    with pytest.raises(Unreadable):
        HOSTS["github"].parse(json.dumps(BODY | {"after": "abc123"}).encode(), {})
