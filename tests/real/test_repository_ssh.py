"""Into a repository over ssh, past a real sshd: by a deploy key, past a host key that somebody has accepted."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from projects import connection, known_hosts
from projects.git import Deadlines, HostKeyChanged, HostKeyUnknown, Mirror, RepositoryRefused, Trouble
from projects.git.environment import known_at_first_sight
from projects.known_hosts import KnownHost
from projects.mirrors import mirror_of
from projects.models import Project
from tests import factories
from tests.git_ssh import GitSsh

pytestmark = [pytest.mark.real, pytest.mark.django_db]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitSsh]:
    with GitSsh(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_of_this_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def project(served: GitSsh) -> Project:
    """With a deploy key that the host lets in, and one commit to fetch."""
    served.repository("acme.git").commit("First", {"a": "1"})
    made = factories.project(repository_url=served.url("acme.git"))
    made.make_deploy_key()
    served.authorize(made.deploy_key_public)
    return made


def accept(served: GitSsh) -> None:
    known_hosts.accept("127.0.0.1", served.port, [served.host_key.fingerprint], "ada")


def fetched(project: Project) -> str:
    mirror = mirror_of(project)
    mirror.fetch(lambda line: None)
    return mirror.resolve("main").sha


def test_a_deploy_key_opens_the_repository_once_the_hosts_key_is_accepted(project: Project, served: GitSsh) -> None:
    with pytest.raises(HostKeyUnknown) as raised:
        fetched(project)
    assert served.host_key.fingerprint in raised.value.message
    assert "SSH host keys" in raised.value.advice

    accept(served)
    assert fetched(project) == served.repository("acme.git").commit("First", {"a": "1"})


def test_a_changed_key_of_the_host_is_refused_until_somebody_accepts_it(project: Project, served: GitSsh) -> None:
    accept(served)
    before = served.host_key
    served.new_host_key()
    served.restart()

    with pytest.raises(HostKeyChanged) as raised:
        fetched(project)
    assert served.host_key.fingerprint in raised.value.message
    assert "in between" in raised.value.advice
    assert [one.state for one in known_hosts.offered("127.0.0.1", served.port)] == ["changed"]

    accept(served)
    assert fetched(project)
    assert KnownHost.objects.get(fingerprint=before.fingerprint).state == KnownHost.State.REVOKED


def test_a_key_of_another_type_than_the_accepted_one_is_a_changed_one(project: Project, served: GitSsh) -> None:
    accept(served)
    private = ec.generate_private_key(ec.SECP256R1())
    served.new_host_key(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())
    served.restart()
    with pytest.raises(HostKeyChanged) as raised:
        fetched(project)
    assert served.host_key.fingerprint in raised.value.message
    assert [one.state for one in known_hosts.offered("127.0.0.1", served.port)] == ["changed"]


def test_a_revoked_key_is_refused_though_an_earlier_version_believed_it(project: Project, served: GitSsh) -> None:
    known_at_first_sight().write_text(served.host_key.line + "\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known_at_first_sight())], check=True, capture_output=True)
    assert fetched(project), "what was stored at first sight, hashed as Debian has it, goes on working"
    assert [one.source for one in known_hosts.known(served.place)] == ["accepted at first sight, by an earlier oCore"]

    known_hosts.revoke("127.0.0.1", served.port, served.host_key.fingerprint, "ada")
    with pytest.raises(HostKeyChanged):
        fetched(project)


def test_a_key_that_the_host_does_not_know_is_refused_as_such(project: Project, served: GitSsh) -> None:
    accept(served)
    served.authorize()
    with pytest.raises(RepositoryRefused) as raised:
        fetched(project)
    assert raised.value.trouble == Trouble.REFUSED


def test_the_previous_key_is_used_besides_until_the_new_one_is_pasted(project: Project, served: GitSsh) -> None:
    accept(served)
    project.make_deploy_key()
    assert fetched(project)
    assert [one.trouble for one in connection.check_project(project)] == [Trouble.REFUSED], "the test asks for the new"

    served.authorize(project.deploy_key_public)
    assert connection.check_project(project)[0].good
    assert fetched(project)


def test_a_project_with_a_key_never_uses_the_agent_of_the_account(
    project: Project, served: GitSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(served)
    agent = tmp_path / "agent"
    started = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        while not agent.exists():
            assert started.poll() is None
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        subprocess.run(["ssh-add", "-q", "-"], input=project.deploy_key.encode(), check=True)
        elsewhere = factories.project(name="Other", slug="other", repository_url=project.repository_url)
        assert fetched(elsewhere), "a project without a key uses the agent, as ever"
        elsewhere.make_deploy_key()
        with pytest.raises(RepositoryRefused):
            fetched(elsewhere)
    finally:
        started.terminate()
        started.wait(10)


def test_a_submodule_gets_the_key_at_its_own_host_and_nothing_elsewhere(
    project: Project, served: GitSsh, tmp_path: Path
) -> None:
    accept(served)
    remote, sub = served.repository("acme.git"), served.repository("sub.git")
    sub.commit("Sub", {"s": "s"})
    sha = remote.submodule("sub", sub, url="../sub.git")
    mirror = mirror_of(project)
    mirror.fetch(lambda line: None)
    assert set(mirror.export(sha, tmp_path / "out", lambda line: None).submodules) == {"sub"}

    with GitSsh(tmp_path / "other") as other:
        other.repository("x.git").commit("one", {"a": "1"})
        other.authorize(project.deploy_key_public)
        beside = mirror._beside(Mirror(other.url("x.git"), tmp_path / "x.git").address)
        with pytest.raises(HostKeyUnknown):
            beside.fetch(lambda line: None)
        accept(other)
        with pytest.raises(RepositoryRefused):
            beside.fetch(lambda line: None)


def test_the_key_is_on_no_disk_and_in_no_argument_and_gone_with_who_held_it(
    project: Project, served: GitSsh, tmp_path: Path
) -> None:
    """A process that is killed in the middle of a fetch, here by a host that lets it wait."""
    accept(served)
    state = tmp_path / "state"
    state.mkdir()
    wait = state / "waiting"
    program = f"""
