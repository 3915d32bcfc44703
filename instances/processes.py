"""An environment's Odoo as containers: what each is made of, from plain settings."""

import secrets
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings

from instances.models import Instance
from instances.odoo import commands, config
from instances.odoo.versions import series
from instances.runtimes.base import NAMESPACE_LABEL, ContainerSpec, File, Runtime
from projects.models import Environment

SECRETS_PATH = "/etc/odoo/secrets.env"
# A constant script: reads the secret variables from a file instead of the container's description, then becomes Odoo.
_WITH_SECRETS = ("sh", "-c", f'set -a; . {SECRETS_PATH}; set +a; exec "$@"', "sh")
STOP_SECONDS = 30
"""Odoo gets so long to end by itself; half a second is usual."""
ODOO_PIDS = 1024


def labels(environment: Environment, **more: Any) -> dict[str, str]:
    own = {"environment": environment.key, "project": environment.project.slug} | more
    return {NAMESPACE_LABEL: settings.OCORE_NAMESPACE} | {f"io.ocore.{name}": str(text) for name, text in own.items()}


def serving(
    instance: Instance,
    deployment: int,
    image: str,
    values: Mapping[str, Any],
    runtime: Runtime,
    *,
    addons: bool,
    cron: bool,
) -> ContainerSpec:
    """The container that serves clients for a deployment. `cron`: this one runs the scheduled actions."""
    return _spec(
        instance.environment,
        instance.container_for(deployment),
        image,
        commands.serve(),
        values if cron else {**values, "cron_threads": 0},
        runtime,
        addons=addons,
        restart=True,
        extra_labels={"instance": instance.slug, "deployment": deployment, "role": "odoo"},
    )


def one_shot_name(environment: Environment, purpose: str, deployment: int) -> str:
    """Two dashes, since an instance may be called like the purpose."""
    return f"{settings.OCORE_NAMESPACE}-{environment.key}--{purpose}-d{deployment}"


def one_shot(
    environment: Environment,
    deployment: int,
    purpose: str,
    image: str,
    command: Sequence[str],
    values: Mapping[str, Any],
    runtime: Runtime,
    *,
    addons: bool,
) -> ContainerSpec:
    """A container that does one thing to the database and ends."""
    return _spec(
        environment,
        one_shot_name(environment, purpose, deployment),
        image,
        command,
        values,
        runtime,
        addons=addons,
        restart=False,
        extra_labels={"deployment": deployment, "role": purpose},
    )


def check(values: Mapping[str, Any]) -> None:
    """Raises `InvalidOption` for what must not reach a container, before anything is touched."""
    config.check_extra_options(values["odoo_conf"])
    config.check_environment(values["environment_variables"])
    config.check_environment(values["secret_variables"])


def _spec(
    environment: Environment,
    name: str,
    image: str,
    command: Sequence[str],
    values: Mapping[str, Any],
    runtime: Runtime,
    *,
    addons: bool,
    restart: bool,
    extra_labels: Mapping[str, Any],
) -> ContainerSpec:
    files = [
        File(config.CONFIG_PATH, odoo_conf(environment, values, runtime, addons=addons).encode(), mode=0o444),
        File(commands.WINGS_PATH, commands.WINGS, mode=0o444),
    ]
    command = commands.in_the_wings(command)
    secret = values["secret_variables"]
    if secret:
        content = "".join(f"{key}={shlex.quote(text)}\n" for key, text in sorted(secret.items()))
        files.append(File(SECRETS_PATH, content.encode(), mode=0o444))
        command = (*_WITH_SECRETS, *command)
    return ContainerSpec(
        name=name,
        image=image,
        command=tuple(command),
        entrypoint=(),
        environment=dict(values["environment_variables"]),
        files=tuple(files),
        volumes={environment.volume: config.DATA_DIR},
        network=runtime.network,
        labels=labels(environment, **extra_labels),
        memory_bytes=values["memory_limit"],
        cpus=values.get("cpu_limit", 0),  # what was frozen before there was such a limit has none
        pids=ODOO_PIDS,
        restart=restart,
        stop_seconds=STOP_SECONDS,
        gate=commands.GATE_PATH,
    )


def odoo_conf(environment: Environment, values: Mapping[str, Any], runtime: Runtime, *, addons: bool) -> str:
    """The whole configuration file. The master password is random and forgotten: nobody is to open that door."""
    return config.render_config(
        config.OdooConfig(
            series=series(values["odoo_version"]),
            db_host=runtime.databases.host,
            db_port=runtime.databases.port,
            db_user=environment.role,
            db_password=environment.database_password,
            db_name=environment.database,
            admin_passwd=config.password_hash(secrets.token_urlsafe(24), rounds=1000),
            addons_path=(config.ADDONS_DIR,) if addons else (),
            workers=values["workers"],
            max_cron_threads=values["cron_threads"],
            limit_memory_soft=values["limit_memory_soft"],
            limit_memory_hard=values["limit_memory_hard"],
            limit_time_cpu=values["limit_time_cpu"],
            limit_time_real=values["limit_time_real"],
            extra=values["odoo_conf"],
        )
    )
