"""How oCore gets into a repository: deploy keys that it makes, and a test of the connection that says what is wrong."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection as database
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from projects import connection
from projects.deploy_keys import new_key, public_half
from projects.git import Access, Deadlines, RepositoryUnreachable, Trouble
from projects.git import errors as git_errors
from projects.git.address import parse
from projects.hosts import HOSTS
from projects.models import Project, Repository
from tests import factories
from tests.git_https import CREDENTIALS, GitHttps
from tests.git_remote import GitRemote

SSH = "git@git.example.com:acme/addons.git"


@pytest.fixture
def project(db: None) -> Project:
    return factories.project(repository_url=SSH)


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def act(project: Project, name: str) -> str:
    return reverse(f"admin:projects_project_{name}", args=[project.pk])


def test_a_deploy_key_is_an_ed25519_pair_as_ssh_reads_it() -> None:
    private = new_key()
    line = public_half(private, "ocore-project-1")
    kind, _, comment = line.split()
    assert (kind, comment) == ("ssh-ed25519", "ocore-project-1")
    public = serialization.load_ssh_public_key(line.encode())
    public.verify(serialization.load_ssh_private_key(private.encode(), None).sign(b"x"), b"x")  # type: ignore
    assert new_key() != private


def test_the_secrets_of_an_access_are_its_token_and_the_lines_of_its_keys() -> None:
    private = new_key()
    access = Access("ann", "tok-canary", (private,))
    assert "tok-canary" in access.secrets
    assert set(private.splitlines()[1:-1]) <= set(access.secrets)
    assert private not in repr(access)
    assert "tok-canary" not in repr(access)


@pytest.mark.django_db
@pytest.mark.parametrize("kind", [Project, Repository])
def test_a_token_does_not_follow_its_row_to_another_host(project: Project, kind: type[Project | Repository]) -> None:
    row = project if kind is Project else Repository(project=project, name="oca")
    row.repository_url, row.repository_token = "https://git.example.com/a.git", "typed-for-it"
    row.save()
    row.repository_url = "https://git.example.com/b.git"
    row.full_clean()
    row.repository_url = "https://evil.example/a.git"
    with pytest.raises(ValidationError, match="another host"):
        row.full_clean()
    row.repository_token = "typed-for-that"
    row.full_clean()
    for token in ("ab\tcd", "ab\ncd"):
        row.repository_token = token
        with pytest.raises(ValidationError, match="control character"):
            row.full_clean()
        assert token in row.secrets, "what is told of a deployment never fails by it"


@pytest.mark.django_db
def test_a_key_that_is_made_again_at_once_leaves_the_pasted_one_in_use(project: Project) -> None:
    project.make_deploy_key()
    pasted = project.deploy_key
    project.make_deploy_key()
    project.make_deploy_key()
    assert project.access().keys == (project.deploy_key, pasted)


def test_who_has_a_key_of_its_own_is_nobody_elsewhere() -> None:
    here, there = parse(SSH), parse("git@elsewhere.example.com:x.git")
    access = Access("ann", "tok", ("key",))
    assert access.at(parse("git@git.example.com:other.git"), here.origin) is access
    elsewhere = access.at(there, here.origin)
    assert (elsewhere.username, elsewhere.token, elsewhere.keys, elsewhere.accounts_own) == ("", "", (), False)
    assert Access(token="tok").elsewhere.accounts_own, "without a key it is the account, as ever"


def test_the_private_half_is_encrypted_at_rest_and_an_old_one_is_used_besides_for_a_while(project: Project) -> None:
    project.make_deploy_key()
    first = project.deploy_key
    project.make_deploy_key()
    project = Project.objects.get()
    assert project.access().keys == (project.deploy_key, first)
    assert project.access(newest_key_only=True).keys == (project.deploy_key,)
    Project.objects.update(previous_deploy_key_until=timezone.now() - timedelta(seconds=1))
    assert Project.objects.get().access().keys == (project.deploy_key,)
    with database.cursor() as cursor:
        cursor.execute("SELECT deploy_key, previous_deploy_key FROM projects_project")
        assert not [stored for stored in cursor.fetchone() if "PRIVATE KEY" in stored]
    project.remove_deploy_key()
    assert Project.objects.get().access().keys == ()


def test_a_deploy_key_is_made_and_removed_by_those_who_may_and_only_its_public_half_is_shown(
    project: Project, root: Client
) -> None:
    page = reverse("admin:projects_project_change", args=[project.pk])
    root.post(act(project, "make_deploy_key"))
    project.refresh_from_db()
    shown = root.get(page).content.decode()
    assert project.deploy_key_public in shown
    assert HOSTS["github"].setup.deploy_key in shown.replace("&#x27;", "'")
    assert not [line for line in project.deploy_key.splitlines() if line in shown]
    root.post(act(project, "make_deploy_key"))
    assert "is tried besides until" in root.get(page).content.decode()
    root.post(act(project, "remove_deploy_key"))
    project.refresh_from_db()
    assert (project.deploy_key, project.previous_deploy_key) == ("", "")
    told = set(LogEntry.objects.values_list("change_message", flat=True))
    assert told == {"Deploy key made.", "New deploy key made.", "Deploy key removed."}


def test_the_command_makes_shows_and_removes_a_key(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="add --new"):
        call_command("deploy_key", "acme")
    call_command("deploy_key", "acme", "--new")
    made = capsys.readouterr()
    project.refresh_from_db()
    assert made.out.strip() == project.deploy_key_public
    assert "Deploy keys" in made.err
    call_command("deploy_key", "acme")
    assert capsys.readouterr().out.strip() == project.deploy_key_public
    with pytest.raises(CommandError, match="nothing was done"):
        call_command("deploy_key", "acme", "--remove")
    call_command("deploy_key", "acme", "--remove", "--yes")
    project.refresh_from_db()
    assert not project.deploy_key


def test_each_git_host_says_where_a_deploy_key_goes() -> None:
    assert not [name for name, host in HOSTS.items() if not host.setup.deploy_key]


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        ("fatal: unable to access 'https://h/': Could not resolve host: h", Trouble.HOST_NAME),
        ("ssh: Could not resolve hostname h: Name or service not known", Trouble.HOST_NAME),
        ("ssh: connect to host h port 22: Connection refused", Trouble.NO_CONNECTION),
        ("ssh: connect to host h port 22: Connection timed out", Trouble.NO_CONNECTION),
        ("ssh: connect to host h port 22: No route to host", Trouble.NO_CONNECTION),
        ("fatal: unable to access 'https://h/': server certificate verification failed", Trouble.CERTIFICATE),
        ("No ED25519 host key is known for h\nHost key verification failed.", Trouble.HOST_KEY_UNKNOWN),
        ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!", Trouble.HOST_KEY_CHANGED),
        ("git@h: Permission denied (publickey).", Trouble.REFUSED),
        ("remote: Public key authentication failed.", Trouble.REFUSED),
        ("fatal: Authentication failed for 'https://h/x'", Trouble.REFUSED),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", Trouble.REFUSED),
        ("ERROR: Repository not found.", Trouble.NOT_FOUND),
        ("remote: ERROR: The project you were looking for could not be found", Trouble.NOT_FOUND),
        ("fatal: '/x.git' does not appear to be a git repository", Trouble.NOT_FOUND),
        ("fatal: unable to update url base from redirection", Trouble.MOVED),
        ("fatal: couldn't find remote ref refs/heads/x", Trouble.NO_REF),
        ("sh: 1: ssh: not found", Trouble.PROGRAM),
        ("error: cannot run ssh: No such file or directory", Trouble.PROGRAM),
        ("fatal: write error: No space left on device", Trouble.THIS_MACHINE),
        ("fatal: what nobody has seen yet", Trouble.OTHER),
    ],
)
def test_what_git_says_becomes_a_few_plain_words(said: str, trouble: Trouble) -> None:
    assert git_errors.from_output("ssh://h/x", said).trouble == trouble


def test_the_new_key_of_a_host_is_named_where_ssh_says_it() -> None:
    shown = "SHA256:" + "a" * 43
    error = git_errors.from_output(
        "ssh://h/x", f"IDENTIFICATION HAS CHANGED\nREMOTE HOST IDENTIFICATION HAS CHANGED!\n{shown}."
    )
    assert shown in error.message


# The test of a connection


def test_each_word_for_what_is_wrong_is_explained_to_the_operator() -> None:
    section = (Path(settings.BASE_DIR) / "docs" / "operations.md").read_text().split("**The test of a connection**")[1]
    assert not [one for one in Trouble if one not in section.split("### Keys of git hosts")[0]]


@pytest.fixture
def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitHttps:
    with GitHttps(tmp_path / "https") as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.certificate))
        yield server


def trouble(project: Project) -> list[str]:
    return [one.trouble for one in connection.check_project(project)]


@pytest.mark.django_db
def test_the_test_of_a_connection_says_what_is_wrong_over_https(
    https: GitHttps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    https.repository("private/acme.git").commit("one", {"a": "1"})
    project = factories.project(repository_url=https.url("private/acme.git"), repository_token=CREDENTIALS[1])
    factories.environment(project=project)
    factories.environment(project=project, name="Staging", slug="staging", branch="staging")
    factories.environment(project=project, name="By hand", slug="hand", branch="")
    found = connection.check_project(project)
    assert [(one.what, one.trouble) for one in found] == [
        ("Connection", ""),
        ("Branch “main” of Acme / Production", ""),
        ("Branch “staging” of Acme / Staging", Trouble.NO_REF),
    ], found
    assert "with its token" in found[0].words

    project.repository_token = "wrong-canary"
    refused = connection.check_project(project)
    assert [one.trouble for one in refused] == [Trouble.REFUSED]
    assert "wrong-canary" not in repr(refused)
    for name, expected in (("public/nothing.git", Trouble.NOT_FOUND), ("moved/x.git", Trouble.MOVED)):
        project.repository_url = https.url(name)
        assert trouble(project) == [expected]
    project.repository_url = "https://127.0.0.1:1/x"
    assert trouble(project) == [Trouble.NO_CONNECTION]
    project.repository_url = "https://nowhere.invalid/x"
    assert trouble(project) == [Trouble.HOST_NAME]
    project.repository_url = "ext::sh"
    assert trouble(project) == [Trouble.ADDRESS]
    project.repository_url = https.url("public/x.git")
    monkeypatch.delenv("GIT_SSL_CAINFO")
    assert trouble(project) == [Trouble.CERTIFICATE]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert trouble(project) == [Trouble.PROGRAM]
    assert not (tmp_path / "mirrors").exists(), "nothing is fetched"


@pytest.mark.django_db
def test_a_host_that_never_answers_ends_the_test_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(connection, "DEADLINES", Deadlines(total=0.2))
    assert trouble(factories.project(repository_url="https://git.example.com/x.git")) == [Trouble.NO_CONNECTION]


@pytest.mark.django_db
def test_page_and_command_tell_the_findings(
    root: Client, remote: GitRemote, settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings.OCORE_FILE_REPOSITORIES = [str(tmp_path)]
    environment = factories.environment(project=factories.project(repository_url=remote.url), branch="gone")
    user = User.objects.create_user("eve", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_project"))
    eve = Client()
    eve.force_login(user)
    assert eve.post(act(environment.project, "test_connection")).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="test_repository"))
    assert eve.post(act(environment.project, "test_connection")).status_code == 200
    assert root.get(act(environment.project, "test_connection")).status_code == 405
    page = root.post(act(environment.project, "test_connection")).content.decode()
    assert "Branch or tag missing" in page
    assert "Good" in page
    with pytest.raises(SystemExit):
        call_command("check_repository", "acme")
    assert "branch or tag missing. The repository has no such branch" in capsys.readouterr().out
    type(environment).objects.update(branch="main")
    call_command("check_repository", "acme", "--json")
    assert '"good": true' in capsys.readouterr().out
    Project.objects.update(repository_url="")
    with pytest.raises(CommandError, match="no git repository"):
        call_command("check_repository", "acme")


@pytest.mark.django_db
def test_a_further_repository_has_a_key_of_its_own_and_is_tested_too(
    project: Project, remote: GitRemote, root: Client, settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.OCORE_FILE_REPOSITORIES = [str(tmp_path)]
    Project.objects.update(repository_url=remote.url)
    further = Repository.objects.create(project=project, name="enterprise", repository_url=SSH)
    assert further.deploy_key != project.deploy_key == ""
    page = root.get(reverse("admin:projects_project_change", args=[project.pk])).content.decode()
    assert further.deploy_key_public in page
    call_command("deploy_key", "acme", repository="enterprise", new=True)
    new = Repository.objects.get()
    assert new.deploy_key != further.deploy_key == new.previous_deploy_key
    assert new.deploy_key_public in capsys.readouterr().out
    call_command("deploy_key", "acme", repository="enterprise", remove=True, yes=True)
    Repository.objects.get().save()
    assert not Repository.objects.get().deploy_key, "what somebody removed is not made again"
    with pytest.raises(CommandError, match="no further repository “x”"):
        call_command("deploy_key", "acme", repository="x")
    Repository.objects.update(repository_url=f"{remote.url}-gone")
    found = connection.check_project(Project.objects.get())
    assert [one.good for one in found] == [True, False]
    assert "enterprise" in found[1].what


def test_an_unreachable_repository_keeps_its_own_words() -> None:
    assert RepositoryUnreachable("x").trouble == Trouble.NO_CONNECTION
