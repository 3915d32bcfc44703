"""Did an update or installation really succeed?

Odoo exits with 0 when it was asked for a module that does not exist, and goes on without modules that it cannot load.
So three witnesses are heard: the exit code, the log, and the module table. What the log says of a failure is put into
words by `failures`.
"""

import re
from collections.abc import Iterable, Mapping

from .failures import LOG_LINE, explain_failure
from .queries import ModuleRow

# Loggers whose errors mean that modules did not load. Others (SQL, schema, mail, cron) log errors that Odoo deals with.
_LOADING = re.compile(
    r"^odoo\.(modules(\.\w+)*|registry|orm\.registry|service\.server|addons\.base\.models\.ir_module)$"
)
_SIGNS = (
    re.compile(r"invalid module names, ignored: (?P<names>.+)"),
    re.compile(r"module (?P<names>\w+): not installable, skipped"),
    re.compile(r"module (?P<names>\w+): some depends are not loaded, skipped"),
    re.compile(r"module (?P<names>\w+): in a dependency loop, skipped"),
    re.compile(r"Failed to load registry"),
    re.compile(r"Some modules are not loaded"),
    re.compile(r"Some modules have inconsistent states"),
)
_FINISHED = re.compile(r" odoo\.modules\.loading: Modules loaded\.")
_NOT_FOUND = re.compile(r"module (?P<name>\w+): (manifest|module) not found")


def judge_update(
    exit_code: int, log: str, rows: Iterable[ModuleRow], expected: Mapping[str, str] | None = None
) -> list[str]:
    """The problems, as sentences for the person on call; none: it succeeded.

    `log` is the whole of it: what Odoo says of modules that it leaves out stands near the beginning.
    `expected` maps each module that was to be installed or updated to the version that the database must have now
    (empty: any). `rows` is the whole module table, read after Odoo has exited.
    """
    expected = expected or {}
    table = {row.name: row for row in rows}
    problems = []
    if exit_code:
        problems.append(f"Odoo exited with {exit_code}. {explain_failure(log, exit_code).what}")
    else:
        problems += _log_problems(log, expected)
    if not exit_code and not _FINISHED.search(log):
        problems.append("Odoo exited as if all were well, but its log does not say that the modules were loaded.")
    pending = sorted(f"{row.name} (“{row.state}”)" for row in table.values() if row.pending)
    if pending:
        problems.append(f"Modules are left half-way in the database: {', '.join(pending)}.")
    for name, version in (expected if not exit_code else {}).items():
        row = table.get(name)
        if row is None:
            problems.append(f"The module “{name}” is unknown to the database.")
        elif row.state != "installed" and not row.pending:
            problems.append(f"The module “{name}” is not installed: its state is “{row.state}”.")
        elif version and row.version != version:
            problems.append(
                f"The module “{name}” is at version {row.version or '(none)'} in the database, but at {version} in the"
                " image: it was not updated."
            )
    return problems


def _log_problems(log: str, expected: Mapping[str, str]) -> list[str]:
    found: dict[str, None] = {}
    for line in log.splitlines():
        match = LOG_LINE.match(line)
        if not match:
            continue
        text, level = match["text"], match["level"]
        missing = _NOT_FOUND.search(text)
        if (
            any(sign.search(text) for sign in _SIGNS)
            or (missing and missing["name"] in expected)
            or (level in {"ERROR", "CRITICAL"} and _LOADING.match(match["logger"]))
        ):
            found[f"Odoo's log says: {text.strip()}"] = None
        if "Failed to load registry" in text:
            found[explain_failure(log).what] = None
    return list(found)
