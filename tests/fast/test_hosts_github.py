"""GitHub's webhook: what is let in, and what it says."""

import contextlib
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.hosts import HOSTS, Push, PushedCommit, RefChange, Refused, Unreadable

github = HOSTS["github"]
SECRET = "a secret of thirty-two characters"
OLD, NEW, TAG = "1" * 40, "2" * 40, "a" * 40
ZERO = "0" * 40


def signature(body: bytes, secret: str = SECRET, algorithm: Any = hashlib.sha256) -> str:
    return hmac.new(secret.encode(), body, algorithm).hexdigest()


def headers(body: bytes = b"", secret: str = SECRET, **more: str) -> dict[str, str]:
    return {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-Hub-Signature-256": f"sha256={signature(body, secret)}",
        "Content-Type": "application/json",
    } | {name.replace("_", "-"): value for name, value in more.items()}


def payload(**changed: Any) -> dict[str, Any]:
    """A push of one commit to main, in GitHub's words."""
    commit = {"id": NEW, "message": "Fix the tax\n\nLonger.", "author": {"name": "Ann", "email": "ann@example.com"}}
    return {
        "ref": "refs/heads/main",
        "before": OLD,
        "after": NEW,
        "created": False,
        "deleted": False,
        "forced": False,
        "commits": [commit],
        "head_commit": commit,
        "pusher": {"name": "ann", "email": "ann@example.com"},
        "sender": {"login": "ann-login"},
        "repository": {
            "full_name": "acme/odoo-addons",
            "clone_url": "https://git.example.com/acme/odoo-addons.git",
            "ssh_url": "git@git.example.com:acme/odoo-addons.git",
            "git_url": "git://git.example.com/acme/odoo-addons.git",
            "html_url": "https://git.example.com/acme/odoo-addons",
            "url": "https://git.example.com/acme/odoo-addons",
        },
    } | changed


GOOD = json.dumps(payload(number=0.5)).encode()


def read(document: Any, **more: str) -> Push:
    return github.parse(json.dumps(document).encode(), headers(**more))


# Proof


def test_githubs_own_example_is_accepted() -> None:
    known = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    given_headers = {"X-Hub-Signature-256": f"sha256={known}"}

    github.verify(b"Hello, World!", given_headers, ["It's a Secret to Everybody"])
    with pytest.raises(Refused):
        github.verify(b"Hello, World", given_headers, ["It's a Secret to Everybody"])


def test_header_names_are_compared_without_case() -> None:
    github.verify(b"x", {"x-hub-signature-256": f"sha256={signature(b'x')}"}, [SECRET])


def test_each_of_several_secrets_opens() -> None:
    for secret in ("older secret", SECRET):
        github.verify(b"x", headers(b"x", secret), [SECRET, "older secret"])
    with pytest.raises(Refused):
        github.verify(b"x", headers(b"x", "a third"), [SECRET, "older secret"])


@pytest.mark.parametrize("secrets", [[], [""], [None], ["", None, "  "]])
def test_no_secret_is_no_entry_even_for_a_signature_made_with_an_empty_one(secrets: list[str | None]) -> None:
    with pytest.raises(Refused):
        github.verify(b"x", headers(b"x", ""), secrets)
    with pytest.raises(Refused):
        github.verify(b"x", headers(b"x", "  "), secrets)


def test_a_secret_given_as_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(Refused):
        github.verify(b"x", headers(b"x", "a"), "abc")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha256=",
        "sha256=" + "0" * 63,
        "sha256=" + "0" * 65,
        signature(b"x"),
        f"sha1={signature(b'x')}",
        f"SHA256={signature(b'x')}",
        f"sha256={signature(b'x').upper()}",
        f"sha256={signature(b'x')}\n",
        f" sha256={signature(b'x')}",
        f"sha256={signature(b'x')},sha256={signature(b'x')}",
        "sha256=" + "٣" * 64,
        "sha256=" + "é" * 64,
        "sha256=" + "\ud800" * 64,
    ],
)
def test_a_signature_of_another_form_is_refused(value: str) -> None:
    with pytest.raises(Refused):
        github.verify(b"x", {"X-Hub-Signature-256": value}, [SECRET])


