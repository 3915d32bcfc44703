"""What each git host is told, in its own API's words, and what comes of each answer. The paths, headers and bodies are
those of the hosts' documentation."""

import base64
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from django.core.exceptions import ValidationError

from projects.git.address import parse
from projects.hosts import HOSTS, STATUSES, Credentials, Place, Report, State, StatusNotTaken
from projects.hosts import api as api_module
from projects.hosts.api import MOST_WAITING, Api
from tests.api_stand_in import StandIn, standing_in

SHA = "a1" * 20
TOKEN = "canary-token-77f1"
PAGE = "https://portal.example.com/admin/deployments/deployment/7/change/"
REPORT = Report(
    state="success",
    commit=SHA,
    context="ocore/acme/production",
    description="Deployed (Production)",
    url=PAGE,
    ref="main",
    environment="Production",
    environment_url="https://odoo.example.com",
    production=True,
    deployment=7,
)


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with standing_in() as it:
        yield it


@pytest.fixture
def host(server: StandIn, settings: Any) -> StandIn:
    settings.OCORE_PLAIN_GIT_HOSTS = ["127.0.0.1"]
    server.asked.clear()
    server.answers.clear()
    return server


def tell(host: StandIn, name: str, repository: str, folder: str = "", **changed: Any) -> str:
    """As the job does it; `folder` is where the API begins."""
    statuses, credentials = STATUSES[name], Credentials(changed.pop("token", TOKEN))
    place = statuses.place(parse(repository), host.base + folder)
    headers = statuses.headers(credentials)
    return statuses.send(Api(place.base, headers, [TOKEN]), place, Report(**vars(REPORT) | changed))


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


BITBUCKET = {
    "key": "ocore/acme/production",
    "name": "ocore/acme/production",
    "state": "SUCCESSFUL",
    "url": PAGE,
    "description": "Deployed (Production)",
}
LIKE_GITHUB = {
    "state": "success",
    "target_url": PAGE,
    "description": "Deployed (Production)",
    "context": "ocore/acme/production",
}
TOLD = [
    (
        "github",
        "https://github.com/acme/addons.git",
        f"/repos/acme/addons/statuses/{SHA}",
        {"Authorization": f"Bearer {TOKEN}", "X-GitHub-Api-Version": "2022-11-28"},
        LIKE_GITHUB,
    ),
    (
        "gitlab",
        "git@gitlab.com:group/sub/addons.git",
        f"/projects/group%2Fsub%2Faddons/statuses/{SHA}",
        {"PRIVATE-TOKEN": TOKEN},
        {
            "state": "success",
            "name": "ocore/acme/production",
            "target_url": PAGE,
            "description": "Deployed (Production)",
            "ref": "main",
        },
    ),
    (
        "bitbucket_cloud",
        "https://bitbucket.org/acme/addons",
        f"/repositories/acme/addons/commit/{SHA}/statuses/build",
        {"Authorization": f"Bearer {TOKEN}"},
        BITBUCKET,
    ),
    (
        "bitbucket_server",
        "ssh://git@git.example.com:7999/~ann/addons.git",
        f"/api/latest/projects/~ann/repos/addons/commits/{SHA}/builds",
        {"Authorization": f"Bearer {TOKEN}"},
        BITBUCKET,
    ),
    *(
        (
            name,
            "https://git.example.com/acme/addons",
            f"/repos/acme/addons/statuses/{SHA}",
            {"Authorization": f"token {TOKEN}"},
            LIKE_GITHUB,
        )
        for name in ("gitea", "forgejo")
    ),
    (
        "azure_devops",
        "https://dev.azure.com/acme/The%20Project/_git/addons",
        f"/The%20Project/_apis/git/repositories/addons/commits/{SHA}/statuses?api-version=7.1",
        {"Authorization": basic(f"ocore:{TOKEN}")},
        {
            "state": "succeeded",
            "description": "Deployed (Production)",
            "targetUrl": PAGE,
            "context": {"genre": "ocore", "name": "acme/production"},
        },
    ),
]


