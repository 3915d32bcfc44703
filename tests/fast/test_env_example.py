"""`.env.example` documents exactly what is read from the environment, with the defaults that are in force."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
OURS = re.compile(r"(OCORE|DJANGO)_[A-Z_]+|DATABASE_URL|REDIS_URL")
NOT_FOR_PEOPLE = {"DJANGO_SETTINGS_MODULE"}


def documented() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.removeprefix("# ").split("=", 1) for line in lines if re.match(r"(# )?[A-Z_]+=", line))


def read_by_the_code() -> Iterator[tuple[str, ast.Call | None]]:
    """Name and call of every `env(...)`, `env.int(...)`, `os.environ[...]`, `os.environ.get(...)`, `os.getenv(...)`."""
    for app in ("ocore", "projects", "instances", "deployments"):
        for path in (ROOT / app).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                target, argument = None, None
                if isinstance(node, ast.Call) and node.args:
                    target, argument = ast.unparse(node.func), node.args[0]
                elif isinstance(node, ast.Subscript):
                    target, argument = ast.unparse(node.value), node.slice
                name = argument.value if isinstance(argument, ast.Constant) else None
                if (
                    target
                    and isinstance(name, str)
                    and OURS.fullmatch(name)
                    and re.fullmatch(r"env(\.\w+)?|os\.environ(\.\w+)?|os\.getenv", target)
                ):
                    yield name, node if isinstance(node, ast.Call) else None


def literal_defaults() -> dict[str, object]:
    """Of the variables whose default stands in the settings as a plain value or a product of plain numbers."""
    defaults: dict[str, object] = {}
    for name, call in read_by_the_code():
        for keyword in call.keywords if call else ():
            plain = all(isinstance(node, ast.Constant | ast.BinOp | ast.operator) for node in ast.walk(keyword.value))
            if keyword.arg == "default" and plain:
                defaults[name] = eval(compile(ast.Expression(keyword.value), name, "eval"))  # noqa: S307 - our own sums
    return defaults


def test_every_variable_that_is_read_is_documented_and_no_other():
    read = {name for name, _ in read_by_the_code()} - NOT_FOR_PEOPLE
    assert set(documented()) == read


@pytest.mark.parametrize(("name", "default"), sorted(literal_defaults().items()))
def test_the_documented_default_is_the_one_in_force(name, default):
    assert documented()[name] == str(default)


def test_nothing_in_the_example_is_set_so_that_a_copy_changes_nothing():
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
