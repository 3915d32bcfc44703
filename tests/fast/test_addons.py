"""What lies in a repository: which addons, sound or not, and how they become a build context."""

import os
import stat
from pathlib import Path

import pytest

from instances import addons, build_plan, requirements
from instances.odoo import versions
from ocore import waiting

ODOO_19 = versions.series("19.0")
DEMO = Path(__file__).parents[2] / "deployments" / "demo" / "addon"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def put(tree: Path, name: str, text: str = "") -> Path:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def put_addon(tree: Path, path: str, manifest: str = "", **keys) -> Path:
    values = {"name": path, "version": "19.0.1.0.0", "depends": ["base"]} | keys
    put(tree, f"{path}/__init__.py")
    put(tree, f"{path}/models/thing.py", "class Thing: pass\n")
    put(tree, f"{path}/__manifest__.py", manifest or repr(values))
    return tree / path


def names(tree: Path) -> list[str]:
    return [addon.name for addon in addons.find_addons(tree, ODOO_19) if addon.installable]


def context(tree: Path, target: str = "context", **keys) -> build_plan.BuildPlan:
    return build_plan.prepare_context(tree, tree.parent / target, ODOO_19, "odoo:19.0", **keys)


# Finding


def test_addons_are_found_wherever_they_lie(tree):
    put_addon(tree, "acme_notes")
    put_addon(tree, "addons/acme_wiki")
    put_addon(tree, "vendor/oca/server-tools/base_thing")
    put_addon(tree, "setup/acme_setup")

    assert names(tree) == ["acme_notes", "acme_setup", "acme_wiki", "base_thing"]


def test_folders_that_hold_no_addons_of_ours_are_passed_over(tree):
    put_addon(tree, "acme_notes")
    put_addon(tree, "acme_notes/tests/acme_inner")
    put_addon(tree, ".github/acme_hidden")
    put_addon(tree, "node_modules/acme_node")
    farm = tree / "setup/acme_notes/odoo/addons"
    farm.mkdir(parents=True)
    (farm / "acme_notes").symlink_to("../../../../acme_notes")
    put(tree, "setup/acme_notes/setup.py")

    assert names(tree) == ["acme_notes"]


def test_the_demos_addon_is_sound():
    (demo,) = addons.find_addons(DEMO, ODOO_19)
    assert (demo.name, demo.version, demo.depends) == ("acme_notes", "19.0.1.0.0", ("web",))


def test_addons_that_are_not_installable_are_listed_and_not_taken(tree):
    put_addon(tree, "acme_notes")
    put_addon(tree, "acme_old", installable=False, version="12.0.1.0.0")
    put_addon(tree, "acme_other", version="18.0.1.0.0")
    found = {addon.name: addon for addon in addons.find_addons(tree, ODOO_19)}

    assert found["acme_old"].why_not == "its manifest says that it is not installable"
    assert "18.0.1.0.0" in found["acme_other"].why_not
    assert [addon.name for addon in context(tree).taken] == ["acme_notes"]
    assert sorted(path.name for path in (tree.parent / "context/addons").iterdir()) == ["acme_notes"]


def test_a_repository_without_an_addon_is_an_error(tree):
    put(tree, "README.md")
    with pytest.raises(addons.NoAddon, match="no Odoo addon"):
        addons.find_addons(tree, ODOO_19)


def test_a_repository_for_another_odoo_says_so(tree):
    put_addon(tree, "acme_notes", version="17.0.1.0.0")
    with pytest.raises(addons.NoAddon) as caught:
        addons.find_addons(tree, ODOO_19)
    assert "acme_notes: Odoo 19.0 does not accept the version “17.0.1.0.0”" in caught.value.detail
    assert "Odoo version fit together" in caught.value.advice


