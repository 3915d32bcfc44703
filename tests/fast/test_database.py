"""How PostgreSQL is spoken to: names, secrets and answers, with a container that only listens."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from instances.database import PostgresCluster
from instances.database_containers import cluster, scram_verifier, tools
from instances.filestore import FilestoreError, VolumeFilestores
from instances.runtimes.base import ContainerSpec, DatabaseError, Exit, Log, ServerSpec

SERVER = ServerSpec("paris", namespace="ocore-x")


class Listener:
    """A container whose every exec answers the same, and that remembers what was asked."""

    def __init__(self, answer: Exit = Exit(0, "done\n")) -> None:  # noqa: B008 - frozen
        self.answer = answer
        self.asked: list[tuple[str, list[str], dict[str, str]]] = []
        self.specs: list[ContainerSpec] = []

    def exec(
        self, name: str, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Exit:
        self.asked.append((name, list(argv), dict(environment or {})))
        return self.answer

    def run(self, spec: ContainerSpec, log: Log, *, timeout: float, silence: float) -> Exit:
        self.specs.append(spec)
        return self.answer


def speaking_to(listener: Listener, dsn: str = "") -> PostgresCluster:
    return PostgresCluster(ServerSpec("paris", namespace="ocore-x", postgres_dsn=dsn), listener, None, "ocore-x")


NOT_OURS = ["", "postgres", "template0", "template1", "pg_toast", "Acme", "1acme", "a-b"]
NOT_OURS += ['a"; DROP', "a b", "a\n", "ä", "x" * 64]


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_name_that_would_need_quoting_or_is_postgresqls_own_never_leaves_the_portal(name):
    listener = Listener()
    databases = speaking_to(listener)
    verbs: list[Callable[[], object]] = [
        lambda: databases.drop(name),
        lambda: databases.clone("acme", name),
        lambda: databases.clone(name, "acme"),
        lambda: databases.rename("acme", name),
        lambda: databases.rename(name, "acme"),
        lambda: databases.create(name, "acme"),
        lambda: databases.create("acme", name),
        lambda: databases.create("acme", "acme", template="base", template_owner=name or "-"),
        lambda: databases.create_role(name, "fish"),
        lambda: databases.drop_role(name),
        lambda: databases.query(name, "SELECT 1"),
        lambda: databases.size(name),
    ]
    for verb in verbs:
        with pytest.raises(DatabaseError, match="not a name"):
            verb()
    assert listener.asked == []


def test_a_name_may_be_63_characters_long():
    listener = Listener()
    speaking_to(listener).drop("a" * 63)
    assert f"--set=target={'a' * 63}" in listener.asked[0][1]


def test_each_verb_is_one_call():
    listener = Listener()
    databases = speaking_to(listener)
    databases.create("acme", "acme")
    databases.create("acme", "acme", "base", "base")
    databases.clone("acme", "acme_kept")
    databases.drop("acme")
    databases.rename("acme_kept", "acme")
    assert len(listener.asked) == 5


def test_neither_sql_nor_a_password_is_in_a_command_line():
    listener = Listener()
    databases = speaking_to(listener)
    databases.create_role("acme", "fish-and-chips")
    databases.query("acme", "SELECT 'secret-sql'")
    for _name, argv, _environment in listener.asked:
        assert "secret-sql" not in " ".join(argv)
        assert "fish-and-chips" not in " ".join(argv)
    environments = [environment for _name, _argv, environment in listener.asked]
    assert not any("fish-and-chips" in value for value in environments[0].values())
    assert environments[1]["OCORE_SQL_0"] == "SELECT 'secret-sql'"


def test_the_script_of_a_query_does_not_contain_the_query():
    listener = Listener()
    databases = speaking_to(listener)
    for sql in ("SELECT 1", "\\! rm -rf /"):
        databases.query("acme", sql)
    assert listener.asked[0][2]["OCORE_SCRIPT"] == listener.asked[1][2]["OCORE_SCRIPT"]


def test_a_long_query_comes_in_pieces_that_linux_takes():
    listener = Listener()
    sql = "ö" * 200_000
    speaking_to(listener).query("acme", sql)
    environment = listener.asked[0][2]
    pieces = [environment[f"OCORE_SQL_{number}"] for number in range(7)]
    assert "".join(pieces) == sql
    assert max(len(piece.encode()) for piece in pieces) < 128 * 1024


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("foreign\n", "label"),
        ("half\n", "not complete"),
        ("missing\n", "no such database"),
        ("taken\n", "name is taken"),
        ("busy\n", "new sessions"),
        ("refused\nno space left on device\n", "refused"),
    ],
)
def test_a_refusal_says_what_where_why_and_what_to_do(verdict, said):
    databases = speaking_to(Listener(Exit(0, verdict)))
    with pytest.raises(DatabaseError) as refused:
        databases.clone("acme", "acme_kept")
    assert said in str(refused.value)
    assert "paris" in str(refused.value)
    assert "acme_kept" in str(refused.value)
    assert refused.value.detail == verdict.partition("\n")[2].strip()
    assert refused.value.advice


def test_what_psql_says_when_it_fails_is_the_detail():
    databases = speaking_to(Listener(Exit(3, "done\n\nERROR:  relation does not exist\n")))
    with pytest.raises(DatabaseError) as refused:
        databases.query("acme", "SELECT 1")
    assert refused.value.detail == "ERROR:  relation does not exist"


def test_rows_are_read_as_psql_quotes_them():
    listener = Listener(Exit(0, 'done\na,"x,""y""",\n\n"two\nlines",b,c\n'))
    assert speaking_to(listener).query("acme", "SELECT 1") == [["a", 'x,"y"', ""], [""], ["two\nlines", "b", "c"]]


