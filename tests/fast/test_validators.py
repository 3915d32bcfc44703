"""What may be typed, and what is refused with a sentence."""

import subprocess
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from projects import validators
from projects.git.address import join, parse


def refused(validate, value) -> bool:
    try:
        validate(value)
    except ValidationError as caught:
        messages = caught.messages
    else:
        return False
    assert all(message.isprintable() for message in messages)
    return bool(messages)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab/.@{}-~^:?*[\\ \x01é"), min_size=1, max_size=8))
@example("@")
@example("HEAD")
@example("a.lock")
@example("x.lock/y")
@example("a..b")
@example("@{-1}")
def test_branch_names_are_gits_own(name: str) -> None:
    done = subprocess.run(["git", "check-ref-format", "--branch", name], capture_output=True, cwd="/", check=False)

    ours = not refused(validators.validate_branch, name)
    assert ours == (done.returncode == 0) or (name == "@" and not ours)


@pytest.mark.parametrize("name", ["refs/heads/main", "refs/tags/v1"])
def test_a_branch_is_written_as_people_say_it(name: str) -> None:
    with pytest.raises(ValidationError, match="without “refs/heads/”"):
        validators.validate_branch(name)


@pytest.mark.parametrize("name", ["-x", "--upload-pack=x", "a\x00b", "a\u202eb", "a\u0085b", "\ud800", "x" * 300, ""])
def test_branch_names_that_deceive_are_refused(name: str) -> None:
    assert refused(validators.validate_branch, name)


def test_refs_are_branches_tags_and_commits_and_no_expressions() -> None:
    for ref in ("main", "v1.0", "feature/tax", "1234567", "a" * 40):
        validators.validate_ref(ref)
    for ref in ("main~1", "main^", "HEAD", "main..next", "-f", "@{u}", ":/text", ""):
        assert refused(validators.validate_ref, ref)
    assert validators.is_commit_id("abcdef1")
    assert validators.is_commit_id("a" * 64)
    assert not validators.is_commit_id("abcdef")
    assert not validators.is_commit_id("main")


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.com/acme/addons.git",
        "https://git.example.com:8443/acme/addons",
        "https://dev.example.com/acme/My%20Project/_git/addons",
        "https://10.0.0.7/~ann/addons",
        "ssh://git@git.example.com/acme/addons.git",
        "ssh://git@git.example.com:2222/acme/addons.git",
        "git@git.example.com:acme/addons.git",
        "git@git.example.com:~ann/addons",
    ],
)
def test_addresses_of_repositories(url: str) -> None:
    validators.validate_repository_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "acme/addons",
        "/srv/addons",
        "../addons",
        "C:\\addons",
        "http://git.example.com/acme",
        "git://git.example.com/acme",
        "HTTPS://git.example.com/acme",
        "ftp://git.example.com/acme",
        "ext::sh -c id",
        "fd::7",
        "transport::address",
        "git@host:ext::sh",
        "https://ann:canary@git.example.com/acme",
        "https://canary@git.example.com/acme",
        "ssh://git:canary@git.example.com/acme",
        "https://git.example.com",
        "https://git.example.com/",
        "https:///acme",
        "https://git.example.com/acme/../other",
        "https://git.example.com/acme/%2e%2e/other",
        "https://git.example.com/acme%0aHost:x",
        "https://git.example.com/acme?x=1",
        "https://git.example.com/acme#x",
        "https://git.example.com/acme addons",
        "https://git.example.com/acme\n",
        "https://git.example.com:0/acme",
        "https://git.example.com:99999/acme",
        "https://-oProxyCommand=id/acme",
        "ssh://-oProxyCommand=id/acme",
        "ssh://-oProxyCommand=id@host/acme",
        "ssh://git@-oProxyCommand=id/acme",
        "ssh://git@host/-x/acme",
        "-oProxyCommand=id@host:acme",
        "git@-oProxyCommand=id:acme",
        "git@host:-x",
        "--upload-pack=id",
        "git@host:acme;id",
        "git@host:acme$(id)",
        "https://git.example.com/`id`",
        "https://gït.example.com/acme",
        "https://git.example.com/" + "a" * 500,
    ],
)
def test_addresses_that_git_must_not_see(url: str) -> None:
    with pytest.raises(ValidationError) as raised:
        validators.validate_repository_url(url)
    assert "canary" not in "".join(raised.value.messages)


def test_folders_are_repositories_only_below_the_allowed_ones(tmp_path: Path, settings) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    (allowed / "repository").mkdir(parents=True)
    outside.mkdir()
    (allowed / "link").symlink_to(outside)
    (allowed / "inner").symlink_to(allowed / "repository")
    settings.OCORE_FILE_REPOSITORIES = [str(allowed)]

    validators.validate_repository_url(f"file://{allowed}/repository")
    assert parse(f"file://{allowed}/inner").url == f"file://{allowed}/repository"
    for path in (outside, allowed, allowed / "link", f"{allowed}/../outside", f"{allowed}/%2e%2e/outside", "/", "/etc"):
        assert refused(validators.validate_repository_url, f"file://{path}"), path
    assert refused(validators.validate_repository_url, f"file://localhost{allowed}/repository")
    settings.OCORE_FILE_REPOSITORIES = []
    assert refused(validators.validate_repository_url, f"file://{allowed}/repository")


