"""Acme's repository for the model: real commits, made and read once; afterwards only its branches move."""

from dataclasses import dataclass
from pathlib import Path

from projects.git import Commit, Mirror
from projects.git.errors import UnknownRef
from projects.git.mirror import Exported
from tests.acme import addon
from tests.git_remote import GitRemote

GOOD, WORDS, NO_BUILD, NO_UPDATE, SICK = "good", "words", "no build", "no update", "sick"
ROUND = (GOOD, WORDS, SICK, GOOD, NO_UPDATE, GOOD, NO_BUILD)
ROUNDS = 4
BROKEN = {NO_BUILD: "7", NO_UPDATE: "8", SICK: "9"}
"""First number of the addon's version in a commit that will break, and how."""


@dataclass(frozen=True)
class Prepared:
    commit: Commit
    kind: str
    files: dict[str, str]


class Repository:
    """A line of commits; every kind comes again and again, and the last is a good one."""

    def __init__(self, folder: Path) -> None:
        remote = GitRemote(folder)
        files, made = {"README.md": "Acme"}, []
        for number in range(ROUNDS * len(ROUND) + 1):
            kind = ROUND[number % len(ROUND)]
            if kind == WORDS:
                files = files | {"README.md": f"Words {number}"}
            else:
                files = files | addon(f"{BROKEN.get(kind, '1')}.{number}")
            sha = remote.commit(f"{number}: {kind}", files)
            made.append((sha, kind, files))
        mirror = Mirror(remote.url, folder.parent / "read.git")
        mirror.fetch(lambda _: None)
        by_sha = {commit.sha: commit for commit in mirror.log("", remote.sha("main"), limit=1000)}
        self.url = remote.url
        self.line = [Prepared(by_sha[sha], kind, files) for sha, kind, files in made]
        self.place = {one.commit.sha: number for number, one in enumerate(self.line)}
        self.branches: dict[str, int] = {}

    def start(self) -> None:
        self.branches = {"main": 0, "staging": 0}


class PreparedMirror:
    """What `projects.git.Mirror` answers for it, without asking git anew."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def fetch(self, log: object, *, commit: str = "") -> None:
        pass

    def resolve(self, ref: str) -> Commit:
        if ref in self._repository.branches:
            return self._repository.line[self._repository.branches[ref]].commit
        if ref in self._repository.place:
            return self._repository.line[self._repository.place[ref]].commit
        raise UnknownRef(f"There is no “{ref}”.")

    def has(self, sha: str) -> bool:
        return sha in self._repository.place

    def is_ancestor(self, ancestor: str, descendant: str) -> bool:
        return self._repository.place[ancestor] <= self._repository.place[descendant]

    def log(self, base: str, tip: str, limit: int = 50) -> list[Commit]:
        first = self._repository.place[base] + 1 if base in self._repository.place else 0
        last = self._repository.place[self.resolve(tip).sha]
        return [one.commit for one in reversed(self._repository.line[first : last + 1])][:limit]

    def export(self, sha: str, target: Path, log: object) -> Exported:
        files = self._repository.line[self._repository.place[sha]].files
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return Exported(len(files), sum(map(len, files.values())), {})
