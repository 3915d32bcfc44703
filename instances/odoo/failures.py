"""Why did Odoo fail? The log's last traceback, put into a sentence and the reader's next move."""

import re
from dataclasses import dataclass

LOG_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ \d+ (?P<level>[A-Z]+) (?P<database>\S+) (?P<logger>[\w.]+): (?P<text>.*)"
)


@dataclass(frozen=True)
class Failure:
    what: str
    advice: str
    excerpt: str = ""
    """The lines of the log that say so."""


_PACKAGE = "Add the Python package to the repository's requirements.txt, or correct the import, and push again."
_FILE = "Correct that file and push again."
_CODE = "Correct the addon's code and push again."

# In the order of how telling they are: the first that occurs is the answer. `{reason}` is the pattern's own, or what
# stands nearest to it in the log.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|could not extend file|errors\.DiskFull",
        "The server's disk is full.",
        "Free some space on the server (old images, dumps, logs), then deploy again.",
    ),
    (
        r"\nMemoryError|Cannot allocate memory|errors\.OutOfMemory",
        "Odoo ran out of memory.",
        "Raise the environment's memory limits (container, soft and hard), then deploy again.",
    ),
    (
        r"ModuleNotFoundError: No module named '(?P<name>odoo\.addons\.[\w.]+)'",
        "The Python module {name} does not exist: an import in an addon is wrong, or an addon is missing.",
        "Correct the import, or add the addon to the repository and to “depends” in the manifest.",
    ),
    (
        r"ModuleNotFoundError: No module named '(?P<name>[^']+)'",
        "The Python package “{name}” is not in the image.",
        _PACKAGE,
    ),
    (
        r"external dependency is not met: (?P<reason>[^\n]+)",
        "A manifest asks for something that is not in the image: {reason}.",
        "Add the Python package to requirements.txt, or the program's Debian package to apt.txt, and push again.",
    ),
    (
        r"ImportError: (?P<reason>[^\n]+)",
        "An addon cannot be imported: {reason}.",
        "Correct the import and push again.",
    ),
    (
        r"File \"(?P<file>[^\"]+)\", line (?P<line>\d+)\n(?:[^\n]*\n){0,3}"
        r"(?:IndentationError|SyntaxError|TabError): (?P<reason>[^\n]+)",
        "The Python file {file} has a syntax error in line {line}: {reason}.",
        _FILE,
    ),
    (
        r"(?:depends on the module|unmet dependenc\w+)[: ]+(?P<reason>[\w, ]+)",
        "An addon depends on a module that is not there: {reason}.",
        "Add the missing addon to the repository, or correct “depends” in the manifest.",
    ),
    (
        r"ValueError: Module (?P<name>\w+): invalid manifest",
        "The manifest of “{name}” is not valid.",
        "Correct its __manifest__.py and push again.",
    ),
    (
        r"ParseError: while parsing (?P<file>[^\s:]+):(?P<line>\d+)",
        "The data file {file} cannot be loaded, line {line}: {reason}",
        _FILE,
    ),
    (
        r"File \"(?P<file>[^\"]+)\", line \d+\nlxml\.etree\.\w+: (?P<reason>[^\n]+)",
        "The data file {file} is not valid XML: {reason}.",
        _FILE,
    ),
    (
        r"file (?P<file>\S+) could not be processed:\s*(?P<reason>[^\n]+)",
        "The data file {file} cannot be loaded: {reason}",
        _FILE,
    ),
    (
        r"FileNotFoundError: (?:\[Errno 2\] [^:\n]+: ?|File not found: ?)?(?P<reason>[^\n]+)",
        "A file is missing: {reason}.",
        "Add it to the repository, or remove what refers to it.",
    ),
    (
        r"psycopg2?\.OperationalError: (?P<reason>[^\n]+)",
        "Odoo cannot work with PostgreSQL: {reason}",
        "Check that the server's PostgreSQL runs and has connections left, then deploy again.",
    ),
    (
        r"psycopg2?\.(?:errors\.\w+|\w*Error): (?P<reason>[^\n]+)",
        "PostgreSQL refused a statement: {reason}",
        "The addon's models or its migration do not fit the data in this database: correct either.",
    ),
    (r"\nKeyError: (?P<reason>[^\n]+)", "Odoo stopped because there is no {reason}.", _CODE),
    (r"\n(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Warning)): (?P<reason>[^\n]+)", "Odoo stopped: {reason}", _CODE),
)


def explain_failure(log: str, exit_code: int = 0) -> Failure:
    """The most telling thing in the log of a failed Odoo, as a person would say it, and the next move."""
    excerpt = last_trouble(log)
    for pattern, what, advice in _KNOWN:
        matches = list(re.finditer(pattern, excerpt))
        if matches:
            return Failure(what.format_map(_words(matches[-1], excerpt)), advice, _shortened(excerpt))
    if exit_code == 137:
        return Failure(
            "Odoo was killed, most likely because it went past the container's memory limit.",
            "Raise the environment's memory limit, then deploy again.",
            _shortened(excerpt),
        )
    last = next((line for line in reversed((excerpt or log).splitlines()) if line.strip()), "")
    what = f"The log ends with: {last.strip()[:300]}" if last else "It left no log."
    return Failure(what, "Read the end of the step's log.", _shortened(excerpt))


def last_trouble(log: str) -> str:
    """The log's last traceback, with the line of the log that it belongs to and the tracebacks that led to it; without
    one the last errors; empty when there are none."""
    entries = log.splitlines()
    last = max((index for index, line in enumerate(entries) if line.startswith("Traceback (most recent")), default=-1)
    if last < 0:
        matches = ((line, LOG_LINE.match(line)) for line in entries)
        return "\n".join([line for line, match in matches if match and match["level"] in {"ERROR", "CRITICAL"}][-10:])
    begin = last
    while begin > 0 and not LOG_LINE.match(entries[begin]):
        begin -= 1
    end = last + 1
    while end < len(entries) and not LOG_LINE.match(entries[end]):
        end += 1
    return "\n".join(entries[begin:end]).strip()


def _words(match: re.Match[str], text: str) -> dict[str, str]:
    words = {key: (value or "").strip().rstrip(".")[:300] for key, value in match.groupdict().items()}
    return {"reason": _nearest_reason(text, match)} | words


def _nearest_reason(text: str, match: re.Match[str]) -> str:
    """Of a data file that does not load: what Odoo says of the view, or the exception that was behind it."""
    after = re.search(r"\n([^\n]+)\n+View error context", text[match.end() :])
    behind = re.findall(r"\n((?:\w+\.)*\w*(?:Error|Exception|Violation|Warning)\w*: [^\n]+)", text[: match.start()])
    following = [line.strip() for line in text[match.end() :].splitlines() if line.strip(", ")]
    found = (after and after[1]) or (behind and behind[-1]) or (following and following[0]) or "the log shows why"
    return str(found).strip()[:300]


def _shortened(excerpt: str, lines: int = 40) -> str:
    entries = excerpt.splitlines()
    if len(entries) <= lines:
        return excerpt
    return "\n".join([*entries[:2], "  [...]", *entries[2 - lines :]])
