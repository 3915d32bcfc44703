"""Before the first deployment on "this machine": its base images, and what of it is stopped by `make down`."""

from django.conf import settings

from instances.runtimes.base import NAMESPACE_LABEL, Runtime
from ocore.machine.progress import Progress


def base_images() -> list[str]:
    """The references of all that a deployment of the default Odoo version stands on, the quickest to get first."""
    odoo = settings.OCORE_ODOO_IMAGE.format(version=settings.OCORE_DEFAULTS["odoo_version"])
    return [settings.OCORE_EDGE_IMAGE, settings.OCORE_LIMITER_IMAGE, settings.OCORE_POSTGRES_IMAGE, odoo]


def prepare_base_images(runtime: Runtime, progress: Progress) -> None:
    """All of them are on the server. Raises `ImageMissing` when one can be neither pulled nor built."""
    for reference in base_images():
        if runtime.images.find(reference) is None:
            with progress.step(f"Getting the base image {reference}"):
                runtime.images.ensure_base(reference, progress.log)
        else:
            # Looks whether it was built from an older recipe.
            runtime.images.ensure_base(reference, progress.log)


def stop_containers(runtime: Runtime, progress: Progress) -> int:
    """Stop, and keep, every container of this installation: first the edge, so that nobody is served half, last
    PostgreSQL, when nobody writes any more. How many ran."""
    ours = runtime.containers.list({NAMESPACE_LABEL: settings.OCORE_NAMESPACE})
    order = {name: 0 if part == "edge" else 2 for name, part in runtime.parts.items()}
    active = [container for container in ours if container.state in ("running", "restarting", "paused")]
    for container in sorted(active, key=lambda container: (order.get(container.name, 1), container.name)):
        with progress.step(f"Stopping {container.name}"):
            runtime.containers.stop(container.name)
    return len(active)
