"""The demo: a project with a local git repository whose pushes deploy through the real webhook endpoint."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import git
from django.conf import settings
from django.db import transaction
from instances.models import Instance
from ocore.errors import ExpectedError
from projects.models import Environment, Project, Server

SLUG = "demo"
ADDON = Path(__file__).parent / "addon"
DEVELOPER = git.Actor("Demo Developer", "demo@example.com")
PLAIN = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
"""For git: nobody's own settings, no questions."""
_SETTING = re.compile(r"(OCORE|DJANGO)_[A-Z_]+|DATABASE_URL|REDIS_URL")
_HOOK = """#!/bin/sh
# Made by oCore at every `make up`. A git host would call the webhook here.
for name in $(env | sed -nE 's/^((OCORE|DJANGO)_[A-Z_]+|DATABASE_URL|REDIS_URL)=.*/\\1/p'); do unset "$name"; done
"""


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
    work = _open(demo.workdir)
    with _refusals(demo.workdir):
        work.index.commit("Deploy the demo", author=DEVELOPER, committer=DEVELOPER)
        work.git.push("--quiet", "origin", "main")


def _make_repository(repository: Path) -> None:
    with _refusals(repository):
        git.Repo.init(repository, mkdir=True, bare=True, initial_branch="main", env=PLAIN)


def _install_hook(repository: Path) -> None:
    """After each push, `announce_push` tells the portal what a git host would tell it: with the portal's settings,
    whatever is in the environment of whoever pushes."""
    manage = Path(settings.BASE_DIR) / "manage.py"
    ours = {name: value for name, value in os.environ.items() if _SETTING.fullmatch(name)}
    ours.pop("OCORE_ADMIN_PASSWORD", None)  # it needs no account
    ours["OCORE_STATE_DIR"] = str(settings.STATE_DIR)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(ours.items()))
    command = shlex.join([sys.executable, str(manage), "announce_push", SLUG])
    hook = repository / "hooks" / "post-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.touch(mode=0o700)
    hook.chmod(0o700)
    hook.write_text(f"{_HOOK}{exports}exec {command}\n")


def _make_workdir(repository: Path, workdir: Path) -> None:
    shutil.rmtree(workdir, ignore_errors=True)
    with _refusals(workdir):
        work = git.Repo.clone_from(str(repository), workdir, env=PLAIN)
        work.git.checkout("-B", "main")
        with work.config_writer() as own:
            own.set_value("user", "name", DEVELOPER.name).set_value("user", "email", DEVELOPER.email)
        if not (workdir / "acme_notes").exists():
            shutil.copytree(ADDON, workdir, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            work.git.add("--all")
            work.index.commit("Add the notes addon", author=DEVELOPER, committer=DEVELOPER)


def _open(folder: Path) -> git.Repo:
    repository = git.Repo(folder)
    repository.git.update_environment(**PLAIN)
    return repository


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    try:
        yield
    except git.GitCommandError as error:
        raise DemoFailed(f"git refused something in {folder}.", detail=str(error.stderr).strip()) from error
