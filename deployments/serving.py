"""The containers of a deployment: those that serve it, of which the keeper makes one anew that is gone, and the one
that updates its database before."""

from collections.abc import Sequence

from deployments.configuration import Frozen
from deployments.models import Deployment
from instances import addon_code, processes
from instances.models import Instance
from instances.odoo import commands
from instances.odoo.config import ADDONS_DIR
from instances.odoo.plan import Plan
from instances.runtimes.base import ContainerSpec, Runtime

MOST_LOOKED_AT = 200
"""Files; where more can't be read, these tell enough."""
LOOK_BYTES = 512 * 1024**2


def containers(
    deployment: Deployment, config: Frozen, instances: Sequence[Instance], runtime: Runtime
) -> list[ContainerSpec]:
    """One for each instance, in their order; the first one runs the scheduled actions."""
    return [
        container(deployment, config, instance, runtime, cron=position == 0)
        for position, instance in enumerate(instances)
    ]


def container(
    deployment: Deployment, config: Frozen, instance: Instance, runtime: Runtime, *, cron: bool
) -> ContainerSpec:
    """One instance's; one that was added since the deployment began has its environment's settings. A second version
    runs no scheduled actions: what they send is sent once."""
    return processes.serving(
        instance,
        deployment.pk,
        deployment.image,
        config.instance(instance.slug),
        runtime,
        addons=bool(deployment.addons),
        cron=cron and instance.environment.second_of_id is None,
    )


def update_name(deployment: Deployment) -> str:
    return processes.one_shot_name(deployment.environment, "update", deployment.pk)


def update(deployment: Deployment, config: Frozen, plan: Plan, runtime: Runtime) -> ContainerSpec:
    return processes.one_shot(
        deployment.environment,
        deployment.pk,
        "update",
        deployment.image,
        commands.change(update=plan.update, install=plan.install),
        config.environment,
        runtime,
        addons=bool(deployment.addons),
    )


def look_name(deployment: Deployment) -> str:
    return processes.one_shot_name(deployment.environment, "look", deployment.pk)


def look_at_code(deployment: Deployment, files: Sequence[str]) -> ContainerSpec:
    """The image's Python, alone: without a network, a volume or a secret."""
    return ContainerSpec(
        name=look_name(deployment),
        image=deployment.image,
        entrypoint=(),
        command=(*addon_code.CHECK, *(f"{ADDONS_DIR}/{file}" for file in files[:MOST_LOOKED_AT])),
        labels=processes.labels(deployment.environment, deployment=deployment.pk, role="look"),
        memory_bytes=LOOK_BYTES,
    )
