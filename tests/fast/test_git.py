"""Mirrors of real repositories: what is fetched, found and exported, and how it fails."""

import base64
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from projects.git import (
    Access,
    Deadlines,
    GitError,
    HostKeyChanged,
    HostKeyUnknown,
    Limits,
    Mirror,
    MirrorUnusable,
    RepositoryRefused,
    RepositoryUnreachable,
    UnknownRef,
    UnsafeRepository,
)
from projects.git import errors as git_errors
from projects.git.command import Git
from projects.git.environment import ASKPASS, known_at_first_sight
from tests.git_https import CREDENTIALS, GitHttps
from tests.git_remote import Executable, GitRemote, Link, Pin

CANARY = CREDENTIALS[1]


class Log(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(autouse=True)
def only_this_tests_folders(tmp_path: Path, settings) -> None:
    settings.STATE_DIR = tmp_path / "state"
    settings.OCORE_FILE_REPOSITORIES = [str(tmp_path)]


@pytest.fixture
def remote(tmp_path: Path) -> GitRemote:
    return GitRemote(tmp_path / "remotes" / "acme.git")


@pytest.fixture
def mirror(tmp_path: Path, remote: GitRemote) -> Mirror:
    return Mirror(remote.url, tmp_path / "mirrors" / "acme.git")


def listing(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in files
    }


# Fetching and finding


def test_branches_tags_and_commits_are_found(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    first = remote.commit("Add the module\n\nAt length.", {"a": "1"}, author="Zoë Ölund")
    second = remote.commit("Next", {"a": "2"})
    feature = remote.commit("Try", {"b": "1"}, branch="feature/tax")
    tag = remote.tag("v1", annotated=True, target=first)
    remote.tag("v2", target=second)
    mirror.fetch(log)

    found = mirror.resolve("v1")
    assert (found.sha, found.subject, found.author) == (first, "Add the module", "Zoë Ölund")
    assert found.committed_at == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    meant = {"main": second, "feature/tax": feature, "v2": second, first: first, first[:7]: first, tag: first}
    meant |= {"refs/heads/main": second, "refs/tags/v1": first}
    assert {ref: mirror.resolve(ref).sha for ref in meant} == meant


def test_a_branch_comes_before_a_tag_and_an_abbreviated_id_of_its_name(
    remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    first = remote.commit("one", {"a": "1"})
    second = remote.commit("two", {"a": "2"}, branch="next")
    remote.tag("next", target=first)
    remote.commit("three", {"a": "3"}, branch=first[:8])
    mirror.fetch(log)

    assert mirror.resolve("next").sha == second
    assert mirror.resolve(first[:8]).sha != first


@pytest.mark.parametrize(
    "ref", ["nope", "mian", "main~0", "main^{commit}", "HEAD", "-x", "", "\ud800", "a\x00b", "f" * 40]
)
def test_what_is_not_there_is_unknown_and_what_is_there_is_named(
    ref: str, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    remote.commit("one", {"a": "1"})
    mirror.fetch(log)

    with pytest.raises(UnknownRef) as raised:
        mirror.resolve(ref)
    assert "main" in raised.value.advice


def test_a_tag_of_a_file_is_no_commit(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    remote.tag("blob", target=mirror.files(mirror.resolve("main").sha)[0].sha)
    mirror.fetch(log)

    with pytest.raises(UnknownRef):
        mirror.resolve("blob")


def test_an_empty_repository_is_fetched_and_said_to_be_empty(mirror: Mirror, log: Log) -> None:
    mirror.fetch(log)

    assert mirror.ls_remote() == ""
    with pytest.raises(UnknownRef, match="empty"):
        mirror.resolve("main")


def test_nothing_is_looked_up_before_the_first_fetch(mirror: Mirror) -> None:
    with pytest.raises(MirrorUnusable, match="not fetched"):
        mirror.resolve("main")


def test_only_what_is_new_is_fetched(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    remote.commit("one", {f"{number}": f"{number}" for number in range(50)})
    mirror.fetch(log)
    log.clear()
    remote.commit("two", {"new": "new"})
    mirror.fetch(log)
    assert "Total 3 " in log.text

    log.clear()
    mirror.fetch(log)
    assert log == []


def test_force_pushes_and_deletions_are_followed_and_old_commits_kept(
    remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    first = remote.commit("one", {"a": "1"})
    dropped = remote.commit("two", {"a": "2"})
    remote.commit("x", {"a": "x"}, branch="feature")
    remote.tag("v1")
    mirror.fetch(log)
    forced = remote.commit("two again", {"a": "3"}, parent=first)
    remote.delete_branch("feature")
    remote.commit("below", {"a": "y"}, branch="feature/below")
    remote.tag("v1", target=forced)
    mirror.fetch(log)

    assert mirror.resolve("main").sha == mirror.resolve("v1").sha == forced
    assert mirror.has(dropped)
    assert not mirror.is_ancestor(dropped, forced)
    with pytest.raises(UnknownRef):
        mirror.resolve("feature")


def test_a_commit_that_no_branch_leads_to_is_fetched_by_its_id(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    first = remote.commit("one", {"a": "1"})
    gone = remote.commit("two", {"a": "2"})
    remote.reset("main", first)
    mirror.fetch(log)
    assert not mirror.has(gone)

    mirror.fetch(log, commit=gone)
    assert mirror.resolve(gone[:10]).subject == "two"
    mirror.fetch(log)
    assert mirror.has(gone)
    for missing in ("e" * 40, "main", "--upload-pack=x"):
        with pytest.raises(UnknownRef):
            mirror.fetch(log, commit=missing)


def test_pending_commits_and_ancestors(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    shas = [remote.commit(f"number {number}", {"a": str(number)}) for number in range(5)]
    mirror.fetch(log)

    assert [commit.sha for commit in mirror.log(shas[1], shas[4])] == [shas[4], shas[3], shas[2]]
    assert [commit.subject for commit in mirror.log("", shas[4], limit=2)] == ["number 4", "number 3"]
    assert len(mirror.log("d" * 40, shas[4])) == 5
    assert mirror.log(shas[4], shas[4]) == []
    assert mirror.is_ancestor(shas[0], shas[4])
    assert mirror.is_ancestor(shas[4], shas[4])
    assert not mirror.is_ancestor(shas[4], shas[0])
    with pytest.raises(UnknownRef):
        mirror.is_ancestor("d" * 40, shas[0])


def test_texts_of_commits_are_single_printable_lines(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    remote.commit("\x1b[31mred\x07 alert", {"a": "1"}, author="A\x1b]0;x\x07n")
    mirror.fetch(log)

    commit = mirror.resolve("main")
    assert commit.subject.isprintable()
    assert commit.author.isprintable()


def test_the_remotes_branches_are_asked_without_a_mirror(remote: GitRemote, mirror: Mirror) -> None:
    first = remote.commit("one", {"a": "1"})
    second = remote.commit("two", {"a": "2"}, branch="feature/tax")
    remote.tag("v1", annotated=True, target=first)

    asked = {"main": first, "feature/tax": second, "v1": first, "": first}
    assert {ref: mirror.ls_remote(ref) for ref in asked} == asked
    assert not mirror.path.exists()
    for ref in ("tax", "mai*", "-x", "--upload-pack=x"):
        with pytest.raises(UnknownRef):
            mirror.ls_remote(ref)


def test_sha256_repositories_work_the_same(tmp_path: Path, log: Log) -> None:
    remote = GitRemote(tmp_path / "long.git", object_format="sha256")
    sub = GitRemote(tmp_path / "longsub.git", object_format="sha256")
    pinned = sub.commit("s", {"s": "s"})
    first = remote.commit("one", {"a": "1"})
    second = remote.submodule("sub", sub)
    mirror = Mirror(remote.url, tmp_path / "m.git")
    mirror.fetch(log, commit=first)

    assert len(first) == 64
    assert mirror.ls_remote("main") == mirror.resolve(second[:12]).sha == second
    assert mirror.export(second, tmp_path / "out", log).submodules == {"sub": pinned}


# Exporting


def test_a_commits_files_are_exported_as_they_were_committed(
    tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    files = {
        "sale_x/__manifest__.py": "{'name': 'x'}",
        "sale_x/größe und mehr.txt": "é",
        "odd\nname": "x",
        "run.sh": Executable("#!/bin/sh\n"),
        "setup/addons/sale_x": Link("../../sale_x"),
        "dangling": Link("not/there"),
        "deep/" + "x" * 120 + "/" + "y" * 150: "long",
        "crlf.txt": "a\r\nb\n",
        ".gitattributes": "* text eol=crlf\n*.txt export-subst filter=lfs ident\nkept.py export-ignore\n",
        "kept.py": "not left out",
        "subst.txt": "$Format:%H$ $Id$\n",
    }
    sha = remote.commit("one", files)
    mirror.fetch(log)
    exported = mirror.export(sha, tmp_path / "out", log)

    out = tmp_path / "out"
    assert (out / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (out / "kept.py").stat().st_mode & 0o777 == 0o644
    assert (out / "crlf.txt").read_bytes() == b"a\r\nb\n"
    assert (out / "subst.txt").read_bytes() == b"$Format:%H$ $Id$\n"
    assert (out / "setup/addons/sale_x/__manifest__.py").read_text() == "{'name': 'x'}"
    assert set(listing(out)) == set(files)
    assert exported.files == len(files)
    assert (out / "run.sh").stat().st_mtime == mirror.resolve(sha).committed_at.timestamp()
    assert exported.submodules == {}


def test_files_are_listed_and_read_without_an_export(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    sha = remote.commit("one", {"a/b.txt": "text", "c": Link("a"), "sub": Pin("1" * 40)})
    mirror.fetch(log)
    entries = {entry.path: entry for entry in mirror.files(sha)}

    assert {path: (entry.mode, entry.type, entry.size) for path, entry in entries.items()} == {
        "a/b.txt": ("100644", "blob", 4),
        "c": ("120000", "blob", 1),
        "sub": ("160000", "commit", 0),
    }
    assert mirror.read(entries["a/b.txt"]) == b"text"


@pytest.mark.parametrize(
    "links",
    [
        {"x": "/etc/passwd"},
        {"x": "../outside"},
        {"a/b/x": "../../../outside"},
        {"a/up": "..", "x": "a/up/../outside"},
        {"a/b/up": "../..", "x": "a/b/up/../outside"},
        {"one": ".", "two": "one/.."},
        {"x": "/"},
    ],
    ids=str,
)
def test_links_that_leave_the_tree_are_refused_by_name(
    links: dict[str, str], tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sha = remote.commit("one", {"a/b/file": "1"} | {path: Link(target) for path, target in links.items()})
    mirror.fetch(log)

    with pytest.raises(UnsafeRepository, match=f"“{list(links)[-1]}” is a link out of the repository"):
        mirror.export(sha, tmp_path / "out", log)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "..", ".git/hooks/post-checkout", "a/.GIT/config", "a/../../x"])
def test_entries_with_unsafe_names_are_refused(
    name: str, tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sha = _commit_of_tree(remote, name)
    mirror.fetch(log)

    with pytest.raises(UnsafeRepository, match="unsafe name"):
        mirror.export(sha, tmp_path / "out", log)
    assert not (tmp_path / "x").exists()


def _commit_of_tree(remote: GitRemote, name: str) -> str:
    """git's own commands refuse such trees, so its objects are written byte by byte."""

    def write(kind: str, content: bytes) -> str:
        command = ["git", "--git-dir", str(remote.path), "hash-object", "--literally", "-w", "-t", kind, "--stdin"]
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout.decode().strip()

    sha, mode = write("blob", b"evil"), b"100644"
    for part in reversed(name.split("/")):
        sha, mode = write("tree", mode + b" " + part.encode() + b"\x00" + bytes.fromhex(sha)), b"40000"
    who = b"A <a@example.com> 1767225600 +0000"
    commit = write("commit", b"tree " + sha.encode() + b"\nauthor " + who + b"\ncommitter " + who + b"\n\nevil\n")
    remote.reset("main", commit)
    return commit


def test_too_many_or_too_large_files_are_refused(tmp_path: Path, remote: GitRemote, log: Log) -> None:
    sha = remote.commit("one", {f"{number}": "x" * 100 for number in range(10)})
    for limits, said in ((Limits(files=9), "more than 9 files"), (Limits(size_bytes=999), "larger than")):
        mirror = Mirror(remote.url, tmp_path / "m.git", limits=limits)
        mirror.fetch(log)
        with pytest.raises(UnsafeRepository, match=said):
            mirror.export(sha, tmp_path / "out", log)


def test_pointers_of_lfs_stay_pointers_and_are_told(
    tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 7\n"
    sha = remote.commit("one", {"big.bin": pointer, ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    mirror.fetch(log)
    mirror.export(sha, tmp_path / "out", log)

    assert (tmp_path / "out" / "big.bin").read_text() == pointer
    assert "1 files are only pointers of Git LFS" in log.text


def test_nothing_is_exported_over_what_is_there(tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log) -> None:
    sha = remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")

    with pytest.raises(ValueError, match="not empty"):
        mirror.export(sha, tmp_path / "out", log)
    assert listing(tmp_path / "out") == {"mine": "kept"}


# Submodules


def test_submodules_come_at_their_pinned_commits_nested_ones_too(
    tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    inner, outer = GitRemote(tmp_path / "remotes" / "inner.git"), GitRemote(tmp_path / "remotes" / "outer.git")
    pinned = inner.commit("pinned", {"deep/file": "pinned"})
    inner.commit("later", {"deep/file": "later"})
    outer.commit("one", {"addon/__manifest__.py": "{}", "up": Link("../../main.txt")})
    outer_pin = outer.submodule("vendor/inner", inner, pinned, url="../inner.git")
    remote.commit("one", {"main.txt": "main"})
    sha = remote.submodule("third/outer", outer)
    mirror.fetch(log)
    exported = mirror.export(sha, tmp_path / "out", log)

    assert exported.submodules == {"third/outer": outer_pin, "third/outer/vendor/inner": pinned}
    assert (tmp_path / "out/third/outer/vendor/inner/deep/file").read_text() == "pinned"
    assert (tmp_path / "out/third/outer/addon/__manifest__.py").read_text() == "{}"
    assert (tmp_path / "out/third/outer/up").read_text() == "main"

    log.clear()
    mirror.export(sha, tmp_path / "again", log)
    assert listing(tmp_path / "again") == listing(tmp_path / "out")
    assert "Receiving" not in log.text


def test_submodules_can_be_left_out(tmp_path: Path, remote: GitRemote, log: Log) -> None:
    sub = GitRemote(tmp_path / "sub.git")
    sub.commit("one", {"file": "1"})
    sha = remote.submodule("sub", sub)
    mirror = Mirror(remote.url, tmp_path / "m.git", submodules=False)
    mirror.fetch(log)

    assert mirror.export(sha, tmp_path / "out", log).submodules == {}
    assert not (tmp_path / "out" / "sub").exists()
    assert "1 submodules are left out" in log.text


def test_a_pinned_commit_that_was_never_pushed_is_said_to_be(
    tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sub = GitRemote(tmp_path / "sub.git")
    sub.commit("one", {"file": "1"})
    sha = remote.submodule("vendor/sub", sub, "9" * 40)
    mirror.fetch(log)

    with pytest.raises(UnknownRef, match="“vendor/sub” is pinned to commit 9999999999") as raised:
        mirror.export(sha, tmp_path / "out", log)
    assert "Push that commit" in raised.value.advice
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/pwned",
        "ssh://-oProxyCommand=id/x",
        "http://git.example.com/x",
        "git://git.example.com/x",
        "/etc",
        "file:///etc",
        "https://localhost/x",
        "https://127.0.0.1:9/x",
        "https://169.254.169.254/latest",
        "https://ann:canary@git.example.com/x",
        "-x",
    ],
)
def test_submodules_elsewhere_than_https_and_ssh_are_refused(
    url: str, tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sha = remote.submodule("sub", remote, "9" * 40, url=url)
    mirror.fetch(log)

    with pytest.raises(UnsafeRepository, match="“sub”"):
        mirror.export(sha, tmp_path / "out", log)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"sub": Pin("9" * 40)}, "doesn't say where it comes from"),
        ({"sub": Pin("9" * 40), ".gitmodules": "[submodule"}, "cannot be read"),
        ({"sub": Pin("9" * 40), ".gitmodules": Link("elsewhere")}, "not an ordinary"),
        (
            {"sub": Pin("9" * 40), ".gitmodules": '[submodule "x"]\n\tpath = "sub\r"\n\turl = https://h.example/x\n'},
            "doesn't say where it comes from",
        ),
    ],
    ids=["no .gitmodules", "broken", "link", "trailing CR"],
)
def test_a_gitmodules_that_says_nothing_useful(
    files: dict, said: str, tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sha = remote.commit("one", files)
    mirror.fetch(log)

    with pytest.raises(UnsafeRepository, match=said):
        mirror.export(sha, tmp_path / "out", log)


def test_a_submodule_of_itself_ends(tmp_path: Path, remote: GitRemote, log: Log) -> None:
    chain = [GitRemote(tmp_path / f"{number}.git") for number in range(4)]
    chain[-1].commit("end", {"file": "end"})
    for outer, inner in reversed(list(pairwise(chain))):
        outer.submodule("sub", inner)
    for depth, passes in ((3, True), (2, False)):
        mirror = Mirror(chain[0].url, tmp_path / "m.git", limits=Limits(depth=depth))
        mirror.fetch(log)
        with contextlib.nullcontext() if passes else pytest.raises(UnsafeRepository, match="nested more than 2"):
            mirror.export(chain[0].sha("main"), tmp_path / f"out{depth}", log)


# Damage, locks, deadlines


def test_locks_of_a_killed_fetch_are_removed(remote: GitRemote, mirror: Mirror, log: Log) -> None:
    remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    leftovers = [
        mirror.path / name for name in ("packed-refs.lock", "HEAD.lock", "refs/heads/main.lock", "config.lock")
    ]
    leftovers.append(mirror.path / "objects/pack/tmp_pack_abc")
    for leftover in leftovers:
        leftover.parent.mkdir(parents=True, exist_ok=True)
        leftover.touch()
    second = remote.commit("two", {"a": "2"})
    mirror.fetch(log)

    assert mirror.resolve("main").sha == second
    assert not any(leftover.exists() for leftover in leftovers)


def _lose_objects(mirror: Mirror) -> None:
    for pack in (mirror.path / "objects/pack").iterdir():
        pack.unlink()


def _garble_objects(mirror: Mirror) -> None:
    for pack in (mirror.path / "objects/pack").glob("*.pack"):
        pack.chmod(0o600)
        content = bytearray(pack.read_bytes())
        content[12:-20] = bytes(len(content) - 32)
        pack.write_bytes(content)


def _empty_config(mirror: Mirror) -> None:
    (mirror.path / "config").write_text("[core")


def _empty_head(mirror: Mirror) -> None:
    (mirror.path / "HEAD").write_text("")


def _empty_refs(mirror: Mirror) -> None:
    (mirror.path / "packed-refs").write_bytes(b"\x00" * 50)


@pytest.mark.parametrize("damage", [_lose_objects, _garble_objects, _empty_config, _empty_head, _empty_refs])
def test_a_damaged_mirror_heals_at_the_next_fetch(
    damage, tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    first = remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    damage(mirror)
    second = remote.commit("two", {"b": "2"})
    mirror.fetch(log)

    mirror.export(second, tmp_path / "out", log)
    assert listing(tmp_path / "out") == {"a": "1", "b": "2"}
    assert mirror.is_ancestor(first, second)


def _lose_a_blob(mirror: Mirror) -> None:
    blob = mirror.files(mirror.resolve("main").sha)[1].sha
    for pack in (mirror.path / "objects/pack").glob("*.pack"):
        content = pack.read_bytes()
        _lose_objects(mirror)
        subprocess.run(["git", "--git-dir", str(mirror.path), "unpack-objects", "-q"], input=content, check=True)
    (mirror.path / "objects" / blob[:2] / blob[2:]).unlink()


@pytest.mark.parametrize("damage", [_garble_objects, _lose_a_blob])
def test_damage_that_only_an_export_finds_heals_too(
    damage, tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sha = remote.commit("one", {"a": "1", "b": os.urandom(3000).hex(), "c": "3"})
    mirror.fetch(log)
    damage(mirror)

    mirror.export(sha, tmp_path / "out", log)
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_another_address_is_another_mirror(tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log) -> None:
    old = remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    other = GitRemote(tmp_path / "other.git")
    new = other.commit("other", {"a": "2"})
    moved = Mirror(other.url, mirror.path)
    moved.fetch(log)

    assert moved.resolve("main").sha == new
    assert not moved.has(old)


def test_an_unreachable_remote_leaves_the_mirror_as_it_was(
    tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    sha = remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    remote.path.rename(tmp_path / "away")

    with pytest.raises(RepositoryRefused):
        mirror.fetch(log)
    assert mirror.resolve("main").sha == sha


def test_two_fetches_at_once_take_turns(remote: GitRemote, mirror: Mirror) -> None:
    sha = remote.commit("one", {f"{number}": "x" for number in range(20)})
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            Mirror(remote.url, mirror.path).fetch(lambda line: None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert mirror.resolve("main").sha == sha


def test_many_fetches_end_in_few_packs_and_lose_nothing(
    monkeypatch: pytest.MonkeyPatch, remote: GitRemote, mirror: Mirror, log: Log
) -> None:
    monkeypatch.setattr("projects.git.store._PACKS", 4)
    first = remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    dropped = remote.commit("two", {"a": "2"})
    mirror.fetch(log)
    for number in range(3):
        remote.commit(f"again {number}", {"a": str(number)}, parent=first)
        mirror.fetch(log)

    assert len(list((mirror.path / "objects/pack").glob("*.pack"))) < 4
    assert mirror.has(dropped)


@pytest.fixture
def slow_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git that talks, starts a child and never ends; its folder tells the children's ids."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "git"
    script.write_text(
        f"#!/bin/sh\necho started >&2\nsleep 60 &\necho $! > {folder}/child\necho $$ > {folder}/self\nwait\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def _is_gone(folder: Path) -> bool:
    ids = [int((folder / name).read_text()) for name in ("child", "self")]
    for _ in range(100):
        if not any(_alive(number) for number in ids):
            return True
        time.sleep(0.01)
    return False


def _alive(number: int) -> bool:
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("deadlines", [Deadlines(total=0.3), Deadlines(silence=0.3)], ids=["total", "silence"])
def test_a_deadline_ends_git_and_its_children(deadlines: Deadlines, slow_git: Path, remote_url: str) -> None:
    began = time.monotonic()
    with pytest.raises(RepositoryUnreachable, match="stopped after"):
        Mirror(remote_url, slow_git / "m.git", deadlines=deadlines).ls_remote("main")
    assert time.monotonic() - began < 2
    assert _is_gone(slow_git)


@pytest.fixture
def remote_url() -> str:
    return "https://git.example.com/acme/addons.git"


def test_a_log_that_raises_ends_git_and_its_children(slow_git: Path, remote_url: str) -> None:
    class Cancelled(Exception):
        pass

    def log(line: str) -> None:
        time.sleep(0.1)
        raise Cancelled(line)

    address = Mirror(remote_url, slow_git / "m.git").address
    with pytest.raises(Cancelled, match="started"):
        Git(address, deadlines=Deadlines()).run("fetch", log=log)
    assert _is_gone(slow_git)


def test_a_fetch_whose_parent_was_killed_keeps_the_lock_until_it_ends(
    remote: GitRemote, mirror: Mirror, slow_git: Path, log: Log
) -> None:
    holder = os.fork()
    if not holder:
        with contextlib.suppress(BaseException):
            mirror._store._rebuild = lambda log, lock: mirror._store.git.run("fetch", keep=(lock,))  # type: ignore[method-assign]
            mirror.fetch(lambda line: None)
        os._exit(0)
    while not (slow_git / "self").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)

    with pytest.raises(MirrorUnusable, match="Another fetch"):
        Mirror(remote.url, mirror.path, deadlines=Deadlines(total=0.2)).fetch(log)
    os.killpg(int((slow_git / "self").read_text()), signal.SIGKILL)
    assert _is_gone(slow_git)


@pytest.fixture
def ssh(tmp_path: Path, remote: GitRemote, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `ssh` that notes how it was called, what was in the files it was given, and serves `remote`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    program.write_text(
        f"""#!/bin/sh
printf "%s\\n" "$@" >{folder}/arguments
env >{folder}/environment
for one in "$@"; do
    case $one in
    IdentityFile=*) cat "${{one#*=}}" >>{folder}/keys; stat -Lc %a "${{one#*=}}" >{folder}/mode;;
    UserKnownHostsFile=*) eval "cat ${{one#*=}}" >{folder}/known;;
    esac
done
exec git upload-pack {remote.path}
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/the/agent")
    return folder


SSH_URL = "ssh://git@git.example.com:2222/acme/addons.git"


def test_ssh_asks_nothing_and_accepts_no_host_by_itself(
    tmp_path: Path, settings, remote: GitRemote, log: Log, ssh: Path
) -> None:
    settings.STATE_DIR = tmp_path / "state with 'odd' name"
    known_at_first_sight().write_text("earlier ssh-ed25519 AAAA\n")
    sha = remote.commit("one", {"a": "1"})
    mirror = Mirror(SSH_URL, tmp_path / "m.git", token=CANARY)
    mirror.fetch(log)

    assert mirror.resolve("main").sha == sha
    arguments = (ssh / "arguments").read_text().splitlines()
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "2222", "git@git.example.com"} <= set(arguments)
    assert "github.com ssh-ed25519" in (ssh / "known").read_text()
    assert "earlier ssh-ed25519" in (ssh / "known").read_text()
    assert CANARY not in "".join(arguments)
    assert "SSH_AUTH_SOCK=/the/agent" in (ssh / "environment").read_text(), "without a key, what the account has"


def test_a_key_reaches_ssh_in_memory_and_nothing_else_does(
    tmp_path: Path, settings, remote: GitRemote, log: Log, ssh: Path
) -> None:
    access = Access(keys=("first-canary\n", "second-canary\n"), known_hosts=lambda: "host type key\n")
    mirror = Mirror(SSH_URL, tmp_path / "m.git", access=access)
    mirror.fetch(log)

    said = (ssh / "arguments").read_text() + (ssh / "environment").read_text()
    assert "canary" not in said
    assert "/the/agent" not in said
    assert "IdentitiesOnly=yes" in said
    assert "-F\n/dev/null" in said, "a key that the account's configuration names for this host is not tried either"
    assert (ssh / "keys").read_text() == "first-canary\nsecond-canary\n"
    assert (ssh / "known").read_text() == "host type key\n"
    assert (ssh / "mode").read_text() == "600\n"
    paths = [word.partition("=")[2] for word in said.splitlines() if word.startswith("IdentityFile=")]
    assert len(paths) == 2
    assert not any(Path(path).exists() for path in paths), "gone with the command"
    assert not [path for path in settings.STATE_DIR.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def test_elsewhere_a_submodule_gets_neither_the_key_nor_the_agent(tmp_path: Path, remote: GitRemote, ssh: Path) -> None:
    remote.commit("one", {"a": "1"})
    home = Mirror(SSH_URL, tmp_path / "m.git", access=Access(keys=("canary\n",)))
    home._beside(Mirror("git@elsewhere.example.com:x.git", tmp_path / "o.git").address).ls_remote()

    said = (ssh / "arguments").read_text() + (ssh / "environment").read_text()
    assert "PubkeyAuthentication=no" in said
    assert "/the/agent" not in said
    assert not (ssh / "keys").exists()
    home._beside(Mirror("ssh://git@git.example.com:2222/other.git", tmp_path / "p.git").address).ls_remote()
    assert (ssh / "keys").read_text() == "canary\n"


def test_only_what_speaks_with_the_remote_sees_credentials(tmp_path: Path, slow_git: Path) -> None:
    (slow_git / "git").write_text("#!/bin/sh\nenv\n")
    asked: list[int] = []
    access = Access("ann", CANARY, ("key-canary",), known_hosts=lambda: asked.append(1) or "")
    for url, canary in (("https://git.example.com/x.git", CANARY), (SSH_URL, "OCORE_GIT_KNOWN_HOSTS")):
        git = Git(Mirror(url, tmp_path / "m.git").address, access, deadlines=Deadlines())
        assert canary.encode() not in git.run("cat-file", "-e", "x").output
        assert canary.encode() in git.run("fetch", "x").output
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Username for 'https://git.example.com:8443': ", "ann@example.com"),
        ("Password for 'https://ann%40example.com@git.example.com:8443': ", "s3cret"),
        ("Password for 'https://ann@example.com@git.example.com:8443': ", "s3cret"),
        ("Password for 'https://git.example.com:8443': ", ""),
        ("Username for 'https://git.example.com': ", ""),
        ("Username for 'http://git.example.com:8443': ", ""),
        ("Password for 'https://ann@evil.example': ", ""),
        ("Password for 'https://ann@evil.example/x@git.example.com:8443': ", ""),
        ("Password for 'https://a@b@git.example.com:8443': ", ""),
        ("Password for 'http://proxy@git.example.com:8443': ", ""),
        ("Password for 'https://ann@git.example.com:8443': x", ""),
        ("Enter passphrase for key: ", ""),
        ("", ""),
    ],
)
def test_the_askpass_answers_for_its_own_origin_only(prompt: str, answer: str) -> None:
    environment = {
        "OCORE_GIT_HOST": "git.example.com:8443",
        "OCORE_GIT_USERNAME": "ann@example.com",
        "OCORE_GIT_TOKEN": "s3cret",
    }
    done = subprocess.run([str(ASKPASS), prompt], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.rstrip("\n") == answer
    assert bool(done.returncode) == (not answer)


# Credentials, over https


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHttps]:
    with GitHttps(tmp_path_factory.mktemp("https")) as server:
        yield server


@pytest.fixture
def trusting(https: GitHttps, monkeypatch: pytest.MonkeyPatch) -> GitHttps:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(https.certificate))
    https.seen.clear()
    return https


def test_a_token_opens_a_private_repository_and_is_left_nowhere(trusting: GitHttps, tmp_path: Path, log: Log) -> None:
    remote = trusting.repository("private/tokened.git")
    sub = trusting.repository("private/sub.git")
    sub.commit("s", {"s": "s"})
    sha = remote.submodule("sub", sub, url="../sub.git")
    mirror = Mirror(trusting.url("private/tokened.git"), tmp_path / "m.git", username=CREDENTIALS[0], token=CANARY)
    assert mirror.ls_remote("main") == sha
    mirror.fetch(log)
    mirror.export(sha, tmp_path / "out", log)

    assert CANARY not in log.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_the_token_is_in_no_argument(trusting: GitHttps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting.repository("private/argv.git").commit("one", {"a": "1"})
    arguments: list[str] = []

    def look(_: object) -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments.append(process.read_bytes().decode(errors="replace"))

    trusting.on_request = look
    Mirror(trusting.url("private/argv.git"), tmp_path / "m.git", token=CANARY).fetch(lambda line: None)
    trusting.on_request = None

    assert any("argv.git" in line for line in arguments)
    assert not any(CANARY in line for line in arguments)


def test_a_user_name_with_an_at_sign_reaches_the_host_as_it_is(trusting: GitHttps, tmp_path: Path) -> None:
    """git asks for such a user's password with the sign escaped, in ways that differ by version."""
    with pytest.raises(RepositoryRefused):
        Mirror(trusting.url("private/x.git"), tmp_path / "m.git", username="a@b/c", token=CANARY).ls_remote()
    given = [authorization.removeprefix("Basic ") for _, authorization in trusting.seen if authorization]
    assert {base64.b64decode(one).decode() for one in given} == {f"a@b/c:{CANARY}"}


@pytest.mark.parametrize("token", ["", "wrong-token-canary"])
def test_wrong_or_missing_credentials_are_refused_as_such(token: str, trusting: GitHttps, tmp_path: Path) -> None:
    trusting.repository("private/refused.git").commit("one", {"a": "1"})

    with pytest.raises(RepositoryRefused, match="credentials") as raised:
        Mirror(trusting.url("private/refused.git"), tmp_path / "m.git", token=token).fetch(lambda line: None)
    assert "token" in raised.value.advice
    assert "wrong-token-canary" not in raised.value.message + raised.value.detail


def test_a_repository_that_is_not_there_is_said_to_be_missing(trusting: GitHttps, tmp_path: Path) -> None:
    with pytest.raises(RepositoryRefused, match="There is no repository"):
        Mirror(trusting.url("public/nothing.git"), tmp_path / "m.git").ls_remote()


def test_a_redirect_is_not_followed_and_gets_no_token(trusting: GitHttps, tmp_path: Path) -> None:
    with pytest.raises(RepositoryRefused, match="sends us to another address") as raised:
        Mirror(trusting.url("moved/x.git"), tmp_path / "m.git", token=CANARY).ls_remote()
    assert ".git" in raised.value.advice
    assert not any("elsewhere" in path for path, _ in trusting.seen)


def test_the_token_goes_to_its_own_host_only(trusting: GitHttps, tmp_path: Path, log: Log) -> None:
    with GitHttps(tmp_path / "other", certificate_of=trusting) as other:
        other.repository("private/x.git").commit("one", {"a": "1"})
        home = Mirror(trusting.url("private/x.git"), tmp_path / "m.git", token=CANARY)
        beside = home._beside(Mirror(other.url("private/x.git"), tmp_path / "o.git").address)
        with pytest.raises(RepositoryRefused):
            beside.fetch(log)
        assert other.seen
        assert not any(authorization for _, authorization in other.seen)


def test_an_untrusted_certificate_is_said_to_be(https: GitHttps, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    with pytest.raises(RepositoryUnreachable, match="certificate"):
        Mirror(https.url("public/x.git"), tmp_path / "m.git").ls_remote()


def test_a_host_that_refuses_or_has_no_name_is_unreachable(tmp_path: Path) -> None:
    for url in (
        "https://127.0.0.1:1/x",
        "https://nowhere.invalid/x",
        "ssh://git@127.0.0.1:1/x",
        "git@nowhere.invalid:x",
    ):
        with pytest.raises(RepositoryUnreachable, match="cannot be reached") as raised:
            Mirror(url, tmp_path / "m.git", deadlines=Deadlines(total=10)).ls_remote()
        assert raised.value.detail


def test_a_token_that_would_forge_lines_is_refused(tmp_path: Path, remote_url: str) -> None:
    with pytest.raises(RepositoryRefused, match="control character"):
        Mirror(remote_url, tmp_path / "m.git", token="a\nhost=evil.example")


@pytest.mark.parametrize("url", ["ext::sh -c id", "/etc", "http://h.example/x", "--upload-pack=id", "file:///etc"])
def test_a_mirror_of_an_unsafe_address_is_never_made(url: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeRepository):
        Mirror(url, tmp_path / "m.git")


def test_configuration_hooks_and_helpers_of_the_machine_are_not_used(
    tmp_path: Path, remote: GitRemote, mirror: Mirror, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "sprung"
    home = tmp_path / "evil-home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[core]\n\tfsmonitor = "touch {trap}"\n\tsshCommand = "touch {trap}"\n[url "/nowhere"]\n\tinsteadOf = file://\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {trap}")
    monkeypatch.setenv("GIT_DIR", str(home))
    sha = remote.commit("one", {"a": "1"})
    mirror.fetch(log)
    hooks = mirror.path / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {trap}\n")
        (hooks / name).chmod(0o755)
    remote.commit("two", {"a": "2"})
    mirror.fetch(log)
    mirror.export(sha, tmp_path / "out", log)

    assert not trap.exists()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: unable to access 'https://h/': Could not resolve host: h", RepositoryUnreachable),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 503", RepositoryUnreachable),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 403", RepositoryRefused),
        ("ssh: connect to host h port 22: Connection timed out", RepositoryUnreachable),
        (
            "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
            HostKeyUnknown,
        ),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", HostKeyChanged),
        ("@ WARNING: REVOKED HOST KEY DETECTED! @\nThe ED25519 host key for h is marked as revoked.", HostKeyChanged),
        ("sh: 1: ssh: not found\nfatal: Could not read from remote repository.", MirrorUnusable),
        ("remote: TF401019: The Git repository with name or identifier x does not exist", RepositoryRefused),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", RepositoryRefused),
        ("remote: Repository not found.\nfatal: repository 'https://h/x/' not found", RepositoryRefused),
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", RepositoryRefused),
        ("remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://h/x'", RepositoryRefused),
        ("fatal: remote error: upload-pack: not our ref 999", UnknownRef),
        ("error: RPC failed; curl 56 Recv failure: Connection reset by peer\nfatal: early EOF", RepositoryUnreachable),
        ("error: file write error: No space left on device\nfatal: index-pack failed", MirrorUnusable),
        ("fatal: something new", GitError),
    ],
)
def test_what_git_says_is_told_apart(said: str, kind: type[GitError]) -> None:
    error = git_errors.from_output("https://h/x", said)

    assert type(error) is kind
    assert error.detail == said
    assert error.advice
    assert ("SSH host keys" in error.advice) == isinstance(error, HostKeyUnknown | HostKeyChanged)
