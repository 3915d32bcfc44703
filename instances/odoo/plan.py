"""Which modules a deployment installs and updates, decided from what the database and the image say.

The idea is click-odoo-update's: a fingerprint per addon, kept in the database that it describes, so that a restored
database brings along what it was made with. Odoo itself updates whatever depends on an updated module, and installs
what installs itself.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from instances.addons import Addon
from ocore.errors import ExpectedError

from .queries import ModuleRow, Stored

Basis = tuple[tuple[ModuleRow, ...], Stored | None]
"""The modules of a database, and what oCore has stored there."""


class Policy(StrEnum):
    CHANGED = "changed"
    """Update the addons whose files changed; everything when the Odoo below them changed."""
    VERSION = "version"
    """Update the addons whose manifest has another version than the database."""
    ALL = "all"
    NONE = "none"


class UnknownModule(ExpectedError):
    default_advice = "Correct the list of custom modules of the environment, or add the addon to the repository."


class InvalidData(ExpectedError):
    """A data file that Odoo could not read."""

    default_advice = "Correct that file and push again."


class UnmetDependency(ExpectedError):
    default_advice = (
        "Add the missing addon to the repository, or where it lies to the project's further repositories; or correct "
        "“depends”."
    )


@dataclass(frozen=True)
class Plan:
    install: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    """For each name in `install` and `update`, why; shown in the deployment's log."""
    missing: tuple[str, ...] = ()
    """Installed from the repository once, and no longer in it: to be refused before anything is touched."""
    notices: tuple[str, ...] = ()
    expected: Mapping[str, str] = field(default_factory=dict)
    """Module -> the version that the database must have afterwards, for `judge_update`."""
    suspects: tuple[str, ...] = ()
    """Python files in the image that Odoo will load and that the portal's Python could not read, as `addon/file`."""
    stored: Stored = field(default_factory=Stored)
    """What to write into the database once the update has succeeded."""
    basis: Basis = field(default=((), None), compare=False, repr=False)
    """What the database said when this was decided; when it says something else, the plan no longer holds."""

    @property
    def changes_database(self) -> bool:
        return bool(self.install or self.update)


def plan_update(
    policy: str,
    wanted: Sequence[str] | None,
    rows: Iterable[ModuleRow],
    stored: Stored | None,
    addons: Iterable[Addon],
    base_image: str,
    base_image_before: str = "",
) -> Plan:
    """Decide. `wanted` None means: all installable addons of the project's own
    repository at the first deployment, none later.

    `stored` is what the database knows of the last deployment (None: nothing), `base_image` the id of the Odoo image
    below the addons; `base_image_before` the one that the database was made with, where `stored` cannot tell: a fresh
    copy of a template. Raises `UnknownModule`, `UnmetDependency`, `InvalidData`, and ValueError for an unknown
    policy.
    """
    policy = Policy(policy)
    basis = (tuple(rows), stored)
    known = {row.name: row for row in basis[0]}
    installed = {name for name, row in known.items() if row.installed}
    image = {addon.name: addon for addon in addons if addon.installable}
    before = stored or Stored()
    base_image_before = base_image_before or before.base_image
    first = not before.addons and not installed & image.keys()

    if wanted is not None:
        _refuse_unknown(wanted, image.keys() | known.keys())
        install = [name for name in dict.fromkeys(wanted) if name not in installed]
    else:
        install = sorted(name for name, addon in image.items() if not addon.repository) if first else []
    reasons = dict.fromkeys(install, "at the first deployment" if wanted is None else "wanted and not yet installed")

    adopted = stored is None and not first
    base_changed = adopted if not base_image_before else base_image_before != base_image
    update: dict[str, str] = {}
    if policy is Policy.ALL:
        update = {"base": "the policy is to update everything"}
    elif policy is Policy.CHANGED and base_changed:
        update = {"base": "the Odoo image is another one than at the last deployment, so everything is updated"}
    elif policy is Policy.CHANGED:
        update = {
            name: "its files changed" if name in before.addons else "no fingerprint of it is stored yet"
            for name in sorted(installed & image.keys())
            if before.addons.get(name) != image[name].fingerprint
        }
    elif policy is Policy.VERSION:
        update = {
            name: f"version {known[name].version or 'none'} becomes {image[name].version}"
            for name in sorted(installed & image.keys())
            if known[name].version != image[name].version
        }
    everything = "base" in update
    # A module left pending by whoever worked on the database before would fail the verdict: finish it.
    if not everything:
        update |= {
            name: f"it was left “{known[name].state}”"
            for name in sorted(installed & image.keys())
            if known[name].state == "to upgrade" and name not in update
        }

    touched = {name for name in (*install, *update) if name in image}
    if not base_changed:
        _refuse_unmet(touched, image, known)
    notices = _notices(wanted, first, policy, base_changed, image, installed, before)
    reached = set(image) if everything else touched
    loaded = _with_dependencies((installed & image.keys()) | set(install), image)
    _refuse_broken(loaded if everything else _with_dependents(touched, loaded, image), image)
    return Plan(
        install=tuple(install),
        update=tuple(update),
        reasons=reasons | update,
        missing=tuple(sorted((installed & before.addons.keys()) - image.keys())),
        notices=tuple(notices),
        expected={name: image[name].version for name in sorted(reached) if name in installed or name in install}
        | {name: "" for name in install if name not in image},
        suspects=tuple(f"{name}/{file}" for name in sorted(loaded) for file in image[name].suspects),
        stored=_stored_after(before, image, installed, reached | set(install), base_image, everything, first),
        basis=basis,
    )


