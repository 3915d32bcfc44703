"""Host keys of ssh: those that come with oCore are the published ones, and what a person decides about others holds."""

import base64
import hmac
from dataclasses import replace
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from django.urls import reverse

from projects import known_hosts
from projects.deploy_keys import new_key, public_half
from projects.git import HostKeyUnknown, host_keys
from projects.git.environment import known_at_first_sight
from projects.git.host_keys import HostKey
from projects.known_hosts import HostKeyNotOffered, KnownHost

PUBLISHED = {
    # docs.github.com, “GitHub's SSH key fingerprints”
    "github.com": {
        "SHA256:uNiVztksCsDhcc0u9e8BujQXVUpKZIDTMczCvj3tD2s",
        "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
        "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
    },
    # docs.gitlab.com, “GitLab.com settings”, SSH host keys fingerprints
    "gitlab.com": {
        "SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8",
        "SHA256:ROQFvPThGrW4RuWLoL9tq9I9zJ42fK4XywyRtbOz/EQ",
        "SHA256:HbW3g8zUjNSksFbqTiUWPWg2Bq1x8xdGUrliXFzSnUw",
    },
    # support.atlassian.com, “Configure SSH and two-step verification”
    "bitbucket.org": {
        "SHA256:FC73VB6C4OQLSCrjEayhMp9UMxS97caD/Yyi2bhW/J0",
        "SHA256:ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM",
        "SHA256:46OSHA1Rmj8E8ERTC6xkNcmGOw9oFxYr0WF6zWW8l1E",
    },
    # learn.microsoft.com, “Use SSH key authentication” of Azure Repos
    "ssh.dev.azure.com": {"SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og"},
    # docs.codeberg.org, “Verifying you're connected to Codeberg”
    "codeberg.org": {
        "SHA256:6QQmYi4ppFS4/+zSZ5S4IU+4sa6rwvQ4PbhCtPEBekQ",
        "SHA256:T9FYDEHELhVkulEKKwge5aVhVTbqCW0MIRwAfpARs/E",
        "SHA256:mIlxA9k46MmM6qdJOdMnAQpzGxF4WIVVL+fj+wZbw0g",
    },
}
HOST = "git.example.com"


def made(host: str = HOST) -> HostKey:
    kind, key, _ = public_half(new_key(), "x").split()
    return HostKey(host, kind, key)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> list[HostKey]:
    """What the host shows when it is asked."""
    keys: list[HostKey] = []
    monkeypatch.setattr(host_keys, "scan", lambda host, port=None: list(keys))
    return keys


def states() -> dict[str, str]:
    return dict(KnownHost.objects.values_list("fingerprint", "state"))


def test_the_keys_that_come_with_ocore_are_those_that_their_hosts_publish() -> None:
    shipped: dict[str, set[str]] = {}
    for key in host_keys.shipped():
        shipped.setdefault(key.host, set()).add(key.fingerprint)
    assert shipped == PUBLISHED
    written = [line for line in host_keys.SHIPPED.read_text().splitlines() if not line.startswith("#")]
    assert len(written) == len(host_keys.shipped()), "each line is a key"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git.example.com", (HOST, 22)),
        (" Git.Example.com ", (HOST, 22)),
        ("git.example.com:2222", (HOST, 2222)),
        ("[git.example.com]:2222", (HOST, 2222)),
        ("10.0.0.1:22", ("10.0.0.1", 22)),
        ("git.example.com:0", None),
        ("git.example.com:70000", None),
        ("-oProxyCommand=id", None),
        ("git.example.com -p 1", None),
        ("git@git.example.com", None),
        ("a,b", None),
        ("*", None),
        ("|1|x|y", None),
        ("", None),
    ],
)
def test_a_host_is_read_as_people_and_ssh_write_it(text: str, expected: tuple[str, int] | None) -> None:
    assert host_keys.parse_place(text) == expected