def test_sha1_alone_or_beside_a_wrong_sha256_is_refused() -> None:
    sha1 = {"X-Hub-Signature": f"sha1={signature(b'x', algorithm=hashlib.sha1)}"}
    with pytest.raises(Refused):
        github.verify(b"x", sha1, [SECRET])
    with pytest.raises(Refused):
        github.verify(b"x", sha1 | {"X-Hub-Signature-256": "sha256=" + "0" * 64}, [SECRET])


def test_the_raw_bytes_count_and_not_what_they_mean() -> None:
    document = {"b": 1, "a": 2}
    pretty, compact = json.dumps(document, indent=2).encode(), json.dumps(document).encode()

    github.verify(pretty, headers(pretty), [SECRET])
    with pytest.raises(Refused):
        github.verify(pretty, headers(compact), [SECRET])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(["X-Hub-Signature-256", "x-Hub"]), st.text()))
def test_nothing_unsigned_gets_in_and_nothing_but_refused_is_raised(body: bytes, given_headers: dict[str, str]) -> None:
    with pytest.raises(Refused):
        github.verify(body, given_headers, [SECRET, "", None])


# Reading


def test_a_push_to_a_branch_is_read() -> None:
    assert read(payload()) == Push(
        kind="push",
        event="push",
        delivery_id="72d3162e-cc78-11e3-81ab-4c9367dc0958",
        changes=(RefChange("refs/heads/main", "branch", "main", OLD, NEW, NEW),),
        full_name="acme/odoo-addons",
        urls=(
            "https://git.example.com/acme/odoo-addons.git",
            "git@git.example.com:acme/odoo-addons.git",
            "git://git.example.com/acme/odoo-addons.git",
            "https://git.example.com/acme/odoo-addons",
        ),
        pusher="ann",
        commits=(PushedCommit(NEW, "Fix the tax", "Ann"),),
    )


def test_a_form_around_the_json_is_read_and_its_raw_bytes_are_signed() -> None:
    document = json.dumps(payload(ref="refs/heads/größe & +more"))
    body = f"payload={quote_plus(document)}".encode()
    form = headers(body, Content_Type="application/x-www-form-urlencoded; charset=utf-8")

    github.verify(body, form, [SECRET])
    assert github.parse(body, form).changes[0].name == "größe & +more"
    with pytest.raises(Refused):
        github.verify(body, form | {"X-Hub-Signature-256": f"sha256={signature(document.encode())}"}, [SECRET])


@pytest.mark.parametrize("body", [b"", b"x=1", b"payload=%7B%7D&payload=%7B%7D", b"payload=%ff", b"payload=\xff", b"%"])
def test_a_form_without_one_payload_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        github.parse(body, headers(Content_Type="application/x-www-form-urlencoded"))


def test_a_branch_keeps_its_slashes() -> None:
    assert read(payload(ref="refs/heads/feature/tax/2026")).changes[0].name == "feature/tax/2026"


def test_a_new_branch_and_a_forced_push_are_told() -> None:
    created, forced = read(payload(before=ZERO, created=True)), read(payload(forced=True))

    assert (created.changes[0].created, created.changes[0].head) == (True, NEW)
    assert forced.changes[0].forced


def test_a_push_without_commits_still_has_a_commit_to_deploy() -> None:
    assert read(payload(commits=[], head_commit=None)).changes[0].head == NEW


def test_a_deleted_branch_leaves_nothing_to_deploy() -> None:
    push = read(payload(after=ZERO, deleted=True, head_commit=None, commits=[]))

    assert (push.kind, push.changes[0].deleted, push.changes[0].head) == ("delete", True, "")


def test_zeros_of_sha256_are_a_deletion_too() -> None:
    change = read(payload(before="b" * 64, after="0" * 64, head_commit=None)).changes[0]

    assert change.deleted
    assert change.head == ""
    assert read(payload(before="0" * 64, after="c" * 64)).changes[0].created


def test_an_annotated_tag_deploys_its_commit_and_not_the_tag_object() -> None:
    push = read(payload(ref="refs/tags/v1", before=ZERO, after=TAG, created=True))

    assert (push.kind, push.changes[0].type, push.changes[0].name) == ("tag", "tag", "v1")
    assert (push.changes[0].after, push.changes[0].head) == (TAG, NEW)


