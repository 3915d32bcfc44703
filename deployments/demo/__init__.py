"""The demo: a project with a local git repository whose pushes deploy through the real webhook endpoint."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import transaction
from instances.models import Instance
from ocore.errors import ExpectedError
from projects.models import Environment, Project, Server

SLUG = "demo"
ADDON = Path(__file__).parent / "addon"


class DemoFailed(ExpectedError):
    """git refused something that it should not have."""


@dataclass(frozen=True)
class Demo:
    project: Project
    environment: Environment
    repository: Path
    """Bare; its hook announces every push to the webhook endpoint."""
    workdir: Path
    """A clone to work in."""


def ensure(server: Server) -> Demo:
    """The project, its production environment and its repository, made once."""
    folder = Path(settings.STATE_DIR) / "demo"
    repository, workdir = folder / "demo.git", folder / "work"
    if not (repository / "HEAD").exists():
        _make_repository(repository)
    _install_hook(repository)
    if not (workdir / ".git").exists():
        _make_workdir(repository, workdir)
    with transaction.atomic():
        project, _ = Project.objects.get_or_create(
            slug=SLUG,
            defaults={
                "name": "Demo",
                "description": "Made by `make up`: clone its repository, change the addon, push, and watch it go live.",
                "repository_url": repository.as_uri(),
            },
        )
        environment, _ = Environment.objects.select_related("project", "server").get_or_create(
            project=project,
            slug="production",
            defaults={
                "name": "Production",
                "server": server,
                "kind": Environment.Kind.PRODUCTION,
                "branch": "main",
                "public": True,
            },
        )
        Instance.ensure_first(environment)
    return Demo(project, environment, repository, workdir)


def push(demo: Demo) -> None:
    """As a developer would; the repository's hook calls the webhook. Pushes again when nothing new is there."""
    _git(demo.workdir, "commit", "--quiet", "--allow-empty", "-m", "Deploy the demo")
    _git(demo.workdir, "push", "--quiet", "origin", "main")


def _make_repository(repository: Path) -> None:
    repository.mkdir(parents=True, exist_ok=True)
    _git(repository, "init", "--quiet", "--bare", "--initial-branch=main")


def _install_hook(repository: Path) -> None:
    """After each push, `announce_push` tells the portal what a git host would tell it."""
    manage = Path(settings.BASE_DIR) / "manage.py"
    variables = {"OCORE_STATE_DIR": str(settings.STATE_DIR)}
    for name in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "OCORE_BASE_URL", "OCORE_WEB_BIND"):
        if os.environ.get(name):
            variables[name] = os.environ[name]
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    command = shlex.join([sys.executable, str(manage), "announce_push", SLUG])
    hook = repository / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\n# Made by oCore. A git host would call the webhook here; this does.\n{exports}exec {command}\n"
    )
    hook.chmod(0o755)


def _make_workdir(repository: Path, workdir: Path) -> None:
    shutil.rmtree(workdir, ignore_errors=True)
    _git(repository, "clone", "--quiet", "--", str(repository), str(workdir))
    _git(workdir, "checkout", "--quiet", "-B", "main")
    if not (workdir / "acme_notes").exists():
        shutil.copytree(ADDON, workdir, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        _git(workdir, "add", "--all")
        _git(workdir, "commit", "--quiet", "-m", "Add the notes addon")


def _git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "Demo Developer", "GIT_AUTHOR_EMAIL": "demo@example.com"}
    identity |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in identity.items()}
    plain = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **identity, **plain},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoFailed(f"git {arguments[0]} failed in {folder}.", detail=done.stderr.strip())
    return done.stdout