def test_what_is_no_key_of_the_type_that_it_claims_is_not_read() -> None:
    key = made()
    good = f"{HOST} {key.type} {key.key}"
    bad = [
        f"{HOST} ssh-rsa {key.key}",
        f"{HOST} {key.type} ???",
        f"{HOST} {key.type}",
        f"# {good}",
        "",
        "@cert-authority " + good,
    ]
    assert host_keys.parse("\n".join([*bad, good, f"@revoked {good} comment"])) == [
        key,
        HostKey(HOST, key.type, key.key, revoked=True),
    ]


def test_a_hashed_name_is_found_again() -> None:
    salt = b"0123456789abcdefghij"
    hashed = base64.b64encode(hmac.new(salt, b"[git.example.com]:2222", "sha1").digest()).decode()
    key = made(f"|1|{base64.b64encode(salt).decode()}|{hashed}")
    assert key.is_of("[git.example.com]:2222")
    assert not key.is_of(HOST)
    assert not made("|1|broken").is_of(HOST)
    assert made("other,GIT.example.com").is_of(HOST)


def test_an_unknown_host_is_told_with_what_it_offers(offer: list[HostKey]) -> None:
    error = HostKeyUnknown("The key has not been accepted.", detail="said")
    assert host_keys.with_offer(error, HOST, None) is error
    offer.append(made())
    told = host_keys.with_offer(error, HOST, None)
    assert f"{offer[0].fingerprint} (ED25519)" in told.message
    assert (told.detail, told.advice) == (error.detail, error.advice)


def test_a_scan_without_the_program_or_an_answer_finds_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host_keys.scan(HOST) == []
    program = tmp_path / "ssh-keyscan"
    key, other = made("[git.example.com]:2222"), made("elsewhere.example.com")
    program.write_text(f"#!/bin/sh\necho '# banner'; echo '{key.line}'; echo '{other.line}'; echo nonsense\n")
    program.chmod(0o755)
    assert host_keys.scan(HOST, 2222) == [key], "and nothing of another host"


@pytest.mark.django_db
def test_a_first_use_is_reviewed_and_a_changed_key_is_never_taken_silently(offer: list[HostKey]) -> None:
    first, second = made(), made()
    offer.append(first)
    assert [one.state for one in known_hosts.offered(HOST, None)] == ["new"]
    with pytest.raises(HostKeyNotOffered):
        known_hosts.accept(HOST, None, [second.fingerprint], "ada")
    with pytest.raises(HostKeyNotOffered):
        known_hosts.accept(HOST, None, [], "ada")
    assert not KnownHost.objects.exists()

    known_hosts.accept(HOST, None, [first.fingerprint], "ada")
    assert known_hosts.as_ssh_reads_them() == host_keys.shipped_lines() + first.line + "\n"
    offer[:] = [second]
    assert [one.state for one in known_hosts.offered(HOST, None)] == ["changed"]
    known_hosts.accept(HOST, None, [second.fingerprint], "bob")
    assert states() == {first.fingerprint: "revoked", second.fingerprint: "accepted"}
    assert f"@revoked {first.line}\n" in known_hosts.as_ssh_reads_them()
    offer[:] = [first]
    assert [one.state for one in known_hosts.offered(HOST, None)] == ["revoked"]
    other_type = replace(host_keys.shipped()[2], host=HOST)
    offer[:] = [other_type]
    assert [one.state for one in known_hosts.offered(HOST, None)] == ["changed"], "it shows no accepted one"
    offer[:] = [second, other_type]
    assert [one.state for one in known_hosts.offered(HOST, None)] == ["known", "new"]