def test_the_same_addon_twice_is_refused_naming_both_places(tree):
    put_addon(tree, "one/acme_notes")
    put_addon(tree, "two/acme_notes")
    with pytest.raises(addons.InvalidTree, match=r"one/acme_notes and two/acme_notes"):
        addons.find_addons(tree, ODOO_19)


def test_a_second_copy_that_is_not_installable_does_not_matter(tree):
    put_addon(tree, "one/acme_notes")
    put_addon(tree, "old/acme_notes", installable=False)
    assert [addon.path for addon in addons.find_addons(tree, ODOO_19)] == ["one/acme_notes"]


@pytest.mark.parametrize("name", ["acme-notes", "1acme", "acme notes", "base", "acme.notes", "ächme"])
def test_an_illegal_technical_name_is_refused(tree, name):
    put_addon(tree, name)
    with pytest.raises(addons.InvalidTree, match="has a manifest"):
        addons.find_addons(tree, ODOO_19)


def test_a_manifest_in_the_root_is_refused(tree):
    put(tree, "__manifest__.py", "{'name': 'x'}")
    with pytest.raises(addons.InvalidTree, match="root"):
        addons.find_addons(tree, ODOO_19)


# Manifests


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("{\n'name': 'x',\n'depends': [}\n", "line 3"),
        ("{\n'name': open('/etc/passwd').read()}", "line 2: it must hold one dictionary of plain values"),
        ("__import__('os').system('true')", "it must hold one dictionary"),
        ("['name']", "it must hold one dictionary"),
        ("{'version': '1.0'}", "“name” is missing"),
        ("{'name': 'x', 'depends': 'base'}", "“depends” must be a list"),
        ("{'name': 'x', 'depends': [1]}", "“depends” must be a list"),
        ("{'name': 'x', 'data': 'views.xml'}", "“data” must be a list"),
        ("{'name': 'x', 'data': ['views/gone.xml']}", "views/gone.xml is not in the repository"),
        ("{'name': 'x'}\x00", "must hold|null bytes"),
        ("", "line"),
    ],
)
def test_an_invalid_manifest_is_refused_naming_file_and_line(tree, manifest, says):
    put_addon(tree, "addons/acme_notes", manifest=manifest or " ")
    with pytest.raises(addons.InvalidManifest, match=says) as caught:
        addons.find_addons(tree, ODOO_19)
    assert str(caught.value).startswith("addons/acme_notes/__manifest__.py")


def found(tree: Path) -> dict[str, addons.Addon]:
    return {addon.name: addon for addon in addons.find_addons(tree, ODOO_19)}


def test_a_data_file_that_is_no_xml_is_told_with_its_line(tree):
    put_addon(tree, "acme_notes", data=["views/note.xml"])
    put(tree, "acme_notes/views/note.xml", "<odoo>\n  <record>\n</odoo>\n")
    put(tree, "acme_notes/views/draft.xml", "<odoo")  # nobody reads it

    assert found(tree)["acme_notes"].broken.startswith("acme_notes/views/note.xml, line 3: not well-formed")
    put(tree, "acme_notes/views/note.xml", "<?xml version='1.0'?>\n<odoo><record>&amp;</record></odoo>\n")
    assert found(tree)["acme_notes"].broken == ""


@pytest.mark.parametrize("encoding", ["GBK", "Shift_JIS", "klingon"])
def test_xml_in_an_encoding_that_only_odoos_parser_may_know_is_left_to_it(tree, encoding):
    put_addon(tree, "acme_notes", data=["note.xml"])
    put(tree, "acme_notes/note.xml", f"<?xml version='1.0' encoding='{encoding}'?>\n<odoo/>\n")

    assert found(tree)["acme_notes"].broken == ""


BROKEN = "def broken(:\n"


def suspects(tree: Path, **keys) -> tuple[str, ...]:
    (addon,) = context(tree, **keys).addons
    return addon.suspects


