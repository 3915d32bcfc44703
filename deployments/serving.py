"""The containers that serve a deployment: the deploy step makes them, and the keeper makes one anew that is gone."""

from collections.abc import Sequence

from deployments.configuration import Frozen
from deployments.models import Deployment
from instances import processes
from instances.models import Instance
from instances.runtimes.base import ContainerSpec, Runtime


def containers(
    deployment: Deployment, config: Frozen, instances: Sequence[Instance], runtime: Runtime
) -> list[ContainerSpec]:
    """One for each instance, in their order; the first one runs the scheduled actions."""
    return [
        processes.serving(
            instance,
            deployment.pk,
            deployment.image,
            config.instance(instance.slug),
            runtime,
            addons=bool(deployment.addons),
            cron=position == 0,
        )
        for position, instance in enumerate(instances)
    ]
