"""What the supervisor runs: the Procfile's lines, as argv lists."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from honcho.environ import expand_processes, parse_procfile

from ocore.machine import redis


@dataclass(frozen=True)
class Program:
    name: str
    argv: tuple[str, ...]


def portal_programs() -> list[Program]:
    """The Procfile's, the workers as many times as OCORE_WORKERS says, Redis only where it is our own."""
    concurrency = {"worker": settings.OCORE_WORKERS}
    procfile = parse_procfile((Path(settings.BASE_DIR) / "Procfile").read_text())
    programs = []
    for process in expand_processes(procfile.processes, concurrency=concurrency, env={}):
        kind = process.name.partition(".")[0]
        if kind == "redis" and not redis.is_our_own():
            continue
        name = process.name if kind in concurrency else kind
        programs.append(Program(name, tuple(shlex.split(process.cmd))))
    return programs


def environment() -> dict[str, str]:
    """For every program: the virtual environment's programs first, our settings, output without delay."""
    folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")]),
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "ocore.settings"),
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
    }
