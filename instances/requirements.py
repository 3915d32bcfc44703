"""What a repository asks for besides its addons: Python packages (requirements.txt) and Debian's (apt.txt)."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from instances.addons import Addon, InvalidTree, inside
from ocore.errors import ExpectedError


class InvalidRequirements(ExpectedError):
    default_advice = "Correct the line and try again."


def check_pip_packages(packages: Iterable[str]) -> list[str]:
    """The extra packages as requirement specifiers; anything that pip could take for an option is refused."""
    checked = []
    for text in packages:
        if not text.strip():
            continue
        try:
            requirement = Requirement(text.strip())
        except InvalidRequirement as error:
            raise InvalidRequirements(
                f"“{text.strip()}” is not a Python package as pip names it.",
                detail=str(error),
                advice="Write one package per line, like “phonenumbers” or “requests>=2.31”.",
            ) from error
        if requirement.url and not re.fullmatch(r"(git\+)?https://[^\s\"'\\]+", requirement.url):
            raise InvalidRequirements(f"“{text.strip()}”: only https addresses are allowed.")
        checked.append(str(requirement))
    return checked


def read_apt(tree: Path) -> tuple[str, ...]:
    """The Debian packages in the root's apt.txt, one or more per line, `#` for comments."""
    path = tree / "apt.txt"
    if not path.exists() and not path.is_symlink():
        return ()
    packages: dict[str, None] = {}
    for number, line in enumerate(_read_text(tree, path).splitlines(), start=1):
        for name in line.partition("#")[0].split():
            if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?", name):
                raise InvalidRequirements(f"apt.txt, line {number}: “{name}” is not the name of a Debian package.")
            packages[name] = None
    return tuple(packages)


def requirements_files(tree: Path, addons: Sequence[Addon]) -> list[str]:
    """The root's, then those beside addons that are taken, up to the root; each once."""
    folders: dict[PurePosixPath, None] = {PurePosixPath("."): None}
    for addon in addons:
        if addon.installable:
            folders |= dict.fromkeys(reversed(PurePosixPath(addon.path).parents))
    names = [str(folder / "requirements.txt") for folder in folders]
    for name in names:
        if not re.fullmatch(r"[\w./ +@-]+", name) and (tree / name).exists():
            raise InvalidTree(f"The folder of {name} has a character in its name that a build cannot take.")
    return [name for name in names if (tree / name).is_file() or (tree / name).is_symlink()]


def with_included(tree: Path, names: Sequence[str]) -> list[str]:
    """Also the files that they include with `-r` or `-c`, at the same place relative to each other."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = None
        for line in _read_text(tree, tree / name).splitlines():
            match = re.match(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)", line)
            if match and "://" not in match[1]:
                included = Path(os.path.normpath(PurePosixPath(name).parent / match[1]))
                if included.is_absolute() or ".." in included.parts or not (tree / included).is_file():
                    raise InvalidRequirements(f"{name} includes {match[1]}, which is not in the repository.")
                waiting.append(str(included))
    return list(found)


def _read_text(tree: Path, path: Path) -> str:
    try:
        return inside(tree, path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequirements(f"{path.relative_to(tree)} is not UTF-8 text.") from error
    except OSError as error:
        raise InvalidRequirements(f"{path.relative_to(tree)} cannot be read: {error.strerror}.") from error
