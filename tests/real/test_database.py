"""PostgreSQL on a server, against a real cluster in a container of its own."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import settings

from instances import database
from instances.database import PostgresCluster
from instances.runtimes.base import DatabaseError, Image, Log, RunFailed, ServerSpec
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers

pytestmark = pytest.mark.real

NAMESPACE = f"{settings.OCORE_NAMESPACE}-db"
SERVER = f"{NAMESPACE}-postgres"
ODOO_LIKE = """
CREATE EXTENSION pg_trgm; CREATE EXTENSION unaccent;
CREATE TABLE res_partner (id serial PRIMARY KEY, name varchar NOT NULL, parent int REFERENCES res_partner, data jsonb);
CREATE INDEX ON res_partner USING gin (name gin_trgm_ops);
CREATE VIEW partners AS SELECT id, name FROM res_partner;
CREATE MATERIALIZED VIEW names AS SELECT name FROM res_partner;
CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
CREATE TYPE colour AS ENUM ('red', 'green');
CREATE SEQUENCE invoice START 1000;
CREATE SCHEMA reporting; CREATE TABLE reporting.facts (day date);
SELECT lo_create(4711);
INSERT INTO res_partner (name) SELECT 'Pärtner ' || n FROM generate_series(1, 500) n; SELECT nextval('invoice');
"""


class PresentImages:
    """The image is on the machine: `make test` sees to it."""

    def ensure_base(self, reference: str, log: Log) -> Image:
        return Image(reference, id="")


@pytest.fixture(scope="module")
def containers() -> Iterator[DockerContainers]:
    engine = Engine(ServerSpec("this machine", namespace=NAMESPACE))
    made = DockerContainers(engine=engine, spec=ServerSpec("this machine", namespace=NAMESPACE))
    made.ensure_network(NAMESPACE)
    yield made
    for name in (SERVER, f"{NAMESPACE}-pgtools"):
        made.remove(name)
    made.remove_volume(SERVER)
    engine.api.remove_network(NAMESPACE)


@pytest.fixture(scope="module")
def cluster(containers: DockerContainers) -> PostgresCluster:
    made = PostgresCluster(
        ServerSpec("this machine", namespace=NAMESPACE), containers, PresentImages(), network=NAMESPACE
    )
    made.prepare(lambda _: None)
    return made


@pytest.fixture
def acme(cluster: PostgresCluster) -> Iterator[str]:
    cluster.create_role("acme", "fish")
    cluster.create("acme", owner="acme")
    yield "acme"
    for name in cluster.list():
        cluster.drop(name)
    for role in ("acme", "base", "other"):
        cluster.drop_role(role)


def superuser(containers: DockerContainers, sql: str, dbname: str = "postgres") -> str:
    done = containers.exec(SERVER, ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", dbname, "-c", sql])
    assert done.ok, done.output
    return done.output.strip()


def over_the_network(containers: DockerContainers, role: str, password: str, dbname: str, sql: str = "SELECT 1") -> str:
    argv = ["psql", "-X", "-A", "-t", "-h", SERVER, "-U", role, "-d", dbname, "-c", sql]
    return containers.exec(SERVER, argv, environment={"PGPASSWORD": password}).output.strip()


def count(cluster: PostgresCluster, name: str) -> str:
    return cluster.query(name, "SELECT count(*) FROM res_partner")[0][0]


def test_a_new_database_is_empty_utf8_and_its_owners(cluster, containers, acme):
    facts = "SELECT pg_encoding_to_char(encoding), datcollate, pg_get_userbyid(datdba) FROM pg_database"
    assert cluster.query(acme, f"{facts} WHERE datname = 'acme'") == [["UTF8", "C", "acme"]]
    assert cluster.query(acme, "SELECT upper('ä'), count(*) FROM pg_tables WHERE schemaname = 'public'") == [["Ä", "0"]]
    assert (
        superuser(containers, "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname='acme'")
        == "f"
    )


def test_a_role_reaches_its_own_database_with_its_password_and_no_other(cluster, containers, acme):
    cluster.create_role("other", "chips")
    cluster.create("other", owner="other")
    cluster.clone("other", "other_kept")

    assert over_the_network(containers, "other", "chips", "other") == "1"
    assert "password authentication failed" in over_the_network(containers, "other", "fish", "other")
    for closed in ("acme", "template1"):
        assert "permission denied for database" in over_the_network(containers, "other", "chips", closed)
    assert "permission denied for database" in over_the_network(containers, "acme", "fish", "other_kept")
    assert "pg_hba.conf rejects connection" in over_the_network(containers, "postgres", "", "postgres")


def test_a_role_asked_for_again_gets_the_new_password(cluster, containers, acme):
    cluster.create_role("acme", "new 'pass\\word\"")
    assert over_the_network(containers, "acme", "new 'pass\\word\"", "acme") == "1"


def test_verbs_asked_twice_do_it_once(cluster, acme):
    cluster.query(acme, ODOO_LIKE)
    cluster.create(acme, owner="acme")
    assert count(cluster, acme) == "500"
    cluster.clone(acme, "acme_kept")
    cluster.query(acme, "DELETE FROM res_partner")
    cluster.clone(acme, "acme_kept")
    assert count(cluster, "acme_kept") == "0"
    cluster.drop(acme)
    cluster.drop(acme)
    assert not cluster.exists(acme)
    cluster.rename("acme_kept", acme)
    cluster.rename("acme_kept", acme)
    assert cluster.list() == [acme]
    cluster.drop(acme)
    cluster.drop_role("acme")
    cluster.drop_role("acme")


@pytest.mark.parametrize("copied_as_files_from", [0, 2**40])
def test_a_clone_is_the_same_with_its_settings_and_grants(cluster, containers, acme, monkeypatch, copied_as_files_from):
    monkeypatch.setattr(database, "FILE_COPY_FROM_BYTES", copied_as_files_from)
    cluster.create_role("other", "chips")
    cluster.query(acme, ODOO_LIKE)
    superuser(containers, "ALTER DATABASE acme SET search_path = public, reporting")
    superuser(containers, "ALTER DATABASE acme SET application_name = 'it''s acme'")
    superuser(containers, "GRANT CONNECT ON DATABASE acme TO other")

    cluster.clone(acme, "acme_kept")

    everything = "SELECT md5(string_agg(p::text, '' ORDER BY id)), nextval('invoice') FROM res_partner p"
    assert cluster.query(acme, everything) == cluster.query("acme_kept", everything)
    assert cluster.query("acme_kept", "SELECT current_setting('search_path')") == [["public, reporting"]]
    assert over_the_network(containers, "other", "chips", "acme_kept") == "1"
    assert over_the_network(containers, "acme", "fish", "acme_kept", "SHOW application_name") == "psql"
    assert "it''s acme" in superuser(containers, "SELECT quote_literal(setconfig::text) FROM pg_db_role_setting")
    assert superuser(containers, "SELECT datacl FROM pg_database WHERE datname = 'acme_kept'").count("=") == 2


def test_whoever_is_connected_is_put_out_even_if_they_come_back_at_once(cluster, containers, acme):
    cluster.query(acme, ODOO_LIKE)
    loop = "while [ -e /tmp/knock ]; do psql -X -q -h $PGHOST -U acme -d acme -c 'SELECT pg_sleep(30)'; done"
    containers.exec(SERVER, ["touch", "/tmp/knock"])
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(containers.exec, SERVER, ["sh", "-c", loop], timeout=120)
        try:
            time.sleep(0.5)
            cluster.clone(acme, "acme_kept")
            cluster.rename(acme, "acme_old")
            cluster.drop("acme_old")
        finally:
            containers.exec(SERVER, ["rm", "/tmp/knock"])
    assert count(cluster, "acme_kept") == "500"


def test_a_clone_is_put_back_at_once_and_only_once(cluster, containers, acme):
    cluster.query(acme, "CREATE TABLE note (title text); INSERT INTO note VALUES ('before')")
    cluster.clone(acme, "acme__s1")
    cluster.query(acme, "INSERT INTO note VALUES ('after')")
    containers.exec(SERVER, ["sh", "-c", "(psql -U postgres -d acme -c 'SELECT pg_sleep(60)' &) ; sleep 0.3"])

    cluster.put_back("acme__s1", acme)
    assert cluster.query(acme, "SELECT title FROM note") == [["before"]]
    assert cluster.list().count("acme") == 1
    assert "acme__s1" not in cluster.list()
    assert cluster.query("acme__aside", "SELECT title FROM note") == [["before"], ["after"]], "until it is dropped"

    cluster.query(acme, "INSERT INTO note VALUES ('written since')")
    cluster.put_back("acme__s1", acme)
    assert cluster.query(acme, "SELECT title FROM note") == [["before"], ["written since"]]
    with pytest.raises(DatabaseError):
        cluster.put_back("acme__s1", "acme__gone")


def test_what_is_not_ours_stays_untouched(cluster, containers, acme):
    superuser(containers, "CREATE DATABASE theirs")
    try:
        for act in (
            lambda: cluster.drop("theirs"),
            lambda: cluster.rename("theirs", "mine"),
            lambda: cluster.rename(acme, "theirs"),
            lambda: cluster.clone(acme, "theirs"),
            lambda: cluster.clone("theirs", "mine"),
            lambda: cluster.create("theirs", owner="acme"),
            lambda: cluster.query("theirs", "CREATE TABLE traces ()"),
        ):
            with pytest.raises(DatabaseError):
                act()
        assert superuser(containers, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", "theirs") == "0"
        assert cluster.list() == [acme]
        superuser(containers, "COMMENT ON DATABASE theirs IS 'io.ocore.namespace=another'")
        with pytest.raises(DatabaseError, match="label"):
            cluster.drop("theirs")
    finally:
        superuser(containers, "DROP DATABASE theirs")


def test_a_role_that_is_not_ours_is_neither_taken_over_nor_dropped(cluster, containers, acme):
    superuser(containers, "CREATE ROLE theirs LOGIN")
    try:
        for act in (
            lambda: cluster.create_role("theirs", "mine now"),
            lambda: cluster.drop_role("theirs"),
            lambda: cluster.create("mine", owner="theirs"),
        ):
            with pytest.raises(DatabaseError):
                act()
    finally:
        superuser(containers, "DROP ROLE theirs")


def test_an_interrupted_copy_is_never_used_only_made_again_or_dropped(cluster, containers, acme):
    cluster.query(acme, ODOO_LIKE)
    half = "CREATE DATABASE acme_kept OWNER acme ALLOW_CONNECTIONS false"
    superuser(containers, half)
    with pytest.raises(DatabaseError, match="not complete"):
        cluster.rename("acme_kept", "acme_new")
    with pytest.raises(DatabaseError, match="not complete"):
        cluster.clone("acme_kept", "acme_new")
    cluster.clone(acme, "acme_kept")
    assert count(cluster, "acme_kept") == "500"

    cluster.drop("acme_kept")
    superuser(containers, half)
    assert "acme_kept" in cluster.list()
    cluster.drop("acme_kept")
    superuser(containers, half)
    cluster.create("acme_kept", owner="acme")
    assert cluster.query("acme_kept", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [["0"]]


def test_a_database_from_a_template_belongs_to_its_new_owner_and_the_template_to_its_old_one(cluster, containers, acme):
    cluster.create_role("base", "base")
    cluster.create("base", owner="base")
    cluster.create("base_two", owner="base")
    cluster.query("base", ODOO_LIKE)
    cluster.drop(acme)

    cluster.create(acme, "acme", template="base", template_owner="base")
    cluster.create(acme, "acme", template="base", template_owner="base")

    owners = "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname LIKE 'base%' OR datname = 'acme'"
    assert superuser(containers, f"{owners} ORDER BY 1").split() == ["acme|acme", "base|base", "base_two|base"]
    left = "SELECT count(*) FROM pg_shdepend WHERE refobjid = 'base'::regrole AND dbid = (SELECT oid FROM pg_database"
    assert superuser(containers, f"{left} WHERE datname = 'acme')") == "0"
    assert over_the_network(containers, "base", "base", "base") == "1"
    assert "permission denied" in over_the_network(containers, "base", "base", acme)
    work = """
        INSERT INTO res_partner (name) VALUES ('new'); REFRESH MATERIALIZED VIEW names;
        ALTER TABLE res_partner ADD x int;
        DROP VIEW partners; ALTER TYPE colour ADD VALUE 'blue'; DROP EXTENSION unaccent; DROP FUNCTION shout;
        CREATE TABLE more (); SELECT lo_unlink(4711); DROP SCHEMA reporting CASCADE; SELECT nextval('invoice')
    """
    assert over_the_network(containers, "acme", "fish", acme, work).splitlines()[-1] == "1001"
    cluster.drop(acme)
    cluster.drop_role("acme")


def test_several_databases_are_made_from_one_template_at_once(cluster, containers, acme):
    cluster.create_role("base", "base")
    cluster.create("base", owner="base")
    cluster.query("base", ODOO_LIKE)
    names = ["acme_0", "acme_1", "acme_2"]
    with ThreadPoolExecutor(4) as pool:
        touched = pool.submit(superuser, containers, "ALTER DATABASE base CONNECTION LIMIT 50; SELECT pg_sleep(4)")
        list(pool.map(lambda name: cluster.create(name, "acme", "base", "base"), names))
        touched.result()
    assert [count(cluster, name) for name in names] == ["500"] * 3
    assert superuser(containers, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'base'") == "base"
    assert "tuple concurrently updated" in containers.logs(SERVER, 1000)


def test_a_query_answers_rows_as_they_are(cluster, acme):
    assert cluster.query(acme, "SELECT 'a,\"b\"', E'two\\nlines', NULL, '\\echo :label'; SELECT ''") == [
        ['a,"b"', "two\nlines", "", "\\echo :label"],
        [""],
    ]
    assert cluster.query(acme, f"SELECT length('{'ö' * 100_000}')") == [["100000"]]
    assert cluster.query(acme, "DO $$ BEGIN RAISE WARNING 'noise'; END $$") == []
    with pytest.raises(DatabaseError) as refused:
        cluster.query(acme, "SELECT * FROM nowhere")
    assert refused.value.detail.startswith('ERROR:  relation "nowhere" does not exist')


def test_what_a_client_built_into_its_tables_gets_no_rights_from_our_queries(cluster, containers, acme):
    cluster.query(
        acme,
        "CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RESET SESSION AUTHORIZATION;"
        " EXECUTE 'ALTER ROLE acme SUPERUSER'; RETURN 'caught'; END $$;"
        "CREATE VIEW ir_module_module AS SELECT trap() AS name",
    )
    with pytest.raises(DatabaseError) as refused:
        cluster.query(acme, "SELECT name FROM ir_module_module")
    assert "permission denied" in refused.value.detail
    assert superuser(containers, "SELECT rolsuper FROM pg_roles WHERE rolname = 'acme'") == "f"


def test_a_dump_can_be_restored_and_its_checksum_is_the_files(cluster, containers, acme, tmp_path):
    cluster.query(acme, ODOO_LIKE)
    said: list[str] = []
    facts = cluster.dump(acme, tmp_path / "acme.dump", said.append)

    content = (tmp_path / "acme.dump").read_bytes()
    assert facts == database.DumpFacts(hashlib.sha256(content).hexdigest(), len(content))
    assert [path.name for path in tmp_path.iterdir()] == ["acme.dump"]
    assert said[-1].startswith("Dumped acme")
    restore = (
        "cat > /tmp/acme.dump; psql -qXc 'CREATE DATABASE restored'; pg_restore --no-owner -d restored /tmp/acme.dump"
    )
    output = bytearray()
    try:
        code = containers.exec_stream(
            SERVER, ["sh", "-c", restore], output.extend, output.extend, stdin=content, timeout=60
        )
        assert code == 0, output
        assert superuser(containers, "SELECT count(*) FROM res_partner", "restored") == "500"
    finally:
        superuser(containers, "DROP DATABASE IF EXISTS restored")


def test_a_failed_dump_leaves_nothing_behind(cluster, containers, acme, tmp_path):
    with pytest.raises(DatabaseError, match="dump") as refused:
        cluster.dump("nothing", tmp_path / "x.dump", lambda _: None)
    assert 'database "nothing" does not exist' in refused.value.detail

    cluster.query(acme, "CREATE TABLE noise AS SELECT md5(random()::text) FROM generate_series(1, 300000)")
    (tmp_path / "full.dump.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        cluster.dump(acme, tmp_path / "full.dump", lambda _: None)

    assert list(tmp_path.iterdir()) == []


def test_a_dump_that_is_given_up_does_not_go_on_in_the_container(cluster, containers, acme, tmp_path, monkeypatch):
    cluster.query(acme, ODOO_LIKE)
    monkeypatch.setattr(database, "SILENCE", 1)
    lock = "BEGIN; LOCK TABLE res_partner; SELECT pg_sleep(6)"
    with ThreadPoolExecutor(1) as pool:
        locking = pool.submit(superuser, containers, lock, acme)
        time.sleep(1)
        with pytest.raises(RunFailed, match="said nothing"):
            cluster.dump(acme, tmp_path / "acme.dump", lambda _: None)
        time.sleep(0.5)
        left = superuser(containers, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ocore-dump%'")
        assert not locking.done(), "the lock was gone before we looked"
    assert left == "0"
    assert list(tmp_path.iterdir()) == []


def test_it_stops_quickly_and_comes_back_with_its_data_even_after_a_kill(cluster, containers, acme):
    cluster.query(acme, ODOO_LIKE)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(containers.exec, SERVER, ["psql", "-c", "SELECT pg_sleep(60)"])
        time.sleep(0.3)
        started = time.monotonic()
        containers.stop(SERVER, 30)
        assert time.monotonic() - started < 5
    assert "database system is shut down" in containers.logs(SERVER)
    cluster.prepare(lambda _: None)
    assert count(cluster, acme) == "500"
    containers.engine.api.kill(SERVER)
    cluster.prepare(lambda _: None)
    assert count(cluster, acme) == "500"


@pytest.fixture
def external(containers: DockerContainers, cluster: PostgresCluster) -> Iterator[PostgresCluster]:
    """The same cluster as somebody else's, reached by a role that may create roles and databases and no more."""
    superuser(containers, "CREATE ROLE dba LOGIN CREATEDB CREATEROLE PASSWORD 'pass@word'")
    made = PostgresCluster(
        ServerSpec("theirs", namespace=NAMESPACE, postgres_dsn=f"postgresql://dba:pass%40word@{SERVER}/postgres"),
        containers,
        PresentImages(),
        network=NAMESPACE,
    )
    made.prepare(lambda _: None)
    yield made
    for name in made.list():
        made.drop(name)
    for role in ("acme", "base"):
        made.drop_role(role)
    superuser(containers, "DROP ROLE dba")