@pytest.mark.parametrize(
    ("parent", "relative", "joined"),
    [
        ("https://h.example/a/b.git", "../c.git", "https://h.example/a/c.git"),
        ("https://h.example/a/b.git/", "../c.git", "https://h.example/a/c.git"),
        ("https://h.example/a/b.git", "../../c/d.git", "https://h.example/c/d.git"),
        ("https://h.example/a/b", "./c", "https://h.example/a/b/c"),
        ("git@h.example:a/b.git", "../c.git", "git@h.example:a/c.git"),
        ("git@h.example:b.git", "../c.git", "git@h.example:c.git"),
        ("ssh://git@h.example:22/a/b.git", "../c.git", "ssh://git@h.example:22/a/c.git"),
        ("https://h.example/a/b", "https://other.example/c", "https://other.example/c"),
    ],
)
def test_relative_addresses_of_submodules(parent: str, relative: str, joined: str) -> None:
    assert join(parse(parent), relative).url == joined


@pytest.mark.parametrize("relative", ["../../../c", "../../../../c", "..", "ext::id", "-x", "../-x\n", "/etc"])
def test_relative_addresses_that_leave_the_host(relative: str) -> None:
    with pytest.raises(ValidationError):
        join(parse("https://h.example/a/b.git"), relative)


GOOD_AND_BAD = [
    (validators.validate_slug, "acme acme-2 a", "2acme Acme acme- -acme a--b a_b a.b /a é " + "a" * 41),
    (validators.validate_odoo_version, "19.0 14.0", "19 19.1 8.0 19.0.1 master saas-18.4 saas~18.4 ١٩.0 119.0 -1.0"),
    (
        validators.validate_image,
        "odoo:{version} odoo registry.example.com/a/odoo:19.0 localhost:5000/odoo r:5000/odoo@sha256:" + "a" * 64,
        "Odoo odoo: :19 odoo:{other} odoo:-x -odoo a//b odoo:19;id odoo@sha256:abc http://odoo /odoo odoo/",
    ),
    (
        validators.validate_endpoint,
        "unix:///var/run/docker.sock tcp://host:2376",
        "host /var/run/docker.sock http://host unix://relative ssh://ann@host ssh://-oProxyCommand=id tcp://a@b:1 unix:///a/../b",
    ),
    (
        validators.validate_domain,
        "localhost odoo.example.com x1-y.example",
        "Odoo.com -a.com a-.com a..b .a a. a_b a:80 *",
    ),
    (
        validators.validate_path,
        "/ /web/health /web/login?db=x",
        "web //host/x http://host/ /a\\b /a#b /\x00 /é " + "/a\nb",
    ),
    (
        validators.validate_dsn,
        "postgresql://dba:hidden@db.example.com:5433/postgres postgres://dba@10.0.0.2 postgresql://dba@[2001:db8::1]/x",
        "x postgresql://db/postgres postgresql://dba:hidden@/x postgresql://dba:hidden@localhost/x service=odoo "
        "postgresql://dba:hidden@one,two/x postgresql://dba:hidden@db/x?nonsense=1 https://dba:hidden@db/x "
        "postgresql://dba:hidden@/x?host=/run/postgresql postgresql://dba:hidden@127.0.0.1/x postgresql://db?user=",
    ),
    (
        validators.validate_variable_name,
        "a_1 _X TZ LANG PYTHONUNBUFFERED MALLOC_ARENA_MAX HTTPS_PROXY PAGE_SIZE",
        "1A A-B A=B A.B é PATH HOME LD_PRELOAD LD_LIBRARY_PATH PYTHONPATH PYTHONHOME PGPASSWORD PGHOST IFS PPID HOST "
        "ODOO_RC BASH_ENV OCORE_SCRIPT",
    ),
    (validators.validate_option_name, "log_level db_maxconn", "Log a-b a=b 1a [options] _x"),
]


@pytest.mark.parametrize(("validate", "good", "bad"), GOOD_AND_BAD, ids=[case[0].__name__ for case in GOOD_AND_BAD])
def test_names(validate, good: str, bad: str) -> None:
    for text in good.split(" "):
        assert not refused(validate, text), text
    for text in [*bad.split(" "), "", good.split(" ")[0] + "\n"]:
        assert refused(validate, text), text


def test_what_is_wrong_with_a_dsn_is_said_without_its_password() -> None:
    for dsn in ("postgresql://dba:hidden@/x", "postgresql://:hidden@db/x", "dba hidden"):
        with pytest.raises(ValidationError) as raised:
            validators.validate_dsn(dsn)
        assert "postgresql://role:password@host" in str(raised.value)
        assert "hidden" not in str(raised.value)


def test_errors_of_lists_and_mappings_name_their_field() -> None:
    validators.validate_modules(["sale_extra", "*"])
    validators.validate_pip_packages(["phonenumbers", "pdf-lib==1.2", "requests[socks]>=2"])
    validators.validate_variables({"A": "b\nc", "GONE": None}, "environment_variables")
    validators.validate_odoo_options({"log_level": "debug", "gone": None})
    validators.validate_modules(None)
    cases = [
        (lambda: validators.validate_modules(["a-b"]), "custom_modules"),
        (lambda: validators.validate_pip_packages(["--index-url=https://x"]), "pip_packages"),
        (lambda: validators.validate_pip_packages(["git+https://x/y"]), "pip_packages"),
        (lambda: validators.validate_pip_packages(["./local"]), "pip_packages"),
        (lambda: validators.validate_variables({"A": "\x00"}, "secret_variables"), "secret_variables"),
        (lambda: validators.validate_variables({"A B": ""}, "environment_variables"), "environment_variables"),
        (lambda: validators.validate_odoo_options({"log_level": "x\nadmin_passwd = y"}), "odoo_conf"),
    ]
    for call, field in cases:
        with pytest.raises(ValidationError) as raised:
            call()
        assert list(raised.value.message_dict) == [field]


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_the_address_of_an_api_has_a_port_that_there_is(port: str) -> None:
    with pytest.raises(ValidationError, match=f"no port {port}"):
        validators.validate_api_url(f"https://git.example.com:{port}/api/v4")
    validators.validate_api_url("https://git.example.com:65535/api/v4")