@pytest.mark.parametrize("ref", ["refs/pull/7/head", "refs/notes/commits", "refs/heads/", "refs/tags/", "main"])
def test_refs_that_are_no_branch_or_tag_are_other(ref: str) -> None:
    push = read(payload(ref=ref))

    assert (push.kind, push.changes[0].type, push.changes[0].name) == ("other", "other", ref)


def test_ping_is_a_ping_and_create_and_delete_change_nothing() -> None:
    assert read({"zen": "Keep it logically awesome.", "hook_id": 1}, X_GitHub_Event="ping").kind == "ping"
    for event in ("create", "delete", "release", "workflow_run"):
        push = read(payload(), X_GitHub_Event=event)
        assert (push.kind, push.changes) == ("other", ())


def test_an_old_payload_without_full_name_is_recognised() -> None:
    assert read(payload(repository={"owner": {"name": "acme"}, "name": "addons"})).full_name == "acme/addons"


def test_texts_for_people_are_cut_and_without_control_characters() -> None:
    commit = {"id": NEW, "message": "\x1b[31mred\x00\ud800" + "x" * 999, "author": {"name": "A\u202enn"}}
    push = read(payload(commits=[commit, 7, {"id": "short"}], pusher={"name": "a\x00b"}))

    assert len(push.commits) == 1
    assert push.commits[0].subject.isprintable()
    assert len(push.commits[0].subject) <= 300
    assert push.commits[0].author == "A�nn"
    assert push.pusher == "a�b"


def test_redelivery_keeps_its_id_and_a_missing_or_odd_one_becomes_the_bodys_digest() -> None:
    assert github.delivery_id(headers(), b"x") == github.delivery_id(headers(), b"other")
    digest = github.delivery_id({}, b"x")
    assert digest == github.delivery_id({"X-GitHub-Delivery": "new\nline"}, b"x")
    assert digest.startswith("sha256:")
    assert digest != github.delivery_id({}, b"y")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD.replace(b"0.5", b"NaN"),
        GOOD.replace(b"0.5", b"-Infinity"),
        GOOD.replace(b"0.5", b"9" * 5000),
        GOOD.replace(b"0.5", b'"\xff"'),
        b'{"a": ' + b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"{}",
    ],
    ids=lambda body: repr(body[-12:]),
)
def test_a_body_that_github_never_sends_is_unreadable(body: bytes) -> None:
    assert github.parse(GOOD, headers()).kind == "push"
    with pytest.raises(Unreadable):
        github.parse(body, headers())


@pytest.mark.parametrize("value", [None, 7, True, [], {}, "", "x" * 5000, "a\x00b", "\ud800", "a\x1b[1m", "a\nb"])
def test_a_ref_of_the_wrong_kind_is_unreadable(value: Any) -> None:
    with pytest.raises(Unreadable):
        read(payload(ref=value))


@pytest.mark.parametrize("value", [7, [], "", "1" * 39, "1" * 41, "G" * 40, "1" * 40 + "\n", "-" * 40, "١" * 40])
def test_a_commit_id_of_the_wrong_kind_is_unreadable(value: Any) -> None:
    with pytest.raises(Unreadable):
        read(payload(after=value))


def test_wrong_kinds_elsewhere_are_left_out() -> None:
    push = read(payload(repository=7, pusher=[], sender="x", commits="y", created="no", forced=1, head_commit=[]))

    assert (push.full_name, push.urls, push.pusher, push.commits) == ("", (), "", ())
    assert (push.changes[0].head, push.changes[0].forced) == (NEW, False)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(list(payload())), anything), st.sampled_from(["push", "ping", "create", ""]))
def test_whatever_the_fields_are_it_is_read_or_unreadable(changed: dict[str, Any], event: str) -> None:
    body = json.dumps(payload(**changed)).encode()
    try:
        push = github.parse(body, headers(X_GitHub_Event=event))
    except Unreadable:
        return
    for part in (push.full_name, push.pusher, *push.urls, *(change.ref for change in push.changes)):
        assert "\x00" not in part
        part.encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.dictionaries(st.sampled_from(list(headers())), st.text()))
def test_whatever_the_bytes_are_only_unreadable_is_raised(body: bytes, given_headers: dict[str, str]) -> None:
    with contextlib.suppress(Unreadable):
        github.parse(body, headers() | given_headers)
