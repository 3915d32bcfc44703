"""The build context of an environment's image, laid out from a repository's tree: its addons and what they need.

The Dockerfile is ours; one that lies in the repository is never looked at. What a repository may bring into the build
besides its addons is named: `requirements.txt` (its own and beside the addons' folders) and `apt.txt`. A
requirements.txt is pip's language and can run code of whatever package it names: who can push to the repository can run
code in the image, which holds for the addons as well. It runs in the build, without secrets of ours.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from instances import addon_code
from instances.addons import Addon, InvalidTree, addon_files, find_addons, inside
from instances.odoo.config import ADDONS_DIR
from instances.odoo.versions import Series
from ocore import waiting
from ocore.errors import ExpectedError

REQUIREMENTS_DIR = "/opt/ocore/requirements"
EXTRA_REQUIREMENTS = "ocore-extra.txt"
CERTIFICATES = "ocore-certificates.pem"
_MTIME = 946_684_800
_PIP = (
    "PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore"
    " pip3 install --no-cache-dir --no-input"
)
_APT_INSTALL = "apt-get install -y --no-install-recommends"


class InvalidRequirements(ExpectedError):
    default_advice = "Correct the line and try again."


@dataclass(frozen=True)
class BuildPlan:
    """A folder laid out for the engine's build, and what is in it."""

    context: Path
    addons: tuple[Addon, ...]
    """All that were found; only installable ones are in the image."""
    requirements: tuple[str, ...]
    """The requirements files used, as named in the repository; then `ocore-extra.txt` for the extra pip packages."""
    apt_packages: tuple[str, ...]
    digest: str
    """SHA-256 over everything that goes into the image: two commits with the same one need one image."""

    @property
    def taken(self) -> tuple[Addon, ...]:
        return tuple(addon for addon in self.addons if addon.installable)


def prepare_context(
    tree: Path,
    target: Path,
    odoo: Series,
    base_image: str,
    pip_packages: Sequence[str] = (),
    base_image_id: str = "",
    certificates: bytes = b"",
    proven: Collection[str] = (),
) -> BuildPlan:
    """Lay out `target`, a folder that is empty or does not exist yet.

    `base_image` is what stands after FROM; `base_image_id` goes into the digest instead of it where it is known, since
    the same name can come to mean another image. `certificates` are the authorities (PEM) that pip trusts in the build,
    instead of its own: for machines behind a proxy that looks into TLS. `proven` are the fingerprints of addons that
    have run: their code isn't looked at again. Raises `NoAddon`, `InvalidManifest`, `InvalidTree`,
    `InvalidRequirements`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", base_image):
        raise InvalidTree(f"“{base_image}” is not the name of an image.", advice="Correct the Odoo image's name.")
    tree = tree.resolve()
    addons = find_addons(tree, odoo)
    apt_packages = read_apt(tree)
    extra = check_pip_packages(pip_packages)
    target.mkdir(parents=True, exist_ok=True)
    for addon in addons:
        if addon.installable:
            for name, path in addon_files(tree / addon.path, tree):
                waiting.pulse()
                _put(target / "addons" / addon.name / name, path.read_bytes())
    requirements = _requirements_files(tree, addons)
    for included in _with_included(tree, requirements):
        _put(target / "requirements" / included, inside(tree, tree / included).read_bytes())
    if extra:
        _put(target / "requirements" / EXTRA_REQUIREMENTS, ("\n".join(extra) + "\n").encode())
        requirements.append(EXTRA_REQUIREMENTS)
    if requirements and certificates:
        _put(target / "requirements" / CERTIFICATES, certificates)
    text = dockerfile(base_image, requirements, apt_packages, certificates=bool(requirements and certificates))
    _put(target / "Dockerfile", text.encode())
    looked_at = tuple(
        addon
        if addon.fingerprint in proven or not addon.installable
        else replace(addon, suspects=addon_code.suspects(tree / addon.path, tree))
        for addon in addons
    )
    digest = _seal(target, base_image_id or base_image)
    return BuildPlan(target, looked_at, tuple(requirements), apt_packages, digest)


def dockerfile(
    base_image: str, requirements: Sequence[str], apt_packages: Sequence[str], *, certificates: bool = False
) -> str:
    """What changes seldom stands first, so that a push that touches only addons reuses the layers of the packages."""
    lines = [f"FROM {base_image}", "USER root"]
    if apt_packages:
        lines.append(
            f"RUN apt-get update && DEBIAN_FRONTEND=noninteractive {_APT_INSTALL} {' '.join(apt_packages)}"
            " && rm -rf /var/lib/apt/lists/*"
        )
    if requirements:
        lines.append(
            "RUN command -v pip3 >/dev/null || (apt-get update && DEBIAN_FRONTEND=noninteractive"
            f" {_APT_INSTALL} python3-pip && rm -rf /var/lib/apt/lists/*)"
        )
        lines.append(f"COPY requirements {REQUIREMENTS_DIR}")
        files = " ".join(f'-r "{REQUIREMENTS_DIR}/{name}"' for name in requirements)
        trust = f"PIP_CERT={REQUIREMENTS_DIR}/{CERTIFICATES} GIT_SSL_CAINFO={REQUIREMENTS_DIR}/{CERTIFICATES} "
        lines.append(f"RUN {trust if certificates else ''}{_PIP} {files}")
    # Before the copy, which belongs to root all the same: an instruction less that every build executes.
    lines += ["USER odoo", f"COPY addons {ADDONS_DIR}"]
    return "\n".join(lines) + "\n"


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


def _requirements_files(tree: Path, addons: Sequence[Addon]) -> list[str]:
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


def _with_included(tree: Path, names: Sequence[str]) -> list[str]:
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


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _seal(target: Path, base_image: str) -> str:
    """Give all files the same modes and times, whoever checked them out and when, and digest names and contents."""
    total = hashlib.sha256(f"{base_image}\0".encode())
    for path, folders, files in os.walk(target):
        folders.sort()
        for name in sorted(files):
            waiting.pulse()
            file = Path(path, name)
            file.chmod(0o644)
            os.utime(file, (_MTIME, _MTIME))
            content = file.read_bytes()
            total.update(f"{file.relative_to(target)}\0{len(content)}\0".encode())
            total.update(content)
    for path, _, _ in os.walk(target, topdown=False):
        Path(path).chmod(0o755)
        os.utime(path, (_MTIME, _MTIME))
    return total.hexdigest()