@pytest.mark.parametrize(
    ("file", "imports"),
    [
        ("__init__.py", {}),
        ("models.py", {"__init__.py": "from . import models\n"}),
        ("models/note.py", {"__init__.py": "from . import models\n", "models/__init__.py": "from . import note\n"}),
        ("lib/deep/far.py", {"__init__.py": "from .lib.deep.far import x\n", "lib/deep/__init__.py": ""}),
        ("tools.py", {"__init__.py": "from . import models\n", "models/__init__.py": "from ..tools import x\n"}),
        ("optional.py", {"__init__.py": "try:\n    from . import optional\nexcept ImportError:\n    pass\n"}),
    ],
)
def test_python_that_cannot_be_read_here_is_suspected(tree, file, imports):
    """The image's Python may be another one; only what is imported counts."""
    put_addon(tree, "acme_notes")
    for name, text in imports.items():
        put(tree, f"acme_notes/{name}", text)
    put(tree, f"acme_notes/{file}", BROKEN)

    assert suspects(tree) == (file,)


def test_an_addon_that_has_run_is_not_looked_at_again(tree):
    put_addon(tree, "acme_notes")
    put(tree, "acme_notes/__init__.py", BROKEN)
    (addon,) = addons.find_addons(tree, ODOO_19)

    assert suspects(tree, proven={addon.fingerprint}) == ()


def test_code_that_is_too_large_or_too_deep_for_a_compiler_is_not_judged(tree):
    put_addon(tree, "acme_notes")
    put(tree, "acme_notes/__init__.py", "from . import large, deep, " + "x" * 300 + "\n")
    put(tree, "acme_notes/large.py", "a\n" * 1_000_000 + BROKEN)
    put(tree, "acme_notes/deep.py", "-" * 100_000 + "1\n")

    assert suspects(tree) in ((), ("deep.py",))


def test_links_that_fan_out_can_be_called_away_from(tree):
    """Fourteen folders, each with two links to the next: sixteen thousand ways to one file."""
    put_addon(tree, "acme_notes")
    for number in range(14):
        folder = tree / "acme_notes" / f"d{number}"
        folder.mkdir()
        for way in "ab":
            (folder / way).symlink_to(f"../d{number + 1}")
    (tree / "acme_notes" / "d14").mkdir()
    asked = []

    def called_away() -> None:
        asked.append(1)
        if len(asked) > 100:
            raise InterruptedError

    with waiting.heeding(called_away), pytest.raises(InterruptedError):
        context(tree)


def test_python_that_nobody_imports_may_be_broken(tree):
    put_addon(tree, "acme_notes")
    put(tree, "acme_notes/__init__.py", "from . import models, nothing\nfrom .. import above\nimport odoo\n")
    put(tree, "acme_notes/models/__init__.py", "def later():\n    from . import broken\n")
    put(tree, "acme_notes/models/broken.py", BROKEN)
    put(tree, "above.py", BROKEN)

    assert suspects(tree) == ()


def test_a_manifest_is_never_run(tree):
    marker = tree.parent / "ran"
    put_addon(tree, "acme_notes", manifest=f"{{'name': 'x', 'data': [open({str(marker)!r}, 'w')]}}")
    with pytest.raises(addons.InvalidManifest):
        addons.find_addons(tree, ODOO_19)
    assert not marker.exists()


# Links


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("acme_notes/static/passwd", "/etc/passwd"),
        ("acme_notes/__manifest__.py", "/etc/passwd"),
        ("acme_notes/etc", "/etc"),
        ("acme_notes/up", "../.."),
        ("acme_notes/config", "../.git/config"),
        ("acme_other", "/etc"),
        ("requirements.txt", "/etc/passwd"),
        ("apt.txt", "../outside.txt"),
    ],
)
def test_links_that_leave_the_tree_are_refused(tree, link, target):
    put_addon(tree, "acme_notes")
    put(tree, ".git/config", "[remote]")
    put(tree.parent, "outside.txt", "secret")
    (tree / link).unlink(missing_ok=True)
    (tree / link).parent.mkdir(exist_ok=True)
    (tree / link).symlink_to(target)
    with pytest.raises(addons.InvalidTree, match="leads out of the repository"):
        context(tree)


