"""The bare repository behind a mirror: brought up to date under a lock, healed when a killed fetch broke it."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ocore import waiting

from . import errors
from .access import Access
from .address import Address
from .command import DeadlineReader, Deadlines, Git, Log, Result

FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_KEPT = "refs/ocore/kept"
_DAMAGED = "ocore-damaged"
_ORIGIN = "ocore-url"
_PACKS = 40
"""From so many packs on they are made one; none of their objects is dropped, since a rollback may want it."""
_LEFTOVERS = ("*.lock", "refs/**/*.lock", "objects/**/*.lock", "objects/**/tmp_*", "objects/pack/.tmp-*")


class Store:
    """The repository at `address`, kept bare in the folder `path`."""

    def __init__(self, address: Address, path: Path, access: Access, deadlines: Deadlines) -> None:
        self.address, self.path, self.deadlines = address, path, deadlines
        self.git = Git(address, access, deadlines=deadlines)

    def update(self, log: Log, commit: str = "") -> None:
        """All branches and tags as they are there now; and `commit` too, if the remote gives it out."""
        with self._locked(log) as lock:
            if self._usable():
                try:
                    self._fetch(self.path, log, lock, "--prune", *_REFSPECS)
                    present = not commit or self.has(commit)
                except errors.GitError as error:
                    if not errors.may_be_ours(error):
                        raise
                    log("Our copy of the repository is damaged; it is fetched anew.")
                    self._rebuild(log, lock)
                    present = not commit or self.has(commit)
            else:
                self._rebuild(log, lock)
                present = not commit or self.has(commit)
            if not present:
                self._fetch_commit(commit, log, lock)
            self._tidy(lock)

    def update_to(self, commit: str, log: Log) -> None:
        """See that `commit` is there: it alone where the remote gives single commits, else with everything else."""
        with self._locked(log) as lock:
            if not self._usable():
                self._create(self.path, "sha256" if len(commit) == 64 else "sha1")
            if self.has(commit):
                return
            with contextlib.suppress(errors.UnknownRef):
                self._fetch_commit(commit, log, lock, "--depth=1")
                return
        self.update(log)

    def has(self, sha: str) -> bool:
        return bool(self.commit(sha))

    def commit(self, sha: str) -> bytes:
        """The commit as git keeps it: its header, an empty line, its message. Empty where it isn't there."""
        if not FULL_ID.fullmatch(sha):
            return b""
        result = self.git.run("cat-file", "commit", sha, git_dir=self.path, accepted=(0, 1, 128))
        if result.code and errors.looks_damaged(result.said):
            raise self._damaged(errors.from_local_output(result.said))
        return b"" if result.code else result.output

    def ask(self, *arguments: str, accepted: Sequence[int] = (0,)) -> Result:
        """Run git on the mirror as it is."""
        if not (self.path / "HEAD").exists():
            raise errors.MirrorUnusable(f"The repository {self.address} was not fetched yet.", advice="Fetch it first.")
        try:
            return self.git.run(*arguments, git_dir=self.path, accepted=accepted, local=True)
        except errors.MirrorDamaged as error:
            raise self._damaged(error) from None

    def damaged(self, detail: str) -> errors.GitError:
        """The error to raise for what a reader found broken."""
        return self._damaged(errors.MirrorDamaged("oCore's copy of the repository is damaged.", detail=detail))

    def _damaged(self, error: errors.GitError) -> errors.GitError:
        """Remember it, so that the next fetch makes the mirror anew."""
        if isinstance(error, errors.MirrorDamaged):
            with contextlib.suppress(OSError):
                (self.path / _DAMAGED).touch()
        return error

    @contextlib.contextmanager
    def blobs(self, ids: Iterable[str]) -> Iterator[DeadlineReader]:
        """The blobs one after the other, each as `id blob size`, a line end, its bytes, a line end."""
        with tempfile.TemporaryFile() as wanted:
            wanted.write("".join(f"{sha}\n" for sha in ids).encode())
            wanted.seek(0)
            try:
                with self.git.stream("cat-file", "--batch", "--buffer", git_dir=self.path, given=wanted) as stream:
                    yield stream
            except errors.MirrorDamaged as error:
                raise self._damaged(error) from None

    @contextlib.contextmanager
    def _locked(self, log: Log) -> Iterator[int]:
        """One fetch at a time. The children inherit the lock, so that it outlives us if only we are killed."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.unusable(str(error)) from error
        try:
            self._wait_for(lock, log)
            with _local_trouble():
                yield lock
        finally:
            os.close(lock)

    def _wait_for(self, lock: int, log: Log) -> None:
        begun, told = time.monotonic(), 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = time.monotonic() - begun
                if waited > self.deadlines.total:
                    raise errors.MirrorUnusable(
                        f"Another fetch of {self.address} didn't end in {waited:.0f} s.",
                        advice="Look for a git process that hangs on this machine, end it, and try again.",
                    ) from None
                if waited - told >= 5:
                    told = waited
                    log(f"Waiting for another fetch of this repository, {waited:.0f} s by now.")
                waiting.pause(0.05)
            else:
                return

    def _usable(self) -> bool:
        """Whether it looks like this address's repository, after a sweep of what a killed git left behind."""
        if not (self.path / "HEAD").exists() or (self.path / _DAMAGED).exists():
            return False
        origin = self.path / _ORIGIN
        if not origin.exists() or origin.read_text() != self.address.url:
            return False
        for pattern in _LEFTOVERS:
            for leftover in self.path.glob(pattern):
                with contextlib.suppress(OSError):
                    leftover.unlink()
        result = self.git.run("rev-parse", "--is-bare-repository", git_dir=self.path, accepted=(0, 128))
        return result.code == 0

    def _create(self, path: Path, object_format: str) -> None:
        shutil.rmtree(path, ignore_errors=True)
        self.git.run(
            "init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", "--initial-branch=main",
            str(path), git_dir=path,
        )  # fmt: skip
        (path / _ORIGIN).write_text(self.address.url)

    def _rebuild(self, log: Log, lock: int) -> None:
        """Fetch everything into a fresh folder, which then takes the mirror's place: failing leaves what was there."""
        fresh, old = (self.path.with_name(f"{self.path.name}.{suffix}") for suffix in ("fresh", "old"))
        self._create(fresh, "sha1")
        quieter: Log = lambda line: None if line.startswith(" * [new ") else log(line)  # noqa: E731
        try:
            self._fetch(fresh, quieter, lock, *_REFSPECS)
        except errors.GitError as error:
            if "mismatched algorithms" not in error.detail:
                raise
            self._create(fresh, "sha256")
            self._fetch(fresh, quieter, lock, *_REFSPECS)
        self.git.run("pack-refs", "--all", git_dir=fresh, local=True, keep=(lock,))
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            self.path.rename(old)
        fresh.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def _fetch_commit(self, sha: str, log: Log, lock: int, *options: str) -> None:
        if not FULL_ID.fullmatch(sha):
            raise errors.UnknownRef(f"“{sha[:70]!a}” is not a whole commit id.")
        try:
            self._fetch(self.path, log, lock, *options, f"+{sha}:{_KEPT}/{sha}")
        except errors.UnknownRef as error:
            raise errors.UnknownRef(
                f"The repository {self.address} doesn't have the commit {sha[:10]}.", detail=error.detail
            ) from None

    def _fetch(self, path: Path, log: Log, lock: int, *arguments: str) -> None:
        options = [argument for argument in arguments if argument.startswith("--")]
        refspecs = [argument for argument in arguments if not argument.startswith("--")]
        self.git.run(
            "fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
            "--no-recurse-submodules", *options, "--", self.address.url, *refspecs,
            git_dir=path, log=log, keep=(lock,),
        )  # fmt: skip

    def _tidy(self, lock: int) -> None:
        if len(list((self.path / "objects" / "pack").glob("*.pack"))) >= _PACKS:
            self.git.run("repack", "-a", "-d", "-k", "-q", git_dir=self.path, local=True, keep=(lock,))
            self.git.run("pack-refs", "--all", git_dir=self.path, local=True, keep=(lock,))


@contextlib.contextmanager
def _local_trouble() -> Iterator[None]:
    """A full disk or a missing permission, told as such."""
    try:
        yield
    except OSError as error:
        raise errors.unusable(str(error)) from error
