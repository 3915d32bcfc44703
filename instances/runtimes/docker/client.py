"""The connection to one Docker engine, and what its refusals mean in our words."""

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException

from instances.runtimes.base import RunFailed, ServerSpec, ServerUnreachable

REQUEST_TIMEOUT = 60
"""Seconds for one ordinary request. What streams has deadlines of its own: see `streams`."""
NO_ANSWER = (
    requests.exceptions.Timeout,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,  # in the middle of what it streams, the SDK reads past requests
)


class Engine:
    """Connections to one engine: one per thread, since a session is not made to be shared."""

    def __init__(self, spec: ServerSpec) -> None:
        self.name = spec.name
        self.endpoint = spec.endpoint or os.environ.get("DOCKER_HOST", "")
        self._threads = threading.local()
        self._api_version = "auto"

    @property
    def local(self) -> bool:
        return not self.endpoint or self.endpoint.startswith("unix://")

    @property
    def api(self) -> docker.APIClient:
        """This thread's connection. Raises `ServerUnreachable`."""
        api: docker.APIClient | None = getattr(self._threads, "api", None)
        if api is None:
            api = self._threads.api = self.connect()
        return api

    def connect(self) -> docker.APIClient:
        """A connection of the caller's own, for something that may have to be cut off."""
        with self.translated(f"connect to {self.name}"):
            api = docker.APIClient(base_url=self.endpoint or None, version=self._api_version, timeout=REQUEST_TIMEOUT)
            api.trust_env = False
            self._api_version = api.api_version  # agreed on once
            return api

    @contextmanager
    def translated(self, attempt: str) -> Iterator[None]:
        """Turn what the engine or the connection says into `RunFailed` or `ServerUnreachable`."""
        try:
            yield
        except APIError as error:
            raise RunFailed(f"The engine of {self.name} could not {attempt}.", detail=explanation(error)) from error
        except (DockerException, *NO_ANSWER) as error:
            raise ServerUnreachable(
                f"The engine of {self.name} does not answer (trying to {attempt}).", detail=str(error)
            ) from error

    def settle(self, attempt: str, act: Callable[[], object], done: Callable[[], bool]) -> None:
        """Act; where the answer got lost, look whether it was done before trying once more."""
        with self.translated(attempt):
            try:
                act()
            except NO_ANSWER:
                if not done():
                    act()

    def version(self) -> dict[str, Any]:
        with self.translated("tell its version"):
            version: dict[str, Any] = self.api.version()
            return version

    @property
    def has_portal_architecture(self) -> bool:
        """Whether what is built from this machine's packages runs there."""
        names = {"x86_64": "amd64", "aarch64": "arm64"}
        machine = platform.machine()
        return bool(self.version().get("Arch") == names.get(machine, machine))


def explanation(error: APIError) -> str:
    return str(error.explanation or error)