def _stored_after(
    before: Stored,
    image: Mapping[str, Addon],
    installed: Collection[str],
    reached: Collection[str],
    base_image: str,
    everything: bool,
    first: bool,
) -> Stored:
    """An installed addon that was not updated keeps its old fingerprint, so that it stays due; the base image too."""
    addons = {
        name: addon.fingerprint if name in reached or name not in installed else before.addons.get(name, "")
        for name, addon in image.items()
    }
    caught_up = everything or first or not before.base_image
    return Stored(base_image=base_image if caught_up else before.base_image, addons=addons)


def _notices(
    wanted: Sequence[str] | None,
    first: bool,
    policy: Policy,
    base_changed: bool,
    image: Mapping[str, Addon],
    installed: Collection[str],
    before: Stored,
) -> list[str]:
    notices = []
    own = [name for name, addon in image.items() if not addon.repository]
    new = sorted(name for name in own if name not in installed and name not in before.addons)
    if wanted is None and not first and new:
        notices.append(
            f"New in the repository and not installed: {', '.join(new)}. Add them to the environment's custom modules,"
            " or install them in Odoo."
        )
    if base_changed and policy in (Policy.VERSION, Policy.NONE):
        notices.append(
            f"The Odoo image changed, but with the update policy “{policy}” Odoo's own modules are not updated."
        )
    if policy is Policy.NONE:
        due = [name for name in image if name in installed and before.addons.get(name) != image[name].fingerprint]
        if due:
            notices.append(f"Changed, but not updated because of the update policy “none”: {', '.join(sorted(due))}.")
    return notices


def _refuse_unknown(wanted: Iterable[str], known: Collection[str]) -> None:
    unknown = [name for name in dict.fromkeys(wanted) if name not in known]
    if unknown:
        hints = []
        for name in unknown:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.75)
            hints.append(f"“{name}”" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
        raise UnknownModule(f"Neither the repository nor Odoo has the module {', '.join(hints)}.")


def _with_dependencies(names: Iterable[str], image: Mapping[str, Addon]) -> set[str]:
    """Of the image's addons: these, and what Odoo loads with them."""
    found: set[str] = set()
    todo = [name for name in names if name in image]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [needed for needed in image[name].depends if needed in image]
    return found


def _with_dependents(names: Iterable[str], loaded: Collection[str], image: Mapping[str, Addon]) -> set[str]:
    """These, and those of the loaded ones that Odoo updates with them."""
    found = set(names)
    while more := {name for name in loaded if name not in found and found.intersection(image[name].depends)}:
        found |= more
    return found


def _refuse_broken(names: Iterable[str], image: Mapping[str, Addon]) -> None:
    for name in sorted(names):
        if image[name].broken:
            raise InvalidData(image[name].broken)


def _refuse_unmet(names: Iterable[str], image: Mapping[str, Addon], known: Mapping[str, ModuleRow]) -> None:
    """Odoo would go on without the module, with a line in its log; a person who meant to install it would not know."""
    available = image.keys() | {name for name, row in known.items() if row.state != "uninstallable"}
    for name in sorted(names):
        unmet = [needed for needed in image[name].depends if needed not in available]
        if unmet:
            raise UnmetDependency(
                f"The addon “{name}” depends on {', '.join(f'“{needed}”' for needed in unmet)}, which neither the"
                " repository nor this Odoo has."
            )