@pytest.mark.parametrize(("name", "repository", "path", "headers", "body"), TOLD, ids=lambda one: str(one)[:16])
def test_each_host_is_told_in_its_own_words(
    host: StandIn, name: str, repository: str, path: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    tell(host, name, repository)

    (asked,) = host.asked
    assert (asked.method, asked.path, asked.body) == ("POST", path, body)
    assert headers.items() <= asked.headers.items()
    assert (asked.headers["User-Agent"], asked.headers["Content-Type"]) == ("oCore", "application/json")


def test_every_host_but_those_without_an_api_can_be_told_every_state() -> None:
    assert set(HOSTS) - set(STATUSES) == {"gogs", "generic"}
    for statuses in STATUSES.values():
        assert set(statuses._STATES) == set(get_args(State))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("github", "pending pending success failure error error error"),
        ("gitlab", "pending running success failed failed canceled canceled"),
        ("bitbucket_cloud", "INPROGRESS INPROGRESS SUCCESSFUL FAILED FAILED STOPPED STOPPED"),
        ("bitbucket_server", "INPROGRESS INPROGRESS SUCCESSFUL FAILED FAILED CANCELLED CANCELLED"),
        ("gitea", "pending pending success failure error warning warning"),
        ("azure_devops", "pending pending succeeded failed error notApplicable notApplicable"),
    ],
)
def test_states_are_the_hosts_own(name: str, states: str) -> None:
    told = STATUSES[name]._STATES  # type: ignore[attr-defined]

    assert [told[state] for state in get_args(State)] == states.split()


PLACES = [
    ("github", "https://github.com/a/b.git", "", "https://api.github.com", "a/b"),
    ("github", "git@github.com:a/b", "", "https://api.github.com", "a/b"),
    ("github", "https://acme.ghe.com/a/b", "", "https://api.acme.ghe.com", "a/b"),
    ("github", "https://git.example.com:8443/a/b", "", "https://git.example.com:8443/api/v3", "a/b"),
    ("github", "ssh://git@git.example.com:2222/a/b", "", "https://git.example.com/api/v3", "a/b"),
    ("gitlab", "https://gitlab.com/g/s/p.git", "", "https://gitlab.com/api/v4", "g/s/p"),
    ("gitlab", "https://x.example.com/gitlab/g/p", "https://x.example.com/gitlab/api/v4", None, "g/p"),
    ("gitlab", "git@x.example.com:g/p", "https://x.example.com/gitlab/api/v4", None, "g/p"),
    ("bitbucket_cloud", "git@bitbucket.org:a/b.git", "", "https://api.bitbucket.org/2.0", "a/b"),
    ("bitbucket_server", "https://x.example.com/scm/KEY/b.git", "", "https://x.example.com/rest", "KEY/b"),
    ("bitbucket_server", "https://x.example.com/stash/scm/KEY/b.git", "", "https://x.example.com/stash/rest", "KEY/b"),
    ("gitea", "https://x.example.com/git/a/b", "", "https://x.example.com/git/api/v1", "a/b"),
    ("gitea", "git@x.example.com:a/b.git", "", "https://x.example.com/api/v1", "a/b"),
    ("azure_devops", "https://dev.azure.com/org/proj/_git/b", "", "https://dev.azure.com/org", "proj/b"),
    ("azure_devops", "https://dev.azure.com/org/_git/b", "", "https://dev.azure.com/org", "b/b"),
    ("azure_devops", "git@ssh.dev.azure.com:v3/org/proj/b", "", "https://dev.azure.com/org", "proj/b"),
    ("azure_devops", "https://org.visualstudio.com/proj/_git/b", "", "https://org.visualstudio.com", "proj/b"),
    ("azure_devops", "https://x.example.com/tfs/Main/proj/_git/b", "", "https://x.example.com/tfs/Main", "proj/b"),
]


@pytest.mark.parametrize(("name", "repository", "base", "expected", "known_as"), PLACES)
def test_where_a_host_is_told_follows_from_the_repositorys_address(
    name: str, repository: str, base: str, expected: str | None, known_as: str
) -> None:
    place = STATUSES[name].place(parse(repository), base)

    assert (place.base, place.name) == (expected or base, known_as)


