"""The other git hosts' webhooks: what is let in, and what it says. The bodies are written from the hosts' own words."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.management.commands.explain import reading
from projects.hosts import HOSTS, Push, Refused, Unreadable
from projects.hosts.proof import signing_token

SECRET = "a secret of thirty-two characters"
OLD, NEW, TAG, ZERO = "1" * 40, "2" * 40, "a" * 40, "0" * 40
SAMPLES = Path(os.environ.get("OCORE_WEBHOOK_SAMPLES", "/nonexistent"))


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def read(host: str, document: Any, **headers: str) -> Push:
    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return HOSTS[host].parse(json.dumps(document).encode(), given_headers)


def told(push: Push) -> list[tuple[Any, ...]]:
    return [(one.kind, one.ref, one.before, one.head, one.created, one.forced) for one in push.changes]


def gitlab(**changed: Any) -> dict[str, Any]:
    return {
        "object_kind": "push",
        "ref": "refs/heads/feature/tax",
        "before": OLD,
        "after": NEW,
        "checkout_sha": NEW,
        "user_name": "Ann Other",
        "user_username": "ann",
        "project": {
            "path_with_namespace": "group/sub/addons",
            "git_http_url": "https://git.example.com/group/sub/addons.git",
            "git_ssh_url": "git@git.example.com:group/sub/addons.git",
            "web_url": "https://git.example.com/group/sub/addons",
        },
        "repository": {"url": "git@git.example.com:group/sub/addons.git"},
        "commits": [{"id": NEW, "message": "Fix\n\n[skip ci]", "author": {"name": "Ann"}}],
    } | changed


def gitea(**changed: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": OLD,
        "after": NEW,
        "secret": "in clear",
        "commits": [],
        "repository": {
            "full_name": "acme/addons",
            "clone_url": "https://git.example.com/acme/addons.git",
            "ssh_url": "git@git.example.com:acme/addons.git",
            "html_url": "https://git.example.com/acme/addons",
            "url": "https://git.example.com/api/v1/repos/acme/addons",
        },
        "pusher": {"login": "ann"},
    } | changed


def end(kind: str, name: str, sha: str) -> dict[str, Any]:
    return {"type": kind, "name": name, "target": {"hash": sha, "message": "Fix", "author": {"raw": "Ann <a@b.c>"}}}


def cloud(*changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "actor": {"nickname": "ann", "display_name": "Ann Other"},
        "repository": {"full_name": "acme/addons", "links": {"html": {"href": "https://bitbucket.example.com/x"}}},
        "push": {"changes": list(changes)},
    }


def server(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "eventKey": "repo:refs_changed",
        "actor": {"name": "ann"},
        "repository": {"slug": "addons", "project": {"key": "ACME"}},
        "changes": list(changes),
    } | more


def azure(*updates: tuple[str, str, str], **resource: Any) -> dict[str, Any]:
    moved = [{"name": name, "oldObjectId": old, "newObjectId": new} for name, old, new in updates]
    repository = {
        "name": "addons",
        "project": {"name": "Acme"},
        "remoteUrl": "https://dev.example.com/acme/_git/addons",
    }
    return {
        "id": "03c164c2",
        "eventType": "git.push",
        "resource": {"refUpdates": moved, "repository": repository, "pushedBy": {"displayName": "Ann"}} | resource,
    }


# Reading


def test_gitlab_tells_subgroups_slashes_and_who_pushed() -> None:
    push = read("gitlab", gitlab(), X_Gitlab_Event="Push Hook")

    assert told(push) == [("push", "refs/heads/feature/tax", OLD, NEW, False, None)]
    assert (push.full_name, push.pusher, push.changes[0].name) == ("group/sub/addons", "ann", "feature/tax")
    assert push.urls == (
        "https://git.example.com/group/sub/addons.git",
        "git@git.example.com:group/sub/addons.git",
        "https://git.example.com/group/sub/addons",
    )
    assert push.commits[0].message.endswith("[skip ci]")


def test_gitlabs_annotated_tag_deploys_its_commit() -> None:
    push = read("gitlab", gitlab(object_kind="tag_push", ref="refs/tags/v1", before=ZERO, after=TAG))

    assert told(push) == [("tag", "refs/tags/v1", ZERO, NEW, True, None)]


def test_gitlab_tells_a_deletion_by_zeros_and_a_null() -> None:
    push = read("gitlab", gitlab(after=ZERO, checkout_sha=None, commits=[]))

    assert (push.kind, push.changes[0].deleted, push.changes[0].head) == ("delete", True, "")


@pytest.mark.parametrize("header", ["System Hook", "Push Hook", ""])
def test_gitlabs_body_tells_what_a_system_hook_is(header: str) -> None:
    document = {key: value for key, value in gitlab().items() if key not in ("object_kind", "user_username")}
    push = read("gitlab", document | {"event_name": "push"}, X_Gitlab_Event=header)

    assert (push.kind, push.pusher) == ("push", "Ann Other")
    assert read("gitlab", {"event_name": "repository_update", "changes": [{"ref": "x"}]}).kind == "other"


def test_a_body_of_gitlabs_that_a_template_made_is_left_alone() -> None:
    assert read("gitlab", {"text": "somebody pushed"}).kind == "other"


def test_gitlabs_bodies_of_few_words_are_read_by_their_shape() -> None:
    assert told(read("gitlab", {"ref": "refs/heads/main", "checkout_sha": NEW})) == [
        ("push", "refs/heads/main", "", NEW, False, None)
    ]


@pytest.mark.parametrize("host", ["gitea", "forgejo", "gogs"])
def test_gitea_and_its_kin_are_read_alike(host: str) -> None:
    push = read(host, gitea(before=ZERO))

    assert told(push) == [("push", "refs/heads/main", ZERO, NEW, True, None)]
    assert (push.full_name, push.pusher) == ("acme/addons", "ann")
    assert "https://git.example.com/api/v1/repos/acme/addons" not in push.urls
    deleted = read(host, {"ref": "old", "ref_type": "branch", "pusher_type": "user"})
    assert told(deleted) == [("delete", "refs/heads/old", "", "", False, None)]
    header = {f"X_{HOSTS[host].prefix}_Event": "create"}  # type: ignore[attr-defined]
    assert read(host, gitea(ref="main", ref_type="branch"), **header).kind == "other"


def test_a_form_of_giteas_is_read_and_the_json_inside_is_what_is_signed() -> None:
    document = json.dumps(gitea()).encode()
    form = b"payload=" + quote_plus(document.decode()).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Gitea-Signature": signature(document)}

    HOSTS["gitea"].verify(form, headers, [SECRET])
    assert HOSTS["gitea"].parse(form, headers).kind == "push"
    with pytest.raises(Refused):
        HOSTS["gitea"].verify(form, headers | {"X-Gitea-Signature": signature(form)}, [SECRET])
    with pytest.raises(Refused):
        HOSTS["gitea"].verify(b"payload=%ff", headers, [SECRET])


def test_bitbucket_cloud_moves_several_refs_at_once() -> None:
    push = read(
        "bitbucket_cloud",
        cloud(
            {"old": end("branch", "main", OLD), "new": end("branch", "main", NEW), "forced": True},
            {"old": None, "new": end("tag", "v1", NEW), "created": True},
            {"old": end("branch", "gone", OLD), "new": None, "closed": True},
            {"new": end("named_branch", "hg", NEW)},
            {"old": None, "new": None},
        ),
        X_Event_Key="repo:push",
    )

    assert told(push) == [
        ("push", "refs/heads/main", OLD, NEW, False, True),
        ("tag", "refs/tags/v1", "", NEW, True, False),
        ("delete", "refs/heads/gone", OLD, "", False, False),
        ("push", "refs/heads/hg", "", NEW, True, False),
    ]
    assert (push.kind, push.pusher, push.commits[0].author) == ("mixed", "ann", "Ann")
    assert read("bitbucket_cloud", cloud(), X_Event_Key="repo:push").kind == "other"
    assert read("bitbucket_cloud", cloud(), X_Event_Key="pullrequest:fulfilled").changes == ()


def test_bitbucket_data_center_old_and_new() -> None:
    new = {
        "ref": {"id": "refs/heads/main", "type": "BRANCH"},
        "refId": "refs/heads/main",
        "fromHash": OLD,
        "toHash": NEW,
    }
    push = read("bitbucket_server", server(new))

    assert told(push) == [("push", "refs/heads/main", OLD, NEW, False, None)]
    assert (push.full_name, push.urls, push.pusher) == ("ACME/addons", (), "ann")
    gone = new | {"toHash": ZERO, "type": "DELETE"}
    assert read("bitbucket_server", server(gone)).kind == "delete"
    stash = {
        "repository": server()["repository"],
        "refChanges": [{"refId": "refs/tags/v1", "fromHash": ZERO, "toHash": NEW}],
    }
    assert told(read("bitbucket_server", stash)) == [("tag", "refs/tags/v1", ZERO, NEW, True, None)]
    assert read("bitbucket_server", {"test": True}).kind == "ping"
    mirrored = read("bitbucket_server", server(new), X_Event_Key="mirror:repo_synchronized")
    assert (mirrored.kind, mirrored.changes) == ("other", ())
    target = {"pullRequest": {"toRef": {"repository": server()["repository"]}}}
    assert read("bitbucket_server", target, X_Event_Key="pr:merged").full_name == "ACME/addons"


def test_what_a_host_says_of_itself_is_believed_where_the_ids_say_nothing() -> None:
    """An old end that is missing or empty is none, and `created` counts then."""
    added = {"refId": "refs/heads/main", "toHash": NEW, "type": "ADD"}
    assert told(read("bitbucket_server", server(added))) == [("push", "refs/heads/main", "", NEW, True, None)]
    assert told(read("github", gitea(before="", created=True, forced=True)))[0][4:] == (True, True)
    for host in ("github", "gitlab", "gitea", "gogs", "generic"):
        assert told(read(host, gitea(before="")))[0][:4] == ("push", "refs/heads/main", "", NEW)
    assert read("azure_devops", azure(("refs/heads/x", "", NEW))).changes[0].before == ""


@pytest.mark.parametrize("kin", ["Gitea", "Gogs", "GitHub"])
def test_an_event_of_forgejos_is_known_by_the_headers_of_its_kin_too(kin: str) -> None:
    assert read("forgejo", gitea(), **{f"X_{kin}_Event": "create"}).kind == "other"
    assert read("forgejo", gitea(), X_Forgejo_Event="push", **{f"X_{kin}_Event": "create"}).kind == "push"


OTHER_EVENTS = [
    *(("github", "X_GitHub_Event", event) for event in ("create", "delete", "pull_request", "status", "merge_group")),
    *(("gitlab", "X_Gitlab_Event", event) for event in ("Merge Request Hook", "Job Hook", "Note Hook")),
    *(("gitea", "X_Gitea_Event", event) for event in ("create", "pull_request_sync", "release", "repository")),
    *(("bitbucket_cloud", "X_Event_Key", event) for event in ("repo:commit_status_created", "pullrequest:fulfilled")),
    *(("bitbucket_server", "X_Event_Key", event) for event in ("pr:from_ref_updated", "repo:modified", "mirror:x")),
]


@pytest.mark.parametrize(("host", "header", "event"), OTHER_EVENTS)
def test_an_event_that_is_no_push_moves_nothing_whatever_its_body_has(host: str, header: str, event: str) -> None:
    """Several have a ref and commits like a push, which is told beside them."""
    body = gitea(ref_type="branch", changes=[{"refId": "refs/heads/main", "toHash": NEW}], push=cloud()["push"])

    push = read(host, body, **{header: event})

    assert (push.kind, push.event, push.changes, push.commits, push.pusher) == ("other", event, (), (), "")


def test_azure_devops_tells_its_event_in_the_body() -> None:
    push = read("azure_devops", azure(("refs/heads/main", OLD, NEW), ("refs/tags/v1", ZERO, NEW)))

    assert (push.kind, push.delivery_id, push.full_name, push.pusher) == ("mixed", "03c164c2", "Acme/addons", "Ann")
    assert push.urls == ("https://dev.example.com/acme/_git/addons",)
    assert read("azure_devops", azure(("refs/heads/x", OLD, ZERO))).kind == "delete"
    assert read("azure_devops", azure(("refs/odd", OLD, NEW))).kind == "other"
    assert read("azure_devops", azure(repository=7, pushedBy=[])).kind == "other"
    assert read("azure_devops", {"eventType": "git.pullrequest.created", "resource": {}}).kind == "other"


def test_the_generic_one_takes_one_ref_or_several_and_a_ping() -> None:
    one = {"ref": "refs/heads/main", "before": OLD, "after": NEW, "repository": "acme/addons", "pusher": "ann"}
    push = read("generic", one | {"message": "Fix"})

    assert told(push) == [("push", "refs/heads/main", OLD, NEW, False, None)]
    assert (push.full_name, push.pusher, push.commits[0].subject) == ("acme/addons", "ann", "Fix")
    several = read("generic", {"changes": [one, {"ref": "refs/tags/v1", "after": TAG, "commit": NEW}]})
    assert (several.kind, several.changes[1].head) == ("mixed", NEW)
    assert read("generic", {"ping": True}).kind == "ping"


def test_ids_of_sha256_repositories_are_ids() -> None:
    assert read("gitea", gitea(before="0" * 64, after="c" * 64)).changes[0].created
    assert read("azure_devops", azure(("refs/heads/x", "b" * 64, "0" * 64))).kind == "delete"


def test_what_githubs_old_bodies_lack_is_taken_from_the_head_commit() -> None:
    push = read("github", {"ref": "refs/heads/main", "head_commit": {"id": NEW}, "repository": {}})

    assert told(push) == [("push", "refs/heads/main", "", NEW, False, False)]
    assert read("github", {"zen": "x"}).kind == "ping"


# Proof


@pytest.mark.parametrize("host", list(HOSTS))
def test_each_hosts_own_test_is_proven_and_moves_nothing(host: str) -> None:
    body, headers = HOSTS[host].sample(SECRET, "d-1")

    HOSTS[host].verify(body, headers, ["older", SECRET])
    push = HOSTS[host].parse(body, headers)
    assert push.kind == "ping" or push.tests_only or not push.changes
    assert push.delivery_id in ("d-1", HOSTS[host].delivery_id(headers, body))
    for secrets in ([], [""], ["another"], [None]):
        with pytest.raises(Refused):
            HOSTS[host].verify(body, headers, secrets)


@pytest.mark.parametrize("host", list(HOSTS))
@pytest.mark.parametrize("secret", ["", " "])
def test_no_secret_is_no_entry_anywhere(host: str, secret: str) -> None:
    body, headers = HOSTS[host].sample(secret, "d-1")

    with pytest.raises(Refused):
        HOSTS[host].verify(body, headers, [secret])


@pytest.mark.parametrize("host", list(HOSTS))
def test_another_hosts_proof_is_none(host: str) -> None:
    for other in HOSTS:
        body, headers = HOSTS[other].sample(SECRET, "d-1")
        if other == host or {host, other} == {"bitbucket_cloud", "bitbucket_server"}:
            continue
        with pytest.raises(Refused):
            HOSTS[host].verify(body, headers, [SECRET])


@pytest.mark.parametrize("value", ["", "sha256=", "sha256=" + "0" * 64, "é" * 64, "\ud800", "0" * 63])
def test_empty_and_odd_signatures_are_refused(value: str) -> None:
    for host, name in (
        ("gitea", "X-Gitea-Signature"),
        ("gogs", "X-Gogs-Signature"),
        ("bitbucket_cloud", "X-Hub-Signature"),
    ):
        with pytest.raises(Refused):
            HOSTS[host].verify(b"x", {name: value, "X-Hub-Signature-256": f"sha256={signature(b'x')}"}, [SECRET])
    for name in ("X-Gitlab-Token", "webhook-signature"):
        with pytest.raises(Refused):
            HOSTS["gitlab"].verify(b"x", {name: value}, [SECRET])


def test_standard_webhooks_own_example_is_accepted_in_its_time_only() -> None:
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    with time_machine.travel(1614265330 + 200):
        HOSTS["gitlab"].verify(body, headers, [SECRET, secret])
        with pytest.raises(Refused):
            HOSTS["gitlab"].verify(body + b" ", headers, [secret])
    for moment in (1614265330 + 400, 1614265330 - 400):
        with time_machine.travel(moment), pytest.raises(Refused):
            HOSTS["gitlab"].verify(body, headers, [secret])


def test_a_wrong_signature_of_gitlabs_is_not_mended_by_the_right_token() -> None:
    headers = {
        "X-Gitlab-Token": SECRET,
        "webhook-id": "1",
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": "v1,AAAA",
    }

    with pytest.raises(Refused):
        HOSTS["gitlab"].verify(b"x", headers, [SECRET])
    with pytest.raises(Refused):
        HOSTS["gitlab"].verify(b"x", headers | {"webhook-signature": ""}, [SECRET])


def test_a_signing_token_signs_and_is_not_taken_in_clear() -> None:
    token = signing_token(SECRET)
    body, headers = HOSTS["gitlab"].sample(token, "d-1")

    HOSTS["gitlab"].verify(body, headers, [token])
    with pytest.raises(Refused):
        HOSTS["gitlab"].verify(body, {"X-Gitlab-Token": token}, [token])


def test_azures_proof_is_a_password_or_a_header_of_ones_own() -> None:
    def basic(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    HOSTS["azure_devops"].verify(b"x", basic(f"anybody:{SECRET}"), [SECRET])
    HOSTS["azure_devops"].verify(b"x", {"x-ocore-token": SECRET}, [SECRET])
    for headers in (
        basic(f"{SECRET}:"),
        basic(SECRET),
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": "Basic é"},
        {"X-oCore-Token": "x", **basic(f"a:{SECRET}")},
        {},
    ):
        with pytest.raises(Refused):
            HOSTS["azure_devops"].verify(b"x", headers, [SECRET])


# Whatever comes

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BODIES = [
    gitlab(),
    gitea(),
    cloud({"old": end("branch", "main", OLD), "new": end("branch", "main", NEW)}),
    server({"refId": "refs/heads/main", "fromHash": OLD, "toHash": NEW}),
    azure(("refs/heads/main", OLD, NEW)),
    {"changes": [{"ref": "refs/heads/x", "after": NEW}]},
]


def _spoilt(document: Any, path: list[int], value: Any) -> Any:
    """The document with something else in one place."""
    if not path or not document or not isinstance(document, dict | list):
        return value
    if isinstance(document, list):
        place = path[0] % len(document)
        return [_spoilt(one, path[1:], value) if at == place else one for at, one in enumerate(document)]
    key = sorted(document)[path[0] % len(document)]
    return document | {key: _spoilt(document[key], path[1:], value)}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(HOSTS)),
    st.sampled_from(BODIES),
    st.lists(st.integers(0, 20), min_size=1, max_size=7),
    anything,
)
def test_whatever_stands_anywhere_it_is_read_or_unreadable(host: str, body: Any, path: list[int], value: Any) -> None:
    try:
        push = HOSTS[host].parse(json.dumps(_spoilt(body, path, value)).encode(), {})
    except Unreadable:
        return
    for part in (push.full_name, push.pusher, push.event, *push.urls, *(change.ref for change in push.changes)):
        assert "\x00" not in part
        part.encode()
    for change in push.changes:
        assert change.head or change.deleted


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(HOSTS)), st.binary(max_size=300), st.dictionaries(st.text(max_size=20), st.text(max_size=40))
)
def test_whatever_the_bytes_are_nothing_else_is_raised(host: str, body: bytes, headers: dict[str, str]) -> None:
    with contextlib.suppress(Unreadable):
        HOSTS[host].parse(body, headers)
    with pytest.raises(Refused):
        HOSTS[host].verify(body, headers, [SECRET, None, ""])
    assert len(HOSTS[host].delivery_id(headers, body)) <= 100


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="recorded deliveries of others are not here")
def test_recorded_deliveries_read_as_expected() -> None:
    for sample in json.loads((SAMPLES / "expected.json").read_text()):
        name, _, value = sample["event_header"].partition(": ")
        body = (SAMPLES / sample["file"]).read_bytes()
        for headers in ({name: value}, {}):
            found = reading(HOSTS[sample["provider"]].parse(body, headers))
            wanted = {key: sample[key] for key in ("kind", "changes", "urls", "pusher", "repo_full_name")}
            assert {key: found[key] for key in wanted} == wanted, (sample["file"], headers)