@pytest.mark.django_db
def test_keys_that_come_with_ocore_or_were_seen_first_can_be_revoked(offer: list[HostKey]) -> None:
    github = host_keys.shipped()[0]
    known_hosts.revoke("github.com", None, github.fingerprint, "ada")
    said = known_hosts.as_ssh_reads_them().splitlines()
    assert f"@revoked {github.line}" in said
    assert github.line not in said

    seen = made()
    known_at_first_sight().write_text(f"{HOST},10.0.0.1 {seen.type} {seen.key}\n")
    assert [one.source for one in known_hosts.known(HOST)] == ["accepted at first sight, by an earlier oCore"]
    known_hosts.revoke(HOST, None, seen.fingerprint, "ada")
    assert f"@revoked {seen.line}" in known_hosts.as_ssh_reads_them()
    offer.append(seen)
    known_hosts.accept(HOST, None, [seen.fingerprint], "ada")
    assert seen.line in known_hosts.as_ssh_reads_them().splitlines(), "a mind can be changed"
    with pytest.raises(HostKeyNotOffered):
        known_hosts.revoke(HOST, 2222, seen.fingerprint, "ada")


@pytest.mark.django_db
def test_the_command_shows_accepts_and_revokes(offer: list[HostKey], capsys: pytest.CaptureFixture[str]) -> None:
    offer.append(made())
    fingerprint = offer[0].fingerprint
    call_command("known_hosts", "git.example.com:22")
    assert f"{fingerprint}  offered now: new" in capsys.readouterr().out
    call_command("known_hosts", HOST, "--accept", fingerprint)
    call_command("known_hosts", HOST, "--revoke", fingerprint)
    call_command("known_hosts")
    told = capsys.readouterr().out
    assert f"{HOST}  ED25519  {fingerprint}  REVOKED" in told
    assert "github.com  RSA" in told
    with pytest.raises(CommandError, match="is not a host"):
        call_command("known_hosts", "not a host")
    offer.clear()
    with pytest.raises(CommandError, match="offers no key now"):
        call_command("known_hosts", HOST)


@pytest.mark.django_db
def test_the_page_of_a_host_shows_accepts_and_revokes(offer: list[HostKey]) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    url = reverse("admin:projects_knownhost_host")
    offer.append(made())
    fingerprint = offer[0].fingerprint
    assert fingerprint not in root.get(url, {"host": HOST}).content.decode(), "looking is an act"

    page = root.post(url, {"host": HOST, "act": "look"}).content.decode()
    assert fingerprint in page
    assert "Never seen" in page
    root.post(url, {"host": HOST, "act": "accept", "fingerprint": [fingerprint]})
    assert states() == {fingerprint: "accepted"}
    assert KnownHost.objects.get().decided_by == "root"
    answer = root.post(url, {"host": HOST, "act": "revoke", "fingerprint": fingerprint}, follow=True)
    assert states() == {fingerprint: "revoked"}
    assert "Revoked" in answer.content.decode()
    refused = root.post(url, {"host": HOST, "act": "accept", "fingerprint": ["SHA256:x"]}, follow=True)
    assert "does not offer SHA256:x" in refused.content.decode()
    assert root.post(url, {"host": "-oX", "act": "look"}).status_code == 200
    listed = root.get(reverse("admin:projects_knownhost_changelist")).content.decode()
    assert fingerprint in listed
    assert next(iter(PUBLISHED["codeberg.org"])) in listed


@pytest.mark.django_db
def test_who_may_only_see_host_keys_can_neither_ask_a_host_nor_decide(offer: list[HostKey]) -> None:
    client = Client()
    user = User.objects.create_user("eve", is_staff=True)
    client.force_login(user)
    url = reverse("admin:projects_knownhost_host")
    assert client.get(url).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_knownhost"))
    assert client.get(url, {"host": "github.com"}).status_code == 200
    offer.append(made())
    for act in ("look", "accept", "revoke"):
        data = {"host": HOST, "act": act, "fingerprint": [offer[0].fingerprint]}
        assert client.post(url, data).status_code == 403
    assert not KnownHost.objects.exists()
    user.user_permissions.add(Permission.objects.get(codename="manage_known_hosts"))
    assert client.post(url, {"host": HOST, "act": "look"}).status_code == 200