@pytest.mark.parametrize(
    ("name", "repository"), [("github", "https://github.com/a"), ("azure_devops", "https://dev.azure.com/org/b")]
)
def test_an_address_that_names_no_repository_is_said_to(name: str, repository: str) -> None:
    with pytest.raises(ValidationError):
        STATUSES[name].place(parse(repository), "")


def test_what_may_be_long_is_cut_and_a_key_stays_one(host: StandIn) -> None:
    context = "ocore/" + "x" * 60 + "/production"
    tell(host, "bitbucket_cloud", "https://bitbucket.org/a/b", context=context, description="é" * 200)
    tell(host, "bitbucket_cloud", "https://bitbucket.org/a/b", context=context + "2")

    first, second = (asked.body for asked in host.asked)
    assert (len(first["key"]), first["name"], len(first["description"])) == (40, context, 140)
    assert first["key"] != second["key"]


def test_bitbuckets_api_token_of_an_account_comes_with_its_e_mail_address(host: StandIn) -> None:
    tell(host, "bitbucket_cloud", "https://bitbucket.org/a/b", token="ann@example.com:secret")

    assert host.asked[0].headers["Authorization"] == basic("ann@example.com:secret")
    headers = STATUSES["bitbucket_cloud"].headers(Credentials(TOKEN, "x-token-auth"))
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert STATUSES["bitbucket_cloud"].headers(Credentials("p", "ann")) == {"Authorization": basic("ann:p")}


def test_gitlabs_word_for_knowing_already_is_no_failure(host: StandIn) -> None:
    host.answer(400, {"message": 'Cannot transition status via :run from :running (Reason(s): Status cannot "run")'})
    host.answer(400, {"message": "state is invalid"})

    tell(host, "gitlab", "https://gitlab.com/a/b", state="running")
    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitlab", "https://gitlab.com/a/b")
    assert (caught.value.again, caught.value.detail) == (False, "state is invalid")


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (404, {"status-code": 404, "message": "null for uri"}), (405, b"<html>")]
)
def test_an_older_bitbucket_data_center_is_told_by_its_older_way(host: StandIn, status: int, body: Any) -> None:
    host.answer(status, body)
    host.answer(204, b"")

    tell(host, "bitbucket_server", "https://x.example.com/scm/KEY/b", state="cancelled")

    assert host.asked[1].path == f"/build-status/1.0/commits/{SHA}"
    assert [asked.body["state"] for asked in host.asked] == ["CANCELLED", "FAILED"]


@pytest.mark.parametrize("name", ["repository.NoSuchRepository", "project.NoSuchProject", "commit.NoSuchCommit"])
def test_a_bitbucket_data_center_that_knows_the_way_is_not_asked_by_the_older_one(host: StandIn, name: str) -> None:
    host.answer(404, {"errors": [{"message": "no such", "exceptionName": f"com.atlassian.bitbucket.{name}Exception"}]})

    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "bitbucket_server", "https://x.example.com/scm/KEY/b")
    assert (caught.value.code, len(host.asked)) == (404, 1)


# GitHub's deployments


def test_github_is_told_of_a_deployment_and_of_its_statuses(host: StandIn) -> None:
    host.answer(201)
    host.answer(201, {"id": 42})

    remote = tell(host, "github", "https://github.com/a/b", state="running", deployment_state="running")
    again = tell(host, "github", "https://github.com/a/b", deployment_state="success", remote_id=remote)

    assert (remote, again) == ("42", "42")
    assert [asked.path.removeprefix("/repos/a/b") for asked in host.asked] == [
        f"/statuses/{SHA}",
        "/deployments",
        "/deployments/42/statuses",
        f"/statuses/{SHA}",
        "/deployments/42/statuses",
    ]
    assert host.asked[1].body == {
        "ref": SHA,
        "task": "deploy",
        "auto_merge": False,
        "required_contexts": [],
        "payload": {"ocore": 7},
        "environment": "Production",
        "description": "Deployed (Production)",
        "production_environment": True,
    }
    assert host.asked[4].body == {
        "state": "success",
        "log_url": PAGE,
        "description": "Deployed (Production)",
        "environment_url": "https://odoo.example.com",
        "auto_inactive": True,
    }


