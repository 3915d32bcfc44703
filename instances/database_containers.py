"""The container in which PostgreSQL runs, and the one that reaches an external cluster."""

import base64
import hashlib
import hmac
from collections.abc import Mapping

import psycopg
from django.utils.crypto import salted_hmac
from psycopg.conninfo import conninfo_to_dict

from instances.runtimes.base import NAMESPACE_LABEL, ContainerSpec, DatabaseError, File, ServerSpec

MOUNT = "/var/lib/postgresql/data"
"""The volume's place, the one that the registry's image declares, so that no nameless volume is made."""
SERVICE_FILE = "/etc/ocore-pg-service.conf"
CONFIGURATION_LABEL = "io.ocore.configuration"
MEMORY_BYTES = 4 * 1024**3
"""A ceiling for backends, shared buffers and page cache together; the cache gives way by itself."""

SETTINGS = {
    "listen_addresses": "*",
    "max_connections": "200",
    "shared_buffers": "512MB",
    "effective_cache_size": "2GB",
    "maintenance_work_mem": "256MB",
    "work_mem": "16MB",
    "max_wal_size": "4GB",
    "random_page_cost": "1.1",
    "password_encryption": "scram-sha-256",
    "hba_file": "/etc/ocore-pg-hba.conf",
    "ident_file": "/etc/ocore-pg-ident.conf",
    "unix_socket_directories": f"{MOUNT}/run",
}

# The container's root is the only one who can reach the socket: it may be any role, without a password.
HBA = b"local all all peer map=ocore\nhost all postgres all reject\nhost all all all scram-sha-256\n"
IDENT = b"ocore root all\nocore postgres postgres\n"

# initdb works beside and moves into place with one rename: killed at any instant, the next start begins anew. Without
# the shell's translation of TERM (smart shutdown: waits for every session) into INT (fast), a stop would end in a kill.
START = """
set -eu
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
cd "$1"
shift
if [ "$(id -u)" = 0 ]; then
  chown postgres: .
  if command -v gosu > /dev/null; then exec gosu postgres sh -c "$OCORE_START" postgres "$PWD" "$@"; fi
  exec setpriv --reuid postgres --regid postgres --init-groups sh -c "$OCORE_START" postgres "$PWD" "$@"
fi
mkdir -p -m 711 run
if [ ! -d cluster ]; then
  rm -rf fresh
  initdb --username=postgres --encoding=UTF8 --locale=C.UTF-8 --data-checksums --auth=reject --no-instructions -D fresh
  sync
  mv fresh cluster
fi
rm -f reflink
if [ "$(cat cluster/PG_VERSION)" -ge 18 ] && cp --reflink=always cluster/PG_VERSION reflink 2> /dev/null; then
  set -- "$@" -c file_copy_method=clone
fi
postgres -D "$PWD/cluster" "$@" &
server=$!
trap 'kill -INT $server' TERM INT
code=0
wait $server || code=$?
if kill -0 $server 2> /dev/null; then
  code=0
  wait $server || code=$?
fi
exit $code
"""


def cluster(namespace: str, image: str, network: str) -> ContainerSpec:
    options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    return ContainerSpec(
        name=f"{namespace}-postgres",
        image=image,
        entrypoint=["sh", "-c", START, "postgres", MOUNT],
        command=options,
        user="0:0",
        environment={
            "OCORE_START": START,
            "PGHOST": f"{MOUNT}/run",
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "PGCLIENTENCODING": "UTF8",
        },
        files=[File("/etc/ocore-pg-hba.conf", HBA, 0o444), File("/etc/ocore-pg-ident.conf", IDENT, 0o444)],
        volumes={f"{namespace}-postgres": MOUNT},
        network=network,
        labels={NAMESPACE_LABEL: namespace},
        memory_bytes=MEMORY_BYTES,
        pids=1024,
        capabilities=["CHOWN", "SETUID", "SETGID"],
        restart=True,
        stop_seconds=60,
        shm_bytes=256 * 1024**2,
    )


def tools(namespace: str, image: str, network: str, connection: Mapping[str, str]) -> ContainerSpec:
    """A sleeping container whose libpq finds the external cluster, password included, in a service file."""
    service = "[ocore]\n" + "".join(f"{key}={value}\n" for key, value in connection.items())
    return ContainerSpec(
        name=f"{namespace}-pgtools",
        image=image,
        entrypoint=["sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait $!; done"],
        user="0:0",
        environment={
            "PGSERVICEFILE": SERVICE_FILE,
            "PGSERVICE": "ocore",
            "PGCONNECT_TIMEOUT": "10",
            "PGCLIENTENCODING": "UTF8",
        },
        files=[File(SERVICE_FILE, service.encode(), 0o400)],
        network=network,
        labels={NAMESPACE_LABEL: namespace, CONFIGURATION_LABEL: fingerprint(service)},
        memory_bytes=512 * 1024**2,
        pids=64,
        restart=True,
        stop_seconds=1,
    )


def connection(spec: ServerSpec) -> dict[str, str]:
    """What the DSN says, checked. Never shown: it holds a password."""
    advice = (
        "Write it as postgresql://role:password@host:port/postgres, with a host that the server's containers reach."
    )
    try:
        said = {key: str(value) for key, value in conninfo_to_dict(spec.postgres_dsn).items() if value is not None}
    except psycopg.ProgrammingError:
        raise DatabaseError(f"The PostgreSQL DSN of {spec.name} cannot be read.", advice=advice) from None
    host = said.get("host", "")
    if not host or host.startswith("/") or "," in host or host in {"localhost", "127.0.0.1", "::1"}:
        raise DatabaseError(f"The PostgreSQL DSN of {spec.name} names no host that containers reach.", advice=advice)
    if any(character in value for value in said.values() for character in "\r\n") or "service" in said:
        raise DatabaseError(f"The PostgreSQL DSN of {spec.name} cannot be written to a service file.", advice=advice)
    return said


def fingerprint(service: str) -> str:
    """Tells whether the connection changed; keyed, so that the label gives no password to guess at."""
    return salted_hmac("instances.database_containers", service, algorithm="sha256").hexdigest()[:32]


def scram_verifier(password: str, salt: bytes, iterations: int = 4096) -> str:
    """What PostgreSQL stores of a password (RFC 5803), made here so that the password itself reaches no server log."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored, served, salty = (
        base64.b64encode(value).decode() for value in (hashlib.sha256(client_key).digest(), server_key, salt)
    )
    return f"SCRAM-SHA-256${iterations}:{salty}${stored}:{served}"
