"""Would Python read what an addon is sure to load? Asked while everything still runs.

Python's own compiler is asked, nothing is run. It is the portal's, and the image may have another version: what this
one can't read is only a suspicion, which the image's own has to confirm.
"""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from instances.addons import inside
from ocore import waiting

MAX_BYTES = 256 * 1024
"""Of one file: the compiler takes a gigabyte of memory for some megabytes of text, and hears nobody meanwhile."""
CHECK = ("python3", "-c", "import sys; [compile(open(path, 'rb').read(), path, 'exec') for path in sys.argv[1:]]")
"""To run in the image, with the paths after it: fails with Python's own words at the first that it can't read."""
_BLOCKS = ("body", "orelse", "handlers", "finalbody")


def suspects(folder: Path, tree: Path) -> tuple[str, ...]:
    """Files of the addon in `folder`, named within it, that its package imports and that do not compile here."""
    found, seen = [], set()
    todo = [folder / "__init__.py"]
    while todo:
        waiting.pulse()
        path = todo.pop()
        if path in seen or not _is_small_file(path):
            continue
        seen.add(path)
        content = inside(tree, path).read_bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = ast.parse(content)
                compile(code, str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            found.append(str(path.relative_to(folder)))
        except (MemoryError, RecursionError):
            continue  # too much for this compiler: not ours to judge
        else:
            todo += [one for one in _imported(code.body, path.parent) if one.is_relative_to(folder)]
    return tuple(sorted(found))


def _is_small_file(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= MAX_BYTES
    except OSError:  # a name that no file can have
        return False


def _imported(statements: list[ast.stmt], package: Path) -> Iterator[Path]:
    """Files that a module imports from its own addon when it is imported itself; some may not exist."""
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            base = package
            for _ in range(statement.level - 1):
                base = base.parent
            for name in (statement.module or "").split(".") if statement.module else ():
                base /= name
                yield from _module(base)
            for alias in statement.names:
                yield from _module(base / alias.name)
        for block in _BLOCKS if isinstance(statement, ast.If | ast.Try | ast.ExceptHandler | ast.With) else ():
            yield from _imported(getattr(statement, block, []), package)


def _module(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.py"), path / "__init__.py"