def test_a_deployment_that_github_made_without_an_answer_getting_through_is_found_again(host: StandIn) -> None:
    host.answer(201)
    host.answer(200, [{"id": 41, "payload": {"ocore": 6}}, {"id": 42, "payload": {"ocore": 7}}, "odd"])

    assert tell(host, "github", "https://github.com/a/b", deployment_state="success", again=True) == "42"
    assert host.asked[1].path == f"/repos/a/b/deployments?sha={SHA}&environment=Production"
    assert [asked.method for asked in host.asked] == ["POST", "GET", "POST"]


def test_one_that_no_longer_speaks_for_the_commit_only_ends_its_deployment(host: StandIn) -> None:
    tell(host, "github", "https://github.com/a/b", speaks=False, deployment_state="failure", remote_id="42")

    assert [(asked.path, asked.body["state"]) for asked in host.asked] == [
        ("/repos/a/b/deployments/42/statuses", "failure")
    ]


def test_a_deployment_without_an_id_is_said(host: StandIn) -> None:
    for answer in ({}, {"id": "x"}, {"id": True}, []):
        host.answer(201)
        host.answer(201, answer)
        with pytest.raises(StatusNotTaken) as caught:
            tell(host, "github", "https://github.com/a/b", deployment_state="success")
        assert not caught.value.again


# What a host may answer


@pytest.mark.parametrize(
    ("status", "body", "headers", "again", "wait"),
    [
        (500, b"<html>oops</html>", {}, True, 0),
        (502, b"", {}, True, 0),
        (503, b"", {"Retry-After": "120"}, True, 120),
        (429, b"{}", {"Retry-After": "9" * 30}, True, MOST_WAITING),
        (429, b"{}", {"Retry-After": "soon"}, True, 0),
        (403, b"{}", {"Retry-After": "60"}, True, 60),
        (403, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, True, 1),
        (408, b"", {}, True, 0),
        (409, b"", {}, True, 0),
        (400, b'{"message": "no such state"}', {}, False, 0),
        (401, b'{"message": "Bad credentials"}', {}, False, 0),
        (403, b'{"errors": [{"message": "not allowed"}]}', {}, False, 0),
        (404, b"not found", {}, False, 0),
        (422, b"[" * 5000, {}, False, 0),
        (301, b"", {"Location": "https://elsewhere.example.com/x"}, False, 0),
        (307, b"", {"Location": "http://127.0.0.1:1/other-port"}, False, 0),
        (302, b"", {}, False, 0),
        (200, b"<html>Please sign in</html>", {}, False, 0),
        (201, b"\xff\xfe", {}, False, 0),
    ],
)
def test_an_answer_says_whether_another_attempt_may_do(
    host: StandIn, status: int, body: bytes, headers: dict[str, str], again: bool, wait: float
) -> None:
    host.answers.append((status, headers, body))

    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitea", "https://x.example.com/a/b")

    error = caught.value
    assert (error.again, error.wait, len(host.asked)) == (again, wait, 1)
    assert again or error.advice
    assert TOKEN not in f"{error.message} {error.detail} {error.advice}"
    assert "<" not in error.message + (error.detail if status != 200 else "")


def test_a_token_in_an_answer_is_not_repeated(host: StandIn) -> None:
    host.answer(401, {"message": f"{TOKEN} is no good"})

    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitea", "https://x.example.com/a/b")
    assert caught.value.detail == "••• is no good"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"message": "\0" + "x" * 280 + f"\x1b {TOKEN} is no good"}),
        (401, {"errors": [{"message": "x" * 270 + TOKEN}]}),
        (401, b"x" * 290 + TOKEN.encode() + b"\0\x1b"),
        (200, b"\0" + b"x" * 285 + TOKEN.encode()),
    ],
)
def test_a_hosts_words_are_redacted_before_they_are_cut_and_are_fit_for_a_row(
    host: StandIn, status: int, body: Any
) -> None:
    host.answer(status, body)

    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitea", "https://x.example.com/a/b")
    detail = caught.value.detail
    assert TOKEN[:6] not in detail
    assert detail.isprintable()
    assert 200 < len(detail) <= 300