def test_links_within_the_tree_are_resolved(tree):
    put_addon(tree, "acme_notes")
    put(tree, "shared/logo.svg", "<svg/>")
    (tree / "acme_notes/static").symlink_to("../shared")
    plan = context(tree)

    copied = plan.context / "addons/acme_notes/static/logo.svg"
    assert copied.read_text() == "<svg/>"
    assert not copied.is_symlink()


@pytest.mark.parametrize("target", [".", "../acme_notes", "loop"])
def test_links_in_circles_and_broken_ones_are_refused(tree, target):
    put_addon(tree, "acme_notes")
    (tree / "acme_notes/loop").symlink_to(target)
    with pytest.raises(addons.InvalidTree):
        context(tree)


def test_what_is_neither_file_nor_folder_is_refused(tree):
    put_addon(tree, "acme_notes")
    os.mkfifo(tree / "acme_notes/pipe")
    with pytest.raises(addons.InvalidTree, match="pipe"):
        context(tree)


# Fingerprints


def test_the_fingerprint_changes_with_what_matters_to_the_database(tree):
    folder = put_addon(tree, "acme_notes")
    before = addons.fingerprint(folder)

    for name in ("__pycache__/x.pyc", "static/src/x.js", "tests/test_x.py", "i18n/acme_notes.pot"):
        put(folder, name, "x")
    assert addons.fingerprint(folder) == before

    seen = {before}
    for name in ("views/x.xml", "i18n/de.po", "models/thing.py", "empty.py"):
        put(folder, name, "" if name == "empty.py" else "x")
        seen.add(addons.fingerprint(folder))
    assert len(seen) == 5


def test_moving_content_between_files_changes_the_fingerprint(tree):
    folder = put_addon(tree, "acme_notes")
    put(folder, "a.py", "xy")
    put(folder, "b.py", "")
    before = addons.fingerprint(folder)
    put(folder, "a.py", "x")
    put(folder, "b.py", "y")
    assert addons.fingerprint(folder) != before


# The build context


def test_the_repositorys_own_dockerfile_is_not_used(tree):
    put_addon(tree, "acme_notes")
    put(tree, "Dockerfile", "FROM scratch")
    put(tree, ".dockerignore", "*")
    plan = context(tree)

    assert (plan.context / "Dockerfile").read_text().splitlines() == [
        "FROM odoo:19.0",
        "USER root",
        "USER odoo",
        "COPY addons /opt/ocore/addons",
    ]
    assert sorted(path.name for path in plan.context.iterdir()) == ["Dockerfile", "addons"]


def test_packages_are_layers_before_the_addons(tree):
    put_addon(tree, "oca/tools/acme_notes")
    put(tree, "requirements.txt", "phonenumbers==8.13\n")
    put(tree, "oca/tools/requirements.txt", "-r more.txt\n")
    put(tree, "oca/tools/more.txt", "vobject\n")
    put(tree, "docs/requirements.txt", "sphinx\n")
    put(tree, "apt.txt", "# fonts\nfonts-dejavu  libpq-dev\n")
    plan = context(tree, pip_packages=["requests>=2.31", " "])

    assert plan.requirements == ("requirements.txt", "oca/tools/requirements.txt", "ocore-extra.txt")
    assert plan.apt_packages == ("fonts-dejavu", "libpq-dev")
    assert (plan.context / "requirements/oca/tools/more.txt").exists()
    assert not (plan.context / "requirements/docs").exists()
    lines = (plan.context / "Dockerfile").read_text().splitlines()
    order = [next(i for i, line in enumerate(lines) if text in line) for text in ("libpq-dev", "-r ", "COPY addons")]
    assert order == sorted(order)
    assert '-r "/opt/ocore/requirements/ocore-extra.txt"' in lines[order[1]]


