"""A repository's tree: which addons lie in it, are they sound, and what do they weigh in as.

Manifests are read as data, never run. Nothing is followed out of the tree.
"""

import ast
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from xml.parsers import expat

from instances.odoo.versions import InvalidModuleVersion, Series, stored_version
from ocore import waiting
from ocore.errors import ExpectedError

MANIFEST = "__manifest__.py"
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "setup"})
# Files whose change needs no update of the database: click-odoo-update's list.
_NOT_IN_DATABASE = ("*.pyc", "*.pyo", "i18n/*.pot", "i18n_extra/*.pot", "static/*", "tests/*")
_RESERVED = frozenset({"base", "web"})
_MAX_MANIFEST_BYTES = 256 * 1024
_ENCODING_ERRORS = frozenset(
    expat.errors.codes[text]
    for text in (expat.errors.XML_ERROR_UNKNOWN_ENCODING, expat.errors.XML_ERROR_INCORRECT_ENCODING)
)


class NoAddon(ExpectedError):
    default_advice = "An addon is a folder with an __manifest__.py; it may lie anywhere in the repository."


class InvalidManifest(ExpectedError):
    default_advice = "Correct the manifest and push again."


class InvalidTree(ExpectedError):
    """The repository holds something that cannot be laid out safely or unambiguously."""

    default_advice = "Correct the repository and push again."


@dataclass(frozen=True)
class Addon:
    name: str
    version: str
    """As Odoo will keep it in the database, with the series in front; empty where Odoo would not take it."""
    fingerprint: str
    """SHA-256 over what matters to the database: another one means that the module must be updated."""
    path: str
    """Of its folder, in the repository."""
    depends: tuple[str, ...] = ()
    installable: bool = True
    why_not: str = ""
    broken: str = ""
    """Why Odoo could not load its data, where a look at the files tells."""
    suspects: tuple[str, ...] = ()
    """Its Python files that the portal's own Python cannot read, named within it; the image's may be a newer one."""
    repository: str = ""
    """The name of the further one that it lies in; empty: the project's own."""


def find_addons(tree: Path, odoo: Series, below: str = "") -> tuple[Addon, ...]:
    """All addons of the tree, or below a folder of it, by name. Those that say `installable: False`, or that are for
    another Odoo version, are among them, marked. Raises `NoAddon`, `InvalidManifest`, `InvalidTree`."""
    tree = tree.resolve()
    found: dict[str, Addon] = {}
    for folder in _addon_folders(tree, _start(tree, below)):
        addon = _read_addon(tree, folder, odoo)
        other = found.get(addon.name)
        if other and other.installable and addon.installable:
            raise InvalidTree(
                f"The addon “{addon.name}” is in the repository twice: {other.path} and {addon.path}.",
                advice="Odoo can only use one: remove or rename the other and push again.",
            )
        if not other or addon.installable:
            found[addon.name] = addon
    if not any(addon.installable for addon in found.values()):
        reasons = "\n".join(f"{addon.path}: {addon.why_not}" for addon in sorted_addons(found))
        if not found:
            raise NoAddon("The repository has no Odoo addon at this commit.")
        raise NoAddon(
            f"The repository has no addon that Odoo {odoo.name} can install, among {len(found)}.",
            detail=reasons,
            advice="Check that the branch and the environment's Odoo version fit together.",
        )
    return tuple(sorted_addons(found))


def sorted_addons(found: dict[str, Addon]) -> list[Addon]:
    return [found[name] for name in sorted(found)]


def _start(tree: Path, below: str) -> Path:
    start = tree / below
    if not inside(tree, start).is_dir():
        raise InvalidTree(
            f"The repository has no folder “{below}”.", advice="Correct the folder that addons lie below."
        )
    return start


def _addon_folders(tree: Path, start: Path) -> Iterator[Path]:
    """Folders with a manifest, not inside another addon. Linked folders are passed over: what they point to in the tree
    is found where it lies."""
    for path, folders, files in os.walk(start):
        here = Path(path)
        if MANIFEST in files and here != tree:
            folders.clear()
            yield here
            continue
        if MANIFEST in files:
            raise InvalidTree(
                f"The repository's root is itself an addon ({MANIFEST} lies there), so it has no technical name.",
                advice="Move the addon into a folder named after it.",
            )
        for name in folders:
            if (here / name).is_symlink():
                inside(tree, here / name)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (here / name).is_symlink() and not _is_setup_farm(here, name)
        )


def _is_setup_farm(parent: Path, name: str) -> bool:
    """OCA's `setup/<addon>/odoo/addons/<addon>` holds links for packaging; a client's own `setup/` may hold addons."""
    if name != "setup":
        return name in _SKIPPED_FOLDERS
    return any(parent.glob("setup/*/odoo/addons")) or any(parent.glob("setup/*/setup.py"))