@pytest.mark.parametrize("location", ["http://[bad", "https://x:port/", "//[::1"])
def test_an_address_that_is_none_is_not_followed(host: StandIn, location: str) -> None:
    host.answer(201, Location=location)
    tell(host, "gitea", "https://x.example.com/a/b")

    for status in (301, 307):
        host.answer(status, Location=location)
        with pytest.raises(StatusNotTaken) as caught:
            tell(host, "gitea", "https://x.example.com/a/b")
        assert (caught.value.again, caught.value.message) == (
            False,
            "It sends on to elsewhere, which is not followed.",
        )


@pytest.mark.parametrize(
    ("base", "token"), [("https://x..example.com", "t"), ("https://*.a", "t"), ("https://x", "t\nu")]
)
def test_what_cannot_be_sent_at_all_is_a_persons_to_correct(base: str, token: str) -> None:
    with pytest.raises(StatusNotTaken) as caught:
        Api(base, {"Authorization": token}).post("/x", {})
    assert (caught.value.again, caught.value.advice) == (False, "Correct the API's address or the token.")


def test_a_redirect_is_followed_on_the_same_origin_only_and_not_for_ever(host: StandIn) -> None:
    host.answer(307, Location=f"{host.base}/repositories/1")
    host.answer(308, Location="/repositories/2")
    tell(host, "gitea", "https://x.example.com/a/b")
    assert [asked.path for asked in host.asked[1:]] == ["/repositories/1", "/repositories/2"]
    assert host.asked[2].body == LIKE_GITHUB
    assert host.asked[2].headers["Authorization"] == f"token {TOKEN}"

    for _ in range(5):
        host.answer(307, Location="/round")
    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitea", "https://x.example.com/a/b")
    assert (caught.value.again, len(host.asked)) == (False, 6)


def test_a_host_that_says_nothing_is_left_after_a_while(host: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "READ_SECONDS", 0.05)
    host.answers.append((0, {}, b""))
    began = time.monotonic()

    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitea", "https://x.example.com/a/b")
    host.silent.set()

    assert (caught.value.again, caught.value.message) == (True, "It did not answer in time.")
    assert time.monotonic() - began < 3


def test_an_endless_answer_is_not_read_to_its_end(host: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "MOST_BYTES", 20_000)
    host.answer(500, b"x" * 1_000_000)
    with pytest.raises(StatusNotTaken):
        tell(host, "gitea", "https://x.example.com/a/b")

    monkeypatch.setattr(api_module, "TOTAL_SECONDS", -1.0)
    host.answer(201, b"x" * 10_000)
    with pytest.raises(StatusNotTaken) as caught:
        tell(host, "gitea", "https://x.example.com/a/b")
    assert caught.value.message == "It did not answer in time."


def test_nobody_there_may_be_there_later(settings: Any) -> None:
    settings.OCORE_PLAIN_GIT_HOSTS = ["127.0.0.1:1"]

    with pytest.raises(StatusNotTaken) as caught:
        Api("http://127.0.0.1:1", {}).post("/x", {})
    assert (caught.value.again, caught.value.message) == (True, "It could not be reached.")


@pytest.mark.parametrize(
    "base",
    ["http://git.example.com", "https://127.0.0.1:1", "https://[::ffff:7f00:1]", "https://localhost", "ftp://x", "x"],
)
def test_neither_plain_http_nor_this_machine_is_told_anything(base: str) -> None:
    """Unless the operator names the host."""
    with pytest.raises(StatusNotTaken) as caught:
        Api(base, {"Authorization": TOKEN}).post("/x", {})
    assert not caught.value.again


def test_a_place_is_escaped_where_it_becomes_a_path() -> None:
    assert Place("https://x", ("a/../b", "c?d#e")).path == "a%2F..%2Fb/c%3Fd%23e"