def test_an_external_cluster_does_all_of_it_without_a_superuser(external, containers, tmp_path: Path):
    external.create_role("base", "base")
    external.create_role("acme", "fish")
    external.create("base", owner="base")
    external.query("base", ODOO_LIKE)
    external.create("acme", "acme", "base", "base")
    external.query("acme", "INSERT INTO res_partner (name) VALUES ('new')")
    external.clone("acme", "acme_kept")
    external.drop("acme")
    external.rename("acme_kept", "acme")
    assert count(external, "acme") == "501"
    assert external.dump("acme", tmp_path / "x.dump", lambda _: None).size_bytes > 1000
    assert (external.host, external.port) == (SERVER, 5432)
    assert external.list() == ["acme", "base"]


def test_an_external_cluster_that_does_not_answer_is_said_without_its_password(containers):
    wrong = f"postgresql://dba:secret-word@{SERVER}/postgres"
    made = PostgresCluster(
        ServerSpec("theirs", namespace=NAMESPACE, postgres_dsn=wrong), containers, PresentImages(), network=NAMESPACE
    )
    with pytest.raises(DatabaseError, match="does not answer") as refused:
        made.prepare(lambda _: None)
    assert "password authentication failed" in refused.value.detail
    assert "secret-word" not in refused.value.detail + str(refused.value) + refused.value.advice


def test_no_password_is_in_the_containers_configuration_or_log(external, containers):
    external.create_role("acme", "fish-and-chips")
    with pytest.raises(DatabaseError):
        external.query("acme", "SELECT 1")
    for name in (SERVER, f"{NAMESPACE}-pgtools"):
        seen = json.dumps(containers.engine.api.inspect_container(name)) + containers.logs(name, 1000)
        assert "fish-and-chips" not in seen
        assert "pass@word" not in seen
    host = containers.engine.api.inspect_container(SERVER)["HostConfig"]
    assert set(host["CapAdd"]) == {"CHOWN", "SETUID", "SETGID"}
    assert host["ShmSize"] == 256 * 1024**2
