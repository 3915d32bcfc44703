"""What to run in an Odoo container, as argv lists.

They begin with `env odoo`: the official image's entrypoint hands an unknown first word through as it is, while `odoo`
itself makes it add the database's password to the command line, where every process sees it.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ocore.errors import ExpectedError

from .config import CONFIG_PATH
from .versions import Series

PROGRAM = ("env", "odoo", f"--config={CONFIG_PATH}")
WINGS_PATH, GATE_PATH = "/etc/odoo/in_the_wings.py", "/etc/odoo/begin"
WINGS = Path(__file__).with_name("in_the_wings.py").read_bytes()
"""What `in_the_wings` needs in the container at WINGS_PATH."""
# By the interpreter that the program names itself; what is no Python script only waits.
_IN_THE_WINGS = f"""
IFS= read -r first < "$(command -v "$1")"
case $first in
    '#!'*python*) exec ${{first#??}} {WINGS_PATH} {GATE_PATH} "$@" ;;
esac
while ! [ -e {GATE_PATH} ]; do sleep 0.05; done
exec "$@"
"""
_ONCE = (
    "--stop-after-init",
    "--no-http",
    "--max-cron-threads=0",
    "--workers=0",
    # Whatever the environment's own log options are: `judge_update` reads this log.
    "--log-level=info",
    "--log-handler=:INFO",
)


class InvalidModuleName(ExpectedError):
    default_advice = "Technical names of Odoo modules consist of letters, digits and underscores."


def serve(*, update: Iterable[str] = (), install: Iterable[str] = ()) -> Sequence[str]:
    """Serve clients; with names, install and update these first, in the same start."""
    return (*PROGRAM, *_changes(update, install))


def in_the_wings(command: Sequence[str]) -> Sequence[str]:
    """The same, but loaded it waits until there is a file GATE_PATH."""
    if command[0] != "env":
        raise ValueError(f"not one of these commands: {command}")
    return ("sh", "-c", _IN_THE_WINGS, "sh", *command[1:])


def initialise(odoo: Series, *, auto_install: bool = True, languages: Sequence[str] = ()) -> Sequence[str]:
    """Make an empty database an Odoo one, with `base` and, as Odoo itself does it, what installs itself on top: `web`
    is among that, so without it nobody can log in until an addon brings it."""
    extra = () if auto_install or not odoo.can_skip_auto_install else ("--skip-auto-install",)
    if not all(re.fullmatch(r"[a-z]{2,3}(_[A-Z]{2})?(@[a-z]+)?", code) for code in languages):
        raise ExpectedError(f"Not a list of language codes: {', '.join(languages)}", advice="Codes look like de_CH.")
    language = (f"--load-language={','.join(languages)}",) if languages else ()
    return (*PROGRAM, "--init=base", *extra, *language, *_ONCE)


_FILES_INTO_DATABASE = """
parameters = env["ir.config_parameter"]
parameters.set_param("ir_attachment.location", "db")
env["ir.attachment"].force_storage()
parameters.search([("key", "=", "ir_attachment.location")]).unlink()
env.cr.commit()
"""
_THEN_SHELL = f"""
code=$1; shift
"$@" || exit
printf %s "$code" | exec env odoo shell --config={CONFIG_PATH} --no-http --max-cron-threads=0 --workers=0
"""


def then_files_into_database(initialise: Sequence[str]) -> Sequence[str]:
    """After initialising, move what Odoo wrote to its filestore into the database: a template is a database alone, and
    its copies would miss the company's logo and the users' pictures. What a copy stores later goes to its filestore."""
    return ("sh", "-c", _THEN_SHELL, "sh", _FILES_INTO_DATABASE, *initialise)


def change(*, update: Iterable[str] = (), install: Iterable[str] = ()) -> Sequence[str]:
    """Update and install modules, then exit."""
    changes = _changes(update, install)
    if not changes:
        raise ValueError("nothing to update or install")
    return (*PROGRAM, *changes, *_ONCE)


def _changes(update: Iterable[str], install: Iterable[str]) -> tuple[str, ...]:
    options = (("--update", sorted(set(update))), ("--init", sorted(set(install))))
    for name in (name for _, names in options for name in names):
        if not re.fullmatch(r"\w{1,256}", name, re.ASCII):
            raise InvalidModuleName(f"“{name}” is not the technical name of an Odoo module.")
    return tuple(f"{option}={','.join(names)}" for option, names in options if names)