def test_certificates_are_for_pip_in_the_build_only(tree):
    put_addon(tree, "acme_notes")
    assert "PIP_CERT" not in (context(tree, "plain", certificates=b"PEM").context / "Dockerfile").read_text()
    put(tree, "requirements.txt", "vobject")
    plan = context(tree, certificates=b"PEM")
    (line,) = [line for line in (plan.context / "Dockerfile").read_text().splitlines() if "PIP_CERT" in line]
    assert line.startswith("RUN PIP_CERT=/opt/ocore/requirements/ocore-certificates.pem ")
    assert (plan.context / "requirements/ocore-certificates.pem").read_bytes() == b"PEM"


def test_the_same_content_gives_the_same_digest_whenever_and_whoever_checked_it_out(tree):
    put_addon(tree, "acme_notes")
    first = context(tree, "one")
    for path in tree.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    put(tree, "README.md", "not in the image")
    umask = os.umask(0o077)
    try:
        second = context(tree, "two")
    finally:
        os.umask(umask)

    assert first.digest == second.digest
    file = second.context / "addons/acme_notes/__init__.py"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.stat().st_mtime == (first.context / "addons/acme_notes/__init__.py").stat().st_mtime


def test_anything_that_goes_into_the_image_changes_the_digest(tree):
    put_addon(tree, "acme_notes")
    digests = [context(tree, "a").digest, context(tree, "b", base_image_id="sha256:1").digest]
    digests.append(context(tree, "c", pip_packages=["vobject"]).digest)
    put(tree, "acme_notes/static/x.js", "x")
    digests.append(context(tree, "d").digest)
    put(tree, "apt.txt", "curl")
    digests.append(context(tree, "e").digest)
    put(tree, "requirements.txt", "vobject")
    digests.append(context(tree, "f").digest)
    assert len(set(digests)) == 6


@pytest.mark.parametrize(
    "package",
    ["--index-url=https://x", "-r /etc/passwd", "x; rm -rf /", "x\n--pre", "./local", "a b", "x @ file:///etc/passwd"],
)
def test_a_pip_package_cannot_be_an_option_or_a_local_file(package):
    with pytest.raises(requirements.InvalidRequirements):
        requirements.check_pip_packages([package])


def test_pip_packages_are_taken_as_pip_names_them():
    given = ["requests[socks]>=2.31,<3", "vobject; python_version > '3.9'", "x @ git+https://git.example/x@v1", ""]
    assert len(requirements.check_pip_packages(given)) == 3


@pytest.mark.parametrize("line", ["curl; rm -rf /", "-o=x", "$(id)", "Curl", "a", "curl && true"])
def test_an_apt_package_cannot_be_a_command(tree, line):
    put_addon(tree, "acme_notes")
    put(tree, "apt.txt", f"# comment\n{line}\n")
    with pytest.raises(requirements.InvalidRequirements, match=r"apt.txt, line 2"):
        context(tree)


@pytest.mark.parametrize("include", ["../outside.txt", "/etc/passwd", "gone.txt"])
def test_a_requirements_file_includes_only_what_is_in_the_repository(tree, include):
    put_addon(tree, "acme_notes")
    put(tree.parent, "outside.txt")
    put(tree, "requirements.txt", f"-r {include}\n")
    with pytest.raises(requirements.InvalidRequirements, match="not in the repository"):
        context(tree)


@pytest.mark.parametrize("image", ["odoo:19.0\nRUN id", "-x", "odoo 19", ""])
def test_a_base_image_cannot_be_another_line_of_the_dockerfile(tree, image):
    put_addon(tree, "acme_notes")
    with pytest.raises(addons.InvalidTree):
        build_plan.prepare_context(tree, tree.parent / "context", ODOO_19, image)
