"""What a build leaves on its way: the engine's builder runs each step in a container and keeps an image of each.

Where a build ends without its image, these images stay for ever, and where the engine itself was killed, the container
too. They are known by a label that a finished image has empty (`ownership.LAYER_LABEL`).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from docker.errors import APIError

from instances.runtimes.base import ServerUnreachable
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.ownership import LAYER_LABEL
from ocore import waiting
from ocore.errors import ExpectedError
from ocore.locks import lock_if_free, shared_lock

ENDING_SECONDS = 5.0
"""So long the engine is given to end a build that nobody listens to any more; it takes it a fraction of a second."""


@contextlib.contextmanager
def swept(engine: Engine, namespace: str) -> Iterator[None]:
    """Around a build. Afterwards, unless another build of this machine is at work, which may stand on the same layers,
    nothing is left of it and of those that were killed before; else whoever ends last does that."""
    built = False
    try:
        with shared_lock(_lock(namespace)):
            yield
        built = True
    finally:
        with waiting.undisturbed(), contextlib.suppress(ExpectedError):
            sweep_if_alone(engine, namespace, patience=0 if built else ENDING_SECONDS)


def sweep_if_alone(engine: Engine, namespace: str, patience: float = 0) -> None:
    """As `sweep`, unless a build of this machine is at work. `patience` is also for an engine that is being started."""
    deadline = time.monotonic() + patience
    with lock_if_free(_lock(namespace)) as alone:
        while alone:
            left = deadline - time.monotonic()
            try:
                sweep(engine, namespace, max(left, 0))
                return
            except ServerUnreachable:
                if left <= 0:
                    raise
                time.sleep(0.2)


def _lock(namespace: str) -> Path:
    return Path(settings.STATE_DIR) / "locks" / f"builds-{namespace}.lock"


def sweep(engine: Engine, namespace: str, patience: float = 0) -> None:
    """Remove the containers, and the images on which no other stands. `patience`: seconds for one that still runs."""
    wanted = {"label": f"{LAYER_LABEL}={namespace}"}
    deadline = time.monotonic() + patience
    with engine.translated("remove what a build has left"):
        while containers := engine.api.containers(all=True, filters=wanted):
            for one in containers:
                # One that runs is being ended by the engine just now, or is another machine's build.
                if one["State"] != "running":
                    _removed(engine.api.remove_container, one["Id"], force=True, v=True)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        # Each was made from the one before: only the last can go, and then the next is the last.
        while images := engine.api.images(filters=wanted | {"dangling": True}):
            gone = [_removed(engine.api.remove_image, one["Id"]) for one in images]
            if not any(gone):
                break


def _removed(act: Callable[..., object], identity: str, **options: Any) -> bool:
    """False for what something else stands on, or that is gone already."""
    try:
        act(identity, **options)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise
        return False
    return True
