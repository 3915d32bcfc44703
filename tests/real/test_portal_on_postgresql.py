"""The portal's own rows on PostgreSQL: others write in between there, rows are locked, and whoever locks them in
another order meets a deadlock. So the fast tests that are about that are run on it too, in a process of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.conf import settings

from instances.database_containers import MOUNT
from instances.runtimes.base import NAMESPACE_LABEL, ContainerSpec, ServerSpec
from instances.runtimes.docker import DockerRuntime

pytestmark = pytest.mark.real

NAME = f"{settings.OCORE_NAMESPACE}-portal-postgres"
PASSWORD = "for-the-tests"
READY_SECONDS = 60.0
TELLING = (
    *("schedule", "claims", "push_order", "holders", "endings", "pipeline", "webhook", "keeper", "guards"),
    *("lock", "api", "api_tokens", "api_schema"),
)
# Nothing that it holds is to outlive the test.
START = """
set -eu
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
echo "$PASSWORD" > /tmp/password
initdb --username=ocore --pwfile=/tmp/password --locale=C.UTF-8 --auth=scram-sha-256 --no-sync -D /tmp/cluster
echo "host all all all scram-sha-256" >> /tmp/cluster/pg_hba.conf
exec postgres -D /tmp/cluster -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off
"""


@pytest.fixture(scope="module")
def postgresql(_clean_machine: None) -> Iterator[str]:
    """Its address, as `DATABASE_URL` has it but for the database."""
    runtime = DockerRuntime(ServerSpec("this machine", namespace=settings.OCORE_NAMESPACE))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spec = ContainerSpec(
        name=NAME,
        image=runtime.images.ensure_base(settings.OCORE_POSTGRES_IMAGE, print).reference,
        entrypoint=["sh", "-c", START],
        user="postgres",
        environment={"PASSWORD": PASSWORD},
        volumes={NAME: MOUNT},
        network=NAME,
        ports={"5432/tcp": ("127.0.0.1", port)},
        labels={NAMESPACE_LABEL: settings.OCORE_NAMESPACE},
        memory_bytes=1024**3,
        shm_bytes=256 * 1024**2,
    )
    runtime.containers.ensure_network(NAME)
    try:
        runtime.containers.create(spec)
        runtime.containers.start(NAME)
        address = f"postgres://ocore:{PASSWORD}@127.0.0.1:{port}"
        _wait_until_ready(address, lambda: runtime.containers.logs(NAME, 50))
        yield address
    finally:
        runtime.containers.remove(NAME)
        runtime.containers.remove_volume(NAME)
        runtime.containers.engine.api.remove_network(NAME)


def _wait_until_ready(address: str, log: Callable[[], str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            psycopg.connect(f"{address}/postgres").close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                pytest.fail(f"{error}\n{log()}")
            time.sleep(0.1)
        else:
            return


@pytest.mark.timeout(600)
def test_what_depends_on_the_database_holds_on_postgresql(postgresql: str) -> None:
    files = [f"tests/fast/test_{name}.py" for name in TELLING]
    ours = ("PYTEST_", "OCORE_STATE_DIR")  # the run inside has a state folder, and workers, of its own
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", "--reuse-db", *files],
        env=environment | {"OCORE_TEST_DATABASE_URL": f"{postgresql}/portal"},
        cwd=settings.BASE_DIR,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout
    with psycopg.connect(f"{postgresql}/postgres") as connection:
        made = connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'test\\_portal%'").fetchone()
    assert made != (0,), "they ran on another database"
