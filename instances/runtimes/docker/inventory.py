"""All that carries our label on an engine: to show it, and to remove it and nothing else (`make clean-machine`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import docker
from docker.errors import APIError, NotFound

from instances.runtimes.base import NAMESPACE_LABEL
from instances.runtimes.docker.base_images import BASE_LABEL
from instances.runtimes.docker.ownership import LAYER_LABEL, our_container, our_image


@dataclass
class Inventory:
    """Names, as a person would look for them; images without a name by id."""

    containers: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.containers or self.images or self.volumes or self.networks)


def everything_of(client: docker.APIClient, namespace: str | None = None, *, base_images: bool = True) -> Inventory:
    """What is ours: of one installation, or of all (`namespace` None). `base_images` False leaves out those that were
    built from Debian's packages, which take minutes to make again."""
    wanted = NAMESPACE_LABEL if namespace is None else f"{NAMESPACE_LABEL}={namespace}"
    filters = {"label": [wanted]}
    found = Inventory()
    for container in client.containers(all=True, filters=filters):
        name = next((name.lstrip("/") for name in container["Names"] if name.count("/") == 1), "")
        of_a_build = container.get("Labels", {}).get(LAYER_LABEL)
        if our_container(name, container.get("Labels"), namespace) or of_a_build:
            found.containers.append(name)
    for image in client.images(filters=filters):
        labels: dict[str, str] = image.get("Labels") or {}
        if not base_images and BASE_LABEL in labels and _is_base(image, labels, namespace):
            continue
        tags = [tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>"]
        found.images += [tag for tag in tags if our_image(tag, labels, namespace)] if tags else [image["Id"]]
    for volume in client.volumes(filters=filters).get("Volumes") or []:
        found.volumes.append(volume["Name"])
    found.networks = [network["Name"] for network in client.networks(filters=filters)]
    for names in (found.containers, found.images, found.volumes, found.networks):
        names.sort()
    return found


def _is_base(image: dict[str, Any], labels: dict[str, str], namespace: str | None) -> bool:
    """Projects' images inherit the base's label, but not its name."""
    return any(our_image(tag, labels, namespace) for tag in image.get("RepoTags") or [])


def remove_everything(
    client: docker.APIClient,
    namespace: str | None = None,
    *,
    base_images: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Inventory:
    """Remove what `everything_of` lists, saying each; what is left afterwards (in use by something that isn't ours) is
    returned, each with its reason said."""
    found = everything_of(client, namespace, base_images=base_images)
    left = Inventory()

    def attempt(kind: str, name: str, act: Callable[[], object], kept: list[str]) -> None:
        try:
            act()
        except NotFound:
            return
        except APIError as error:
            kept.append(name)
            say(f"{kind} {name} stays: {error.explanation or error}")
        else:
            say(f"{kind} {name} removed")

    for name in found.containers:
        attempt("container", name, lambda: client.remove_container(name, force=True, v=True), left.containers)  # noqa: B023
    # Images built on others go first: an image with children only loses its name.
    for name in sorted(found.images, key=lambda name: _age(client, name), reverse=True):
        attempt("image", name, lambda: client.remove_image(name), left.images)  # noqa: B023
    for name in found.volumes:
        attempt("volume", name, lambda: client.remove_volume(name), left.volumes)  # noqa: B023
    for name in found.networks:
        attempt("network", name, lambda: client.remove_network(name), left.networks)  # noqa: B023
    return left


def _age(client: docker.APIClient, name: str) -> str:
    try:
        return str(client.inspect_image(name)["Created"])  # type: ignore[no-untyped-call]
    except NotFound:
        return ""
