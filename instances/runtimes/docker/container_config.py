"""A `ContainerSpec` in the engine's words: hardened, labelled, with bounded logs."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import docker
from django.utils.crypto import salted_hmac
from docker.types import LogConfig, Mount

from instances.runtimes.base import NAMESPACE_LABEL, Container, ContainerSpec, File
from instances.runtimes.docker.ownership import CONTAINER_LABEL, GATE_LABEL, SPEC_LABEL

LOGS = {"max-size": "10m", "max-file": "3"}


def fingerprint(spec: ContainerSpec) -> str:
    """The same for the same content, files included: how a container that is there already is told to be the one.
    Keyed, so that the label gives nobody a password to guess at."""

    def plain(value: Any) -> Any:
        return value.hex() if isinstance(value, bytes) else str(value)

    said = asdict(spec)
    if not spec.cpus:  # as before there was such a limit: what runs is still the one
        del said["cpus"]
    for name in ("stop_signal", "gate"):
        if not said[name]:
            del said[name]
    text = json.dumps(said, sort_keys=True, default=plain)
    return salted_hmac("instances.runtimes.docker", text, algorithm="sha256").hexdigest()


def arguments(api: docker.APIClient, spec: ContainerSpec, namespace: str) -> dict[str, Any]:
    """For the SDK's `create_container`."""
    host = api.create_host_config(
        mounts=[Mount(target=path, source=name, type="volume") for name, path in spec.volumes.items()],
        port_bindings={port: [binding] for port, binding in spec.ports.items()},
        network_mode=spec.network or "none",
        cap_drop=["ALL"],
        cap_add=list(spec.capabilities),
        security_opt=["no-new-privileges:true"],
        mem_limit=spec.memory_bytes or None,
        memswap_limit=spec.memory_bytes or None,
        nano_cpus=round(min(spec.cpus, api.info()["NCPU"]) * 1e9) if spec.cpus else None,
        pids_limit=spec.pids,
        shm_size=spec.shm_bytes or None,
        log_config=LogConfig(type=LogConfig.types.JSON, config=LOGS),
        restart_policy={"Name": "unless-stopped"} if spec.restart else {"Name": "no"},
    )
    made: dict[str, Any] = {
        "name": spec.name,
        "image": spec.image,
        "command": list(spec.command),
        "user": spec.user or None,
        "environment": dict(spec.environment),
        "ports": [_port(port) for port in spec.ports],
        "labels": {
            **spec.labels,
            NAMESPACE_LABEL: namespace,
            CONTAINER_LABEL: spec.name,
            SPEC_LABEL: fingerprint(spec),
            **({GATE_LABEL: spec.gate} if spec.gate else {}),
        },
        "host_config": host,
        "stop_timeout": spec.stop_seconds,
        "stop_signal": spec.stop_signal or None,
        "use_config_proxy": False,
    }
    if spec.network:
        endpoint = api.create_endpoint_config(aliases=list(spec.aliases))
        made["networking_config"] = {"EndpointsConfig": {spec.network: endpoint}}
    if spec.entrypoint is not None:
        made["entrypoint"] = list(spec.entrypoint)
    return made


def _port(port: str) -> tuple[str, str]:
    number, _, protocol = port.partition("/")
    return number, protocol or "tcp"


def archive(files: Sequence[File]) -> bytes:
    """A tar file to unpack at `/`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(file.content), file.mode, file.uid, file.gid
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def container(raw: dict[str, Any]) -> Container:
    """What `inspect` says, in our words."""
    state: dict[str, Any] = raw["State"]
    status = str(state["Status"])
    return Container(
        name=str(raw["Name"]).lstrip("/"),
        id=str(raw["Id"]),
        state=status,
        exit_code=int(state["ExitCode"]) if status in {"exited", "dead"} else None,
        created_at=_instant(str(raw.get("Created") or "")),
        started_at=_instant(str(state.get("StartedAt") or "")),
        image_id=str(raw.get("Image") or ""),
        restart_count=int(raw.get("RestartCount") or 0),
        out_of_memory=bool(state.get("OOMKilled")),
        labels=dict(raw["Config"].get("Labels") or {}),
        networks=tuple(sorted((raw.get("NetworkSettings") or {}).get("Networks") or {})),
    )


def _instant(text: str) -> datetime | None:
    """The engine writes nanoseconds, and the year 1 for never."""
    if not text or text.startswith("0001-"):
        return None
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{(fraction or '0')[:6]:0<6}+00:00")
