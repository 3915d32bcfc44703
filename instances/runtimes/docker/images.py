"""Images on one engine: find, build, remove, and the base images."""

import builtins
import contextlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils.build import create_archive

from instances.runtimes.base import NAMESPACE_LABEL, BuildFailed, Image, Log, RunFailed, ServerSpec, ServerUnreachable
from instances.runtimes.docker import base_images, leftovers
from instances.runtimes.docker.client import NO_ANSWER, Engine, explanation
from instances.runtimes.docker.ownership import IMAGE_LABEL, LAYER_LABEL, our_image
from instances.runtimes.docker.streams import DeadlinePassed, cut_response, watched

DETAIL_LINES = 60


class DockerImages:
    def __init__(self, spec: ServerSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine

    def find(self, reference: str) -> Image | None:
        with self.engine.translated(f"look for the image {reference}"):
            try:
                raw: dict[str, Any] = self.engine.api.inspect_image(reference)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return None
        return Image(
            reference, raw["Id"], int(raw.get("Size") or 0), dict((raw.get("Config") or {}).get("Labels") or {})
        )

    def list(self) -> builtins.list[Image]:
        filters = {"label": [f"{NAMESPACE_LABEL}={self.spec.namespace}"]}
        with self.engine.translated("list the images"):
            found: builtins.list[dict[str, Any]] = self.engine.api.images(filters=filters)
        return [
            Image(tag, raw["Id"], int(raw.get("Size") or 0), dict(raw.get("Labels") or {}))
            for raw in found
            for tag in sorted(raw.get("RepoTags") or [])
            if our_image(tag, raw.get("Labels"), self.spec.namespace)
        ]

    def ensure_base(self, reference: str, log: Log) -> Image:
        return base_images.ensure_base(self, reference, log)

    def build(
        self, reference: str, context: Path, labels: Mapping[str, str], log: Log, *, timeout: float, silence: float
    ) -> Image:
        """As `Images.build`. While the builder is silent, `log` gets an empty text every second, so it may stop it."""
        ours = {**labels, NAMESPACE_LABEL: self.spec.namespace}
        return self.build_labelled(reference, context, ours, log, timeout=timeout, silence=silence)

    def build_labelled(
        self,
        reference: str,
        context: Path,
        labels: Mapping[str, str],
        log: Log,
        *,
        timeout: float,
        silence: float,
        arguments: Mapping[str, str] | None = None,
    ) -> Image:
        """`build` with all labels the caller's (the reference's own is added), and build arguments: these stay visible
        in the image's history."""
        tail: builtins.list[str] = []
        api = self.engine.connect()
        responses: builtins.list[requests.Response] = []
        api.hooks["response"].append(lambda response, *_, **__: responses.append(response))

        archive = _archive(context, {**labels, IMAGE_LABEL: reference}, labels[NAMESPACE_LABEL])

        def produce() -> Iterator[dict[str, Any]]:
            yield from api.build(
                fileobj=archive,
                custom_context=True,
                tag=reference,
                buildargs=dict(arguments or {}),
                rm=True,
                forcerm=True,
                decode=True,
                timeout=math.ceil(timeout),
            )

        def cut() -> None:
            for response in responses:
                cut_response(response)
            api.close()

        events = watched(produce, cut, timeout=timeout, silence=silence, pulse=lambda _: log(""))
        try:
            with leftovers.swept(self.engine, labels[NAMESPACE_LABEL]), archive, closing(events):  # type: ignore[type-var]
                for event in events:
                    self._follow(reference, event, log, tail)
        except DeadlinePassed as error:
            raise BuildFailed(f"The build of {reference} {error} and was stopped.", detail=_last(tail)) from error
        except APIError as error:
            raise BuildFailed(f"The image {reference} could not be built.", detail=explanation(error)) from error
        except (DockerException, *NO_ANSWER) as error:
            raise ServerUnreachable(
                f"The engine of {self.engine.name} went away while {reference} was being built.", detail=str(error)
            ) from error
        image = self.find(reference)
        if image is None:
            raise BuildFailed(f"The build of {reference} ended without an image.", detail=_last(tail))
        return image

    def _follow(self, reference: str, event: dict[str, Any], log: Log, tail: builtins.list[str]) -> None:
        if "error" in event:
            text = str(event["error"]).rstrip("\n") + "\n"
        elif "stream" in event:
            text = str(event["stream"])
        elif "status" in event and "progress" not in event:
            text = f"{event['status']}\n"
        else:
            return
        if text:
            tail.append(text)
            del tail[: -4 * DETAIL_LINES]
            log(text if text.endswith("\n") else text + "\n")
        if "error" in event:
            raise BuildFailed(f"The build failed{_reason(tail)}.", detail=_last(tail))

    def tag(self, reference: str, target: str) -> None:
        with self.engine.translated(f"name the image {reference} {target}"):
            repository, _, tag = target.rpartition(":")
            self.engine.api.tag(reference, repository, tag, force=True)

    def load_root(self, archive: Path, reference: str, labels: Mapping[str, str]) -> Image:
        """An image of one layer from a root file system's tar file."""
        repository, _, tag = reference.rpartition(":")
        changes = [_label_instruction({**labels, IMAGE_LABEL: reference})]
        with self.engine.translated(f"import {reference}"):
            self.engine.api.import_image(src=str(archive), repository=repository, tag=tag, changes=changes)
        image = self.find(reference)
        if image is None:
            raise RunFailed(f"The engine of {self.engine.name} could not import {reference}.")
        return image

    def remove(self, reference: str) -> None:
        """Take the name away, and the image with its last one. `RunFailed` when it is not ours, or in use."""
        image = self.find(reference)
        if image is None:
            return
        if not our_image(reference, image.labels, self.spec.namespace):
            raise RunFailed(
                f"The image {reference} on {self.engine.name} is not one that “{self.spec.namespace}” built: it stays."
            )
        with self.engine.translated(f"remove the image {reference}"):
            try:
                self.engine.api.remove_image(reference)
            except ImageNotFound:
                return

    def tidy(self) -> None:
        leftovers.sweep_if_alone(self.engine, self.spec.namespace, leftovers.ENDING_SECONDS)

    def discard(self, identity: str) -> None:
        """An image that lost its name, unless something still stands on it."""
        with contextlib.suppress(RunFailed), self.engine.translated(f"remove the image {identity}"):
            self.engine.api.remove_image(identity)


def _label_instruction(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return json.dumps(text.replace("\n", " "), ensure_ascii=False).replace("$", "\\$")

    return "LABEL " + " ".join(f"{quoted(key)}={quoted(value)}" for key, value in sorted(labels.items()))


def _archive(context: Path, labels: Mapping[str, str], namespace: str) -> IO[bytes]:
    """The folder as a tar file, the labels one instruction at the Dockerfile's end: given to the builder apart, each
    would cost a step of its own, a tenth of a second. Another at its beginning marks what the build leaves on its way,
    the same for all builds, so that they share these layers."""
    on_the_way = _label_instruction({NAMESPACE_LABEL: namespace, LAYER_LABEL: namespace})
    dockerfile = (context / "Dockerfile").read_text().rstrip("\n")
    dockerfile = re.sub(r"^FROM .*$", lambda found: f"{found[0]}\n{on_the_way}", dockerfile, flags=re.MULTILINE)
    labels = {**labels, LAYER_LABEL: ""}
    files = sorted(str(path.relative_to(context)) for path in context.rglob("*"))
    extra = [("Dockerfile", f"{dockerfile}\n{_label_instruction(labels)}\n")]
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's to close
    create_archive(str(context), files=files, fileobj=archive, extra_files=extra)
    return archive


def _reason(tail: list[str]) -> str:
    """The line in which pip, apt or the engine says why; nothing when none does."""
    said = [line.strip() for text in tail for line in text.splitlines() if line.strip().startswith(("ERROR:", "E:"))]
    return f": {said[-1].partition(':')[2].strip().rstrip('.')[:200]}" if said else ""


def _last(tail: list[str]) -> str:
    return "\n".join("".join(tail).splitlines()[-DETAIL_LINES:])