def _read_addon(tree: Path, folder: Path, odoo: Series) -> Addon:
    where = f"{folder.relative_to(tree)}/{MANIFEST}"
    name = folder.name
    manifest = _read_manifest(tree, folder / MANIFEST, where)
    installable = bool(manifest.get("installable", True))
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name) or name in _RESERVED:
        if installable:
            why = "is the name of Odoo's own module" if name in _RESERVED else "is not a name that Python can import"
            raise InvalidTree(
                f"The folder {folder.relative_to(tree)} has a manifest, but “{name}” {why}.",
                advice="Rename the folder: letters, digits and underscores, beginning with a letter.",
            )
        return Addon(name, "", "", str(folder.relative_to(tree)), (), False, "its folder's name is not usable")
    depends = manifest.get("depends") or ["base"]
    if not isinstance(depends, list | tuple) or not all(isinstance(item, str) and item for item in depends):
        raise InvalidManifest(f"{where}: “depends” must be a list of module names.")
    why_not = "" if installable else "its manifest says that it is not installable"
    version = ""
    try:
        version = stored_version(str(manifest.get("version", "1.0")), odoo)
    except InvalidModuleVersion as error:
        why_not = why_not or error.message
    broken = "" if why_not else _check_data_files(tree, folder, manifest, where)
    return Addon(
        name=name,
        version=version,
        fingerprint=fingerprint(folder, tree),
        path=str(folder.relative_to(tree)),
        depends=tuple(dict.fromkeys(depends)),
        installable=not why_not,
        why_not=why_not,
        broken=broken,
    )


def _read_manifest(tree: Path, path: Path, where: str) -> dict[str, Any]:
    if inside(tree, path).stat().st_size > _MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"{where} is larger than {_MAX_MANIFEST_BYTES // 1024} KB.")
    try:
        text = inside(tree, path).read_bytes()
        tree_of_code = ast.parse(text, mode="eval")
        value = ast.literal_eval(tree_of_code)
    except SyntaxError as error:
        raise InvalidManifest(f"{where}, line {error.lineno}: {error.msg}.") from error
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        raise InvalidManifest(
            f"{where}{f', line {line[1]}' if line else ''}: it must hold one dictionary of plain values.",
            detail=str(error),
            advice="Names, calls and other code are not allowed in a manifest. Correct it and push again.",
        ) from error
    if not isinstance(value, dict):
        raise InvalidManifest(f"{where}: it must hold one dictionary.")
    if not isinstance(value.get("name"), str) or not value["name"].strip():
        raise InvalidManifest(f"{where}: “name” is missing.")
    return value


def _check_data_files(tree: Path, folder: Path, manifest: dict[str, Any], where: str) -> str:
    """A data file that is not there, or is no XML, would only show when the database is being updated. What is wrong
    with one of the latter."""
    broken = ""
    data = manifest.get("data") or []
    if not isinstance(data, list | tuple) or not all(isinstance(item, str) for item in data):
        raise InvalidManifest(f"{where}: “data” must be a list of file names.")
    for name in data:
        path = inside(tree, folder / name)
        if not path.is_file():
            raise InvalidManifest(
                f"{where}: the data file {name} is not in the repository.",
                advice="Add the file (is it ignored by git?) or remove it from “data”, and push again.",
            )
        if path.suffix == ".xml":
            waiting.pulse()
            broken = broken or _xml_problem(path, f"{folder.relative_to(tree)}/{name}")
    return broken


def _xml_problem(path: Path, where: str) -> str:
    """Is it well-formed? What it says is Odoo's to judge, and so is an encoding that only its parser knows."""
    try:
        expat.ParserCreate().Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        if error.code not in _ENCODING_ERRORS:
            return f"{where}, line {error.lineno}: not well-formed XML ({expat.ErrorString(error.code)})."
    except (ValueError, LookupError):
        pass
    return ""


def fingerprint(folder: Path, tree: Path | None = None) -> str:
    """Over names and contents of the files that matter to the database, as click-odoo-update's: not compiled ones,
    translation templates, `static` and `tests`. Unlike there all languages count, since which of them the
    database uses is not known here: a changed translation costs an update of that one addon."""
    total = hashlib.sha256()
    for relative, path in addon_files(folder, tree or folder):
        if not any(fnmatch(relative, pattern) for pattern in _NOT_IN_DATABASE):
            content = path.read_bytes()
            total.update(f"{relative}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()


def addon_files(folder: Path, tree: Path) -> Iterator[tuple[str, Path]]:
    """Every file of the addon, sorted, as (name in the addon, real file). Links within the tree are resolved."""
    yield from sorted(_files(folder, "", tree.resolve(), ()))


def _files(folder: Path, prefix: str, tree: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    real = folder.resolve()
    if real in above:
        raise InvalidTree(f"The link {folder.relative_to(tree)} leads back to a folder above it.")
    for entry in os.scandir(folder):
        waiting.pulse()
        if entry.name in {".git", "__pycache__"} or entry.name.endswith((".pyc", ".pyo")):
            continue
        path = inside(tree, Path(entry.path))
        mode = path.stat().st_mode if path.exists() else 0
        if stat.S_ISDIR(mode):
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/", tree, (*above, real))
        elif stat.S_ISREG(mode):
            yield f"{prefix}{entry.name}", path
        else:
            raise InvalidTree(f"{Path(entry.path).relative_to(tree)} is neither a file nor a folder, or a broken link.")


def inside(tree: Path, path: Path) -> Path:
    """The real path, which must lie in the tree and not in git's own folder. Raises `InvalidTree`."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise InvalidTree(f"The link {path.relative_to(tree)} leads in a circle.") from error
    if not real.is_relative_to(tree) or ".git" in real.relative_to(tree).parts:
        raise InvalidTree(f"{_name(tree, path)} leads out of the repository.")
    return real


def _name(tree: Path, path: Path) -> str:
    return str(path.relative_to(tree)) if path.is_relative_to(tree) else path.name
