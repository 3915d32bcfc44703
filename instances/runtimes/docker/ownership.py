"""What is ours on an engine, and what only looks like it.

Labels are inherited: a container from an image carries the image's labels, and so does an image built on it. So that
nobody else's things built on ours are ever touched, containers and images also carry their own name in a label.
"""

from collections.abc import Mapping

from instances.runtimes.base import NAMESPACE_LABEL

CONTAINER_LABEL = "io.ocore.container"
"""A container's own name."""
IMAGE_LABEL = "io.ocore.image"
"""An image's own reference."""
LAYER_LABEL = "io.ocore.layer"
"""On what a build leaves on its way, images and containers: the namespace. A finished image has it empty."""
GATE_LABEL = "io.ocore.gate"
SPEC_LABEL = "io.ocore.spec"
"""A hash of the `ContainerSpec` that a container was made from."""


def in_namespace(labels: Mapping[str, str] | None, namespace: str | None) -> bool:
    """`namespace` None: of any installation."""
    value = (labels or {}).get(NAMESPACE_LABEL)
    return value is not None if namespace is None else value == namespace


def our_container(name: str, labels: Mapping[str, str] | None, namespace: str | None) -> bool:
    return in_namespace(labels, namespace) and (labels or {}).get(CONTAINER_LABEL) == name.lstrip("/")


def our_image(reference: str, labels: Mapping[str, str] | None, namespace: str | None) -> bool:
    return in_namespace(labels, namespace) and (labels or {}).get(IMAGE_LABEL) == reference
