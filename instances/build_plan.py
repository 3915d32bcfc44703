"""The build context of an environment's image, laid out from the trees of its repositories: addons and what they need.

The Dockerfile is ours; one that lies in the repository is never looked at. What a repository may bring into the build
besides its addons is named: `requirements.txt` (its own and beside the addons' folders) and `apt.txt`. A
requirements.txt is pip's language and can run code of whatever package it names: who can push to the repository can run
code in the image, which holds for the addons as well. It runs in the build, without secrets of ours.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from instances import addon_code
from instances.addons import (
    Addon,
    InvalidManifest,
    InvalidTree,
    NoAddon,
    addon_files,
    find_addons,
    inside,
    sorted_addons,
)
from instances.odoo.config import ADDONS_DIR
from instances.odoo.versions import Series
from instances.requirements import (
    InvalidRequirements,
    check_pip_packages,
    read_apt,
    requirements_files,
    with_included,
)
from ocore import waiting

REQUIREMENTS_DIR = "/opt/ocore/requirements"
FURTHER_REQUIREMENTS_DIR = "/opt/ocore/requirements_of"
EXTRA_REQUIREMENTS = "ocore-extra.txt"
CERTIFICATES = "ocore-certificates.pem"
_MTIME = 946_684_800
_PIP = (
    "PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore"
    " pip3 install --no-cache-dir --no-input"
)
_APT_INSTALL = "apt-get install -y --no-install-recommends"


@dataclass(frozen=True)
class Tree:
    """The files of a further repository."""

    name: str
    root: Path
    folder: str = ""
    """Below which its addons are looked for; empty: everywhere."""


@dataclass(frozen=True)
class BuildPlan:
    """A folder laid out for the engine's build, and what is in it."""

    context: Path
    addons: tuple[Addon, ...]
    """All that were found; only installable ones are in the image."""
    requirements: tuple[str, ...]
    """The requirements files used, as named in the repository, those of a further one with its name before it; then
    `ocore-extra.txt` for the extra pip packages."""
    apt_packages: tuple[str, ...]
    digest: str
    """SHA-256 over everything that goes into the image: two commits with the same one need one image."""
    hidden: tuple[Addon, ...] = ()
    """Installable ones of further repositories that are left out: one before has an addon of the same name."""

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
    further: Sequence[Tree] = (),
) -> BuildPlan:
    """Lay out `target`, a folder that is empty or does not exist yet, from the project's own repository and the further
    ones, in their order.

    `base_image` is what stands after FROM; `base_image_id` goes into the digest instead of it where it is known, since
    the same name can come to mean another image. `certificates` are the authorities (PEM) that pip trusts in the build,
    instead of its own: for machines behind a proxy that looks into TLS. `proven` are the fingerprints of addons that
    have run: their code isn't looked at again. Raises `NoAddon`, `InvalidManifest`, `InvalidTree`,
    `InvalidRequirements`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", base_image):
        raise InvalidTree(f"“{base_image}” is not the name of an image.", advice="Correct the Odoo image's name.")
    trees = [replace(one, root=one.root.resolve()) for one in (Tree("", tree), *further)]
    roots = {one.name: one.root for one in trees}
    addons, hidden = _merged(trees, odoo)
    apt_packages: dict[str, None] = {}
    extra = check_pip_packages(pip_packages)
    target.mkdir(parents=True, exist_ok=True)
    for addon in addons:
        if addon.installable:
            root = roots[addon.repository]
            for name, path in addon_files(root / addon.path, root):
                waiting.pulse()
                _put(target / "addons" / addon.name / name, path.read_bytes())
    requirements: dict[str, list[str]] = {}
    for one in trees:
        with _named(one):
            apt_packages |= dict.fromkeys(read_apt(one.root))
            own = [addon for addon in addons if addon.repository == one.name]
            requirements[one.name] = requirements_files(one.root, own)
            place = target / "requirements_of" / one.name if one.name else target / "requirements"
            for included in with_included(one.root, requirements[one.name]):
                _put(place / included, inside(one.root, one.root / included).read_bytes())
    of_further = [f"{name}/{file}" for name, files in requirements.items() for file in files if name]
    of_own = requirements[""]
    if extra:
        _put(target / "requirements" / EXTRA_REQUIREMENTS, ("\n".join(extra) + "\n").encode())
        of_own = [*of_own, EXTRA_REQUIREMENTS]
    trusts = bool(certificates and (of_own or of_further))
    if trusts:
        _put(target / "requirements" / CERTIFICATES, certificates)
    text = dockerfile(base_image, of_own, tuple(apt_packages), certificates=trusts, further=of_further)
    _put(target / "Dockerfile", text.encode())
    looked_at = tuple(
        addon
        if addon.fingerprint in proven or not addon.installable
        else replace(addon, suspects=addon_code.suspects(roots[addon.repository] / addon.path, roots[addon.repository]))
        for addon in addons
    )
    used = (*requirements[""], *of_further, *of_own[len(requirements[""]) :])
    digest = _seal(target, base_image_id or base_image)
    return BuildPlan(target, looked_at, used, tuple(apt_packages), digest, hidden)


def _merged(trees: Sequence[Tree], odoo: Series) -> tuple[tuple[Addon, ...], tuple[Addon, ...]]:
    """The addons of all, by name, and those that are hidden by one of a repository before. Of two of one name the first
    that Odoo can install is taken."""
    taken: dict[str, Addon] = {}
    hidden = []
    for tree in trees:
        with _named(tree):
            found = find_addons(tree.root, odoo, tree.folder)
        for addon in (replace(one, repository=tree.name) for one in found):
            before = taken.get(addon.name)
            if before is None or (addon.installable and not before.installable):
                taken[addon.name] = addon
            elif addon.installable:
                hidden.append(addon)
    return tuple(sorted_addons(taken)), tuple(hidden)


@contextmanager
def _named(tree: Tree) -> Iterator[None]:
    """What is wrong with a further repository is said of it."""
    try:
        yield
    except (NoAddon, InvalidManifest, InvalidTree, InvalidRequirements) as error:
        if not tree.name:
            raise
        advice = "Correct it there, or take another branch or pin of it on the project's page; then deploy again."
        message = f"The further repository “{tree.name}”: {error.message}"
        raise type(error)(message, detail=error.detail, advice=advice) from None


def dockerfile(
    base_image: str,
    requirements: Sequence[str],
    apt_packages: Sequence[str],
    *,
    certificates: bool = False,
    further: Sequence[str] = (),
) -> str:
    """What changes seldom stands first, so that a push that touches only addons reuses the layers of the packages."""
    lines = [f"FROM {base_image}", "USER root"]
    if apt_packages:
        lines.append(
            f"RUN apt-get update && DEBIAN_FRONTEND=noninteractive {_APT_INSTALL} {' '.join(apt_packages)}"
            " && rm -rf /var/lib/apt/lists/*"
        )
    if requirements or further:
        lines.append(
            "RUN command -v pip3 >/dev/null || (apt-get update && DEBIAN_FRONTEND=noninteractive"
            f" {_APT_INSTALL} python3-pip && rm -rf /var/lib/apt/lists/*)"
        )
        if requirements or certificates:
            lines.append(f"COPY requirements {REQUIREMENTS_DIR}")
        if further:
            lines.append(f"COPY requirements_of {FURTHER_REQUIREMENTS_DIR}")
        files = " ".join(
            f'-r "{folder}/{name}"'
            for folder, names in ((REQUIREMENTS_DIR, requirements), (FURTHER_REQUIREMENTS_DIR, further))
            for name in names
        )
        trust = f"PIP_CERT={REQUIREMENTS_DIR}/{CERTIFICATES} GIT_SSL_CAINFO={REQUIREMENTS_DIR}/{CERTIFICATES} "
        lines.append(f"RUN {trust if certificates else ''}{_PIP} {files}")
    # Before the copy, which belongs to root all the same: an instruction less that every build executes.
    lines += ["USER odoo", f"COPY addons {ADDONS_DIR}"]
    return "\n".join(lines) + "\n"


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