def test_a_password_is_stored_as_postgresql_would_store_it():
    """The example of RFC 7677: user `user`, password `pencil`, checked with its proof."""
    import base64
    import hashlib
    import hmac

    verifier = scram_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    said = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    stored, served = (base64.b64decode(part) for part in verifier.split("$")[2].split(":"))
    signature = hmac.digest(stored, said, "sha256")
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored
    assert base64.b64encode(hmac.digest(served, said, "sha256")) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert verifier.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")


@pytest.mark.parametrize("password", ["", "pässword", "two\nlines"])
def test_a_password_that_programs_would_read_differently_is_refused(password):
    with pytest.raises(DatabaseError, match="ASCII"):
        speaking_to(Listener()).create_role("acme", password)


def test_an_external_cluster_is_known_by_its_dsn():
    databases = speaking_to(Listener(), "postgresql://dba:p%40ss@db.example.org:6432/postgres?sslmode=require")
    assert (databases.host, databases.port) == ("db.example.org", 6432)
    ours = speaking_to(Listener())
    assert (ours.host, ours.port) == ("ocore-x-postgres", 5432)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://dba:hidden@localhost/postgres",
        "postgresql://dba:hidden@/postgres?host=/var/run/postgresql",
        "postgresql://dba:hidden@one,two/postgres",
        "host=db password='hid\nden'",
        "postgresql://dba:hidden@db/postgres?nonsense=1",
        "not a dsn hidden",
    ],
)
def test_a_dsn_that_cannot_work_is_refused_without_showing_it(dsn):
    with pytest.raises(DatabaseError) as refused:
        speaking_to(Listener(), dsn)
    shown = str(refused.value) + refused.value.detail + refused.value.advice
    assert "paris" in shown
    assert "hid" not in shown


def test_the_external_password_is_in_a_file_that_only_root_reads_and_nowhere_else():
    spec = tools("ocore-x", "postgres:17", "ocore-x", {"host": "db", "password": "fish-and-chips"})
    [file] = spec.files
    assert (file.mode, b"password=fish-and-chips\n" in file.content) == (0o400, True)
    elsewhere = [*spec.command, *(spec.entrypoint or ()), *spec.environment.values(), *spec.labels.values()]
    assert "fish-and-chips" not in " ".join(elsewhere)
    other = tools("ocore-x", "postgres:17", "ocore-x", {"host": "db", "password": "other"})
    assert spec.labels != other.labels


def test_our_cluster_lets_nobody_in_without_a_password_but_its_containers_root():
    spec = cluster("ocore-x", "postgres:17", "ocore-x")
    rules = {file.path: file.content.decode().splitlines() for file in spec.files}
    hba = rules[spec.command[spec.command.index("hba_file=/etc/ocore-pg-hba.conf")].partition("=")[2]]
    assert hba == ["local all all peer map=ocore", "host all postgres all reject", "host all all all scram-sha-256"]
    assert spec.ports == {}


def test_names_reach_a_filestores_script_only_as_arguments():
    listener = Listener(Exit(0, f"facts 0 0 {'0' * 64}\n"))
    filestores = VolumeFilestores(SERVER, listener)
    filestores.snapshot("vol", "acme", "s1")
    filestores.snapshot("vol", "other", "s2")
    first, second = (list(spec.entrypoint or ()) for spec in listener.specs)
    assert first[:3] == second[:3]
    assert first[4:] == ["/var/lib/odoo", "acme", "s1"]
    assert {(spec.network, tuple(spec.volumes)) for spec in listener.specs} == {("", ("vol",))}
    with pytest.raises(FilestoreError):
        filestores.discard("vol", "../acme")
