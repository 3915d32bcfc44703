"""A project's repository on this machine: a bare mirror, of which only what is new is ever fetched.

No checkout, hook, filter, LFS download or repository configuration is ever made use of: what comes out is the bytes
that were committed.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

from django.core.exceptions import ValidationError

from . import errors
from .access import Access
from .address import Address, parse
from .command import Deadlines, Log
from .store import FULL_ID, Store
from .submodules import address_of, urls_by_path
from .tree import Entry, Limits, Tree, shown

_SHORT_ID = re.compile(r"[0-9a-f]{7,63}")
_SAFE_REF = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]{1,300}")
_GITMODULES_MAX = 1 << 20
_BRANCHES = "refs/heads/"
"""What is there is a commit: git lets nothing else in."""
_COMMITTED = re.compile(rb"^committer .*> (-?\d+) [-+]\d+$", re.MULTILINE)


@dataclass(frozen=True)
class Commit:
    sha: str
    subject: str
    author: str
    committed_at: datetime


@dataclass(frozen=True)
class Exported:
    files: int
    size_bytes: int
    submodules: dict[str, str]
    """Path -> commit, nested ones included."""


class Mirror:
    """The repository at `url`, kept in the folder `path`; its submodules' in `<path's stem>.modules` beside it.
    Credentials (`access`, or `username` and `token`) go to `url`'s own origin and nowhere else."""

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        access: Access | None = None,
        username: str = "",
        token: str = "",
        submodules: bool = True,
        deadlines: Deadlines | None = None,
        limits: Limits | None = None,
        modules: Path | None = None,
    ) -> None:
        try:
            self.address: Address = parse(url)
        except ValidationError as error:
            advice = "Correct the address of the project's repository."
            raise errors.UnsafeRepository(" ".join(error.messages), advice=advice) from None
        self.path = Path(path)
        self._modules = modules or self.path.parent / f"{self.path.stem}.modules"
        self._submodules, self._limits, self._deadlines = submodules, limits or Limits(), deadlines or Deadlines()
        self._access = access or Access(username.strip(), token.strip())
        self._store = Store(self.address, self.path, self._access, self._deadlines)

    def ls_remote(self, ref: str = "") -> str:
        """The commit that a branch or tag of the remote is at now, without touching the mirror. With `ref` empty, of
        its default branch, "" if the repository is empty."""
        patterns = [name + suffix for name in _names(ref) for suffix in ("", "^{}")] if ref else ["HEAD"]
        found = self._advertised(*patterns)
        if not ref:
            return found.get("HEAD", "")
        for name in _names(ref):
            if name in found:
                return found.get(f"{name}^{{}}", found[name])
        raise errors.UnknownRef(f"The repository {self.address} has no branch or tag “{shown(ref)}”.")

    def branches(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the remote's branches that it has, with their commits, asked in one go."""
        found = self._advertised("HEAD", *(f"{_BRANCHES}{name}" for name in names if _SAFE_REF.fullmatch(name)))
        return {name.removeprefix(_BRANCHES): sha for name, sha in found.items() if name.startswith(_BRANCHES)}

    def _advertised(self, *patterns: str) -> dict[str, str]:
        said = self._store.git.run("ls-remote", "--quiet", "--", self.address.url, *patterns).output.decode()
        return {name: sha for sha, _, name in (line.partition("\t") for line in said.splitlines())}

    def fetch(self, log: Log, *, commit: str = "") -> None:
        """Bring all branches and tags up to date, forgetting those that are gone; and see that `commit` (a whole id)
        is there, also when no branch leads to it any more, as far as the remote gives it out."""
        self._store.update(log, commit)

    def has(self, sha: str) -> bool:
        return self._store.has(sha)

    def resolve(self, ref: str) -> Commit:
        """The commit that is meant by a whole id, a branch, a tag or the beginning of an id, in this order."""
        sha = self._find(ref)
        if not sha:
            raise self._unknown(ref)
        return self._commits("-1", sha)[0]

    def is_ancestor(self, ancestor: str, descendant: str) -> bool:
        """Whether `descendant` has all of `ancestor`; so has a commit of itself."""
        self._required(ancestor)
        self._required(descendant)
        return self._store.ask("merge-base", "--is-ancestor", ancestor, descendant, accepted=(0, 1)).code == 0

    def log(self, base: str, tip: str, limit: int = 50) -> list[Commit]:
        """The commits that `tip` has and `base` doesn't, newest first; all of `tip`'s when `base` is "" or unknown."""
        self._required(tip)
        return self._commits(f"-{limit:d}", tip, *([f"^{base}"] if base and self.has(base) else []))

    def files(self, sha: str) -> list[Entry]:
        """All files and submodules of a commit, folders left out."""
        self._required(sha)
        return self._list(sha)

    def _list(self, sha: str) -> list[Entry]:
        listing = self._store.ask("ls-tree", "-r", "-z", "-l", "--full-tree", sha).output
        entries = []
        for line in listing.decode("utf-8", "surrogateescape").split("\x00")[:-1]:
            facts, _, path = line.partition("\t")
            mode, kind, blob, size = facts.split()
            if size == "BAD":
                raise self._store.damaged(f"{blob} {shown(path)} is missing")
            entries.append(Entry(path, mode, kind, blob, 0 if size == "-" else int(size)))
        return entries

    def read(self, entry: Entry) -> bytes:
        """What is in a file of `files`."""
        return self._store.ask("cat-file", "blob", entry.sha).output

    def export(self, sha: str, target: Path, log: Log) -> Exported:
        """Put the commit's files into `target`, an empty or new folder, with its submodules at their pinned commits.
        Whatever goes wrong leaves the folder empty."""
        tree = Tree(Path(target), self._limits)
        pinned: dict[str, str] = {}
        try:
            try:
                self._export(sha, tree, "", pinned, log, 0)
            except errors.MirrorDamaged:
                log("Our copy of the repository is damaged; it is fetched anew.")
                self.fetch(log, commit=sha)
                tree.reset()
                pinned.clear()
                self._export(sha, tree, "", pinned, log, 0)
            tree.finish()
        except BaseException:
            tree.reset()
            raise
        if tree.lfs_pointers:
            log(f"{tree.lfs_pointers} files are only pointers of Git LFS, whose contents are not fetched.")
        return Exported(tree.files, tree.size_bytes, pinned)

    def _export(self, sha: str, tree: Tree, prefix: str, pinned: dict[str, str], log: Log, depth: int) -> None:
        moment = _committed_at(self._required(sha))
        entries = self._list(sha)
        if any(entry.path == ".gitmodules" and (entry.is_link or entry.size > _GITMODULES_MAX) for entry in entries):
            raise errors.UnsafeRepository("The repository's .gitmodules is not an ordinary small file.")
        tree.admit(entries, prefix)
        blobs = [entry for entry in entries if entry.type == "blob"]
        with self._store.blobs(entry.sha for entry in blobs) as stream:
            tree.unpack(blobs, stream, prefix, moment.timestamp())
        links = [entry for entry in entries if entry.type == "commit"]
        if links and not self._submodules:
            log(f"{len(links)} submodules are left out, as it is set.")
        elif links and depth == self._limits.depth:
            raise errors.UnsafeRepository(f"Submodules are nested more than {self._limits.depth} deep.")
        elif links:
            urls = self._submodule_urls(entries)
            for entry in links:
                self._export_submodule(entry, urls, tree, prefix, pinned, log, depth)

    def _export_submodule(
        self, entry: Entry, urls: dict[str, str], tree: Tree, prefix: str, pinned: dict[str, str], log: Log, depth: int
    ) -> None:
        address, path = address_of(entry.path, urls, self.address), prefix + entry.path
        tree.submodule(path)
        pinned[path] = entry.sha
        log(f"Submodule {shown(path)} at {entry.sha[:10]} of {address}")
        beside = self._beside(address)
        try:
            beside._store.update_to(entry.sha, log)
            beside._export(entry.sha, tree, f"{path}/", pinned, log, depth + 1)
        except errors.UnknownRef as error:
            raise errors.UnknownRef(
                f"The submodule “{shown(path)}” is pinned to commit {entry.sha[:10]}, which {address} doesn't have.",
                detail=error.detail,
                advice="Push that commit to the submodule's repository, or pin another one, and push again.",
            ) from None
        except errors.RepositoryRefused as error:
            error.message = f"The submodule “{shown(path)}”: {error.message}"
            raise

    def _beside(self, address: Address) -> "Mirror":
        return Mirror(
            address.url,
            self._modules / f"{hashlib.sha256(address.url.encode()).hexdigest()[:24]}.git",
            access=self._access.at(address, self.address.origin),
            deadlines=self._deadlines,
            limits=self._limits,
            modules=self._modules,
        )

    def _submodule_urls(self, entries: list[Entry]) -> dict[str, str]:
        entry = next((entry for entry in entries if entry.path == ".gitmodules"), None)
        if entry is None:
            return {}
        arguments = ("config", "--blob", entry.sha, "--no-includes", "--list", "-z")
        result = self._store.git.run(*arguments, git_dir=self.path, accepted=(0, 1, 3, 128))
        if result.code:
            raise errors.UnsafeRepository("The repository's .gitmodules cannot be read.", detail=result.said)
        return urls_by_path(result.output)

    def _find(self, ref: str) -> str:
        """The whole id of a commit, "" if there is none."""
        if FULL_ID.fullmatch(ref):
            return self._peeled(ref)
        for name in _names(ref):
            result = self._store.ask("show-ref", "--verify", "--hash", name, accepted=(0, 1, 128))
            if result.code == 0:
                sha = result.output.decode().strip()
                return sha if name.startswith(_BRANCHES) else self._peeled(sha)
        if not _SHORT_ID.fullmatch(ref):
            return ""
        candidates = self._store.ask("rev-parse", f"--disambiguate={ref}").output.decode().split()
        commits = sorted({commit for commit in map(self._peeled, candidates) if commit})
        if len(commits) > 1:
            raise errors.UnknownRef(
                f"“{ref}” is the beginning of {len(commits)} commits' ids.", advice="Write more of the commit's id."
            )
        return commits[0] if commits else ""

    def _peeled(self, sha: str) -> str:
        """The commit itself or the one that a tag points to; "" for anything else."""
        result = self._store.ask("rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}", accepted=(0, 1, 128))
        return result.output.decode().strip()

    def _required(self, sha: str) -> bytes:
        """As `Store.commit`. Raises `UnknownRef`."""
        if found := self._store.commit(sha):
            return found
        raise self._unknown(sha)

    def _unknown(self, ref: str) -> errors.UnknownRef:
        listing = self._store.ask("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags").output
        names = listing.decode(errors="replace").split("\n")[:-1]
        if not names:
            return errors.UnknownRef(f"The repository {self.address} is empty.", advice="Push something first.")
        near = get_close_matches(ref, names[:5000], n=3) or names[:5]
        return errors.UnknownRef(
            f"The repository {self.address} has no branch, tag or commit “{shown(ref)}”.",
            advice=f"Check the spelling, and that it was pushed. There is, for example: {', '.join(map(shown, near))}.",
        )

    def _commits(self, *selection: str) -> list[Commit]:
        form = "--format=%H%x00%an%x00%ct%x00%s"
        said = self._store.ask("log", "-z", "--no-color", "--encoding=UTF-8", form, *selection, "--").output
        texts = said.decode(errors="replace").split("\x00")
        return [
            Commit(sha, _line(subject), _line(author), _moment(seconds))
            for sha, author, seconds, subject in zip(*(texts[place::4] for place in range(4)), strict=False)
        ]


def _names(ref: str) -> tuple[str, ...]:
    """The full names that a person may mean; a branch before a tag of the same name."""
    if not _SAFE_REF.fullmatch(ref):
        return ()
    return (ref,) if ref.startswith((_BRANCHES, "refs/tags/")) else (f"{_BRANCHES}{ref}", f"refs/tags/{ref}")


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:300].strip()


def _committed_at(commit: bytes) -> datetime:
    found = _COMMITTED.search(commit.partition(b"\n\n")[0])
    return _moment(found[1].decode() if found else "")


def _moment(seconds: str) -> datetime:
    """A commit may claim any time."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
