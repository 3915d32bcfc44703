#!/usr/bin/env python3
"""Django's command line for oCore."""

import os
import sys
from pathlib import Path


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ocore.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        _become_the_virtual_environments()
        raise
    execute_from_command_line(sys.argv)


def _become_the_virtual_environments() -> None:
    """`./manage.py` works without activating what `make` has made."""
    python = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix) != python.parent.parent:
        os.execv(python, [str(python), *sys.argv])  # noqa: S606


if __name__ == "__main__":
    main()