import os, sys
sys.path.insert(0, {str(Path.cwd())!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django; django.setup()
from django.conf import settings; settings.STATE_DIR = {str(state)!r}
from projects.git import Access, Deadlines
from projects.git.command import Git
from projects.git.address import parse
access = Access(keys=(sys.stdin.read(),), known_hosts=lambda: {served.host_key.line!r})
git = Git(parse({project.repository_url!r}), access, deadlines=Deadlines(30, 30))
print("ready", flush=True)
git.run("ls-remote", "--upload-pack=touch {wait}; sleep 20; true", "--", {project.repository_url!r})
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    assert holder.stdin
    holder.stdin.write(project.deploy_key.encode())
    holder.stdin.close()
    while not wait.exists():
        assert holder.poll() is None
    secret = project.deploy_key.splitlines()[2].encode()
    arguments = b"".join(path.read_bytes() for path in _readable(Path("/proc").glob("[0-9]*/cmdline")))
    assert b"IdentityFile=/proc/" in arguments
    assert secret not in arguments
    held = list(Path(f"/proc/{holder.pid}/fd").iterdir())
    assert any("memfd:ocore" in str(one.readlink()) for one in held)

    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not [path for path in state.rglob("*") if path.is_file() and secret in path.read_bytes()]


def _readable(paths: Iterator[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path


def test_the_test_of_a_connection_says_what_is_wrong_over_ssh(project: Project, served: GitSsh) -> None:
    environment = factories.environment(project=project, branch="release")

    def trouble() -> list[str]:
        return [one.trouble for one in connection.check_project(project)]

    assert trouble() == [Trouble.HOST_KEY_UNKNOWN]
    accept(served)
    assert trouble() == ["", Trouble.NO_REF]
    environment.branch = "main"
    environment.save(update_fields=["branch"])
    assert trouble() == ["", ""]
    project.repository_url = served.url("nothing.git")
    assert trouble() == [Trouble.NOT_FOUND]
    assert Deadlines().total > connection.DEADLINES.total
