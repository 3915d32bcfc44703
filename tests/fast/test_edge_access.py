"""What the edge is told of certificates and of who comes in; what Caddy makes of it is tried in
tests/real/test_edge_addresses.py."""

import json
from dataclasses import replace
from typing import Any

import bcrypt
import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from instances.edge_access import front, look_key
from instances.edge_config import configuration
from instances.entries import entrance, entry_of
from instances.runtimes.base import Entrance, Entry, Name, Route, Upstream
from projects.models import Environment, Server
from tests import factories
from tests.fast.test_edge import handlers

SECURE = Entrance(https_port=443, acme_directory="https://acme.example/directory", acme_email="ops@acme.example")
NAMES = (Name("a.localhost"), Name("a.example.com", own_authority=False), Name("b.example.com", chain="C", key="K"))
ROUTE = Route("acme", tuple(name.host for name in NAMES), (Upstream("a"),), entry=Entry(names=NAMES))


def made(entry: Entry | None = None, entrance: Entrance = SECURE) -> dict[str, Any]:
    route = replace(ROUTE, entry=entry or ROUTE.entry)
    return configuration([route], pass_key="secret", hold_seconds=30, entrance=entrance)


def test_without_an_https_port_there_is_no_tls() -> None:
    data = made(entrance=Entrance())
    server = data["apps"]["http"]["servers"]["edge"]
    assert set(data["apps"]) == {"http"}
    assert (server["listen"], server["protocols"]) == ([":8080"], ["h1"])
    assert "tls_connection_policies" not in server


def test_each_name_gets_its_certificate_from_where_it_should() -> None:
    tls = made()["apps"]["tls"]
    assert tls["certificates"]["load_pem"] == [{"certificate": "C", "key": "K", "tags": ["b.example.com"]}]
    assert tls["certificates"]["automate"] == ["a.example.com", "a.localhost"]
    own, public = tls["automation"]["policies"]
    assert (own["subjects"], own["issuers"]) == (["a.localhost"], [{"module": "internal"}])
    assert public["issuers"] == [{"module": "acme", "ca": SECURE.acme_directory, "email": "ops@acme.example"}]


def test_roots_of_an_acme_server_are_named_by_their_content() -> None:
    def file(roots: str) -> str:
        issuer = made(entrance=replace(SECURE, acme_roots=roots))["apps"]["tls"]["automation"]["policies"][1]
        return str(issuer["issuers"][0]["trusted_roots_pem_files"][0])

    assert file("one") != file("two")
    assert file("one") == file("one")


def test_behind_trusted_proxies_odoo_hears_of_the_client_that_the_edge_has_found_out() -> None:
    data = made(entrance=Entrance(trusted_proxies=("10.0.0.0/8",)))
    proxies = list(handlers(data["apps"]["http"]["servers"]["edge"], "reverse_proxy"))
    assert len(proxies) == 4
    for proxy in proxies:
        assert proxy["headers"]["request"]["set"]["X-Forwarded-For"] == ["{http.vars.client_ip}"]
    assert [set(proxy["headers"]["request"]["set"]) for proxy in proxies[-2:]] == [
        {"X-Ocore-Door", "X-Forwarded-For", "X-Forwarded-Host"}
    ] * 2, "what the doors need stays"
    assert "client_ip" not in str(list(handlers(made(), "reverse_proxy")))


def test_proxies_are_believed_only_where_they_are_named_and_then_from_the_right() -> None:
    assert "trusted_proxies" not in made()["apps"]["http"]["servers"]["edge"]
    server = made(entrance=Entrance(trusted_proxies=("10.0.0.0/8",)))["apps"]["http"]["servers"]["edge"]
    assert server["trusted_proxies"] == {"source": "static", "ranges": ["10.0.0.0/8"]}
    assert server["trusted_proxies_strict"] == 1


def test_all_that_keeps_people_out_lets_ocores_own_look_pass() -> None:
    entry = replace(
        ROUTE.entry,
        names=(Name("a.localhost", leads_to="https://b.example.com"),),
        https_only=True,
        allowed=("192.0.2.0/24",),
        accounts=(("team", "hash"),),
    )
    first = front(replace(ROUTE, entry=entry), "secret", SECURE)[0]
    assert first["match"] == [{"not": [{"header": {"X-Ocore-Look": [look_key("secret")]}}]}]
    assert look_key("secret") != "secret"
    guards = first["handle"][0]["routes"]
    kinds = [(guard["handle"][0]["handler"], guard["handle"][0].get("status_code")) for guard in guards]
    assert kinds == [
        ("static_response", 308),
        ("static_response", 308),
        ("static_response", 403),
        ("authentication", None),
    ]


def test_the_look_of_others_never_reaches_odoo() -> None:
    deleted = [each["request"]["delete"] for each in handlers(made(), "headers") if "delete" in each.get("request", {})]
    assert ["X-Ocore-Look"] in deleted


def rules(environment: Environment) -> Entry:
    return entry_of(environment)


@pytest.mark.django_db
def test_only_production_is_shown_to_search_engines_unless_told_otherwise() -> None:
    production = factories.environment()
    staging = factories.environment(name="Staging", slug="staging", kind=Environment.Kind.STAGING)
    assert (rules(production).hidden, rules(staging).hidden) == (False, True)
    production.search_engines, staging.search_engines = "hide", "allow"
    assert (rules(production).hidden, rules(staging).hidden) == (True, False)


@pytest.mark.django_db
def test_access_is_inherited_and_taken_away_below() -> None:
    project = factories.project(allowed_addresses=["192.0.2.0/24"], basic_auth={"team": "s3cret"}, body_limit=1024**2)
    environment = factories.environment(project=project)
    inherited = rules(environment)
    assert (inherited.allowed, inherited.max_body) == (("192.0.2.0/24",), 1024**2)
    ((user, hashed),) = inherited.accounts
    assert user == "team"
    assert bcrypt.checkpw(b"s3cret", hashed.encode())
    environment.allowed_addresses, environment.basic_auth = [], {"team": None}
    assert (rules(environment).allowed, rules(environment).accounts) == ((), ())


@pytest.mark.django_db
def test_of_a_password_only_an_encrypted_hash_is_kept() -> None:
    project = factories.project(basic_auth={"team": "s3cret", "gone": None})
    kept = dict(project.basic_auth or {})
    assert kept["team"].startswith("$2b$")
    project.save()
    project.refresh_from_db()
    assert project.basic_auth == kept  # a hash is not hashed again
    with connection.cursor() as cursor:
        cursor.execute("SELECT basic_auth FROM projects_project")
        stored = cursor.fetchone()[0]
    assert "s3cret" not in stored
    assert "$2b$" not in stored


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed_addresses": ["192.0.2.1/24"]}, "neither an address nor a network"),
        ({"allowed_addresses": ["fe80::1%eth0"]}, "neither an address nor a network"),
        ({"allowed_addresses": ["localhost"]}, "neither an address nor a network"),
        ({"basic_auth": {"team": "x" * 73}}, "longer than 72 bytes"),
        ({"basic_auth": {"team": ""}}, "has no password"),
        ({"body_limit": 1}, "too little"),
        ({"hsts_seconds": 10**9}, "less than or equal"),
    ],
)
def test_rules_that_could_not_hold_are_refused(fields: dict[str, Any], message: str) -> None:
    project = factories.project()
    for name, value in fields.items():
        setattr(project, name, value)
    with pytest.raises(ValidationError, match=message):
        project.full_clean()


@pytest.mark.django_db
def test_a_server_tells_its_edge_how_clients_come(settings: Any, tmp_path: Any) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_text("PEM")
    settings.OCORE_ACME_ROOTS = str(roots)
    server = Server(https_port=443, acme_directory="", trusted_proxies=["10.0.0.0/8"])
    assert entrance(server) == Entrance(443, "", "", "PEM", ("10.0.0.0/8",))
    with pytest.raises(ValidationError, match="neither an address"):
        factories.server(trusted_proxies=["proxy.example"]).full_clean()


@pytest.mark.django_db
@pytest.mark.parametrize("wanted", [True, False])
def test_http_leads_to_https_only_where_there_is_https(wanted: bool) -> None:
    environment = factories.environment(https_only=wanted)
    assert rules(environment).https_only is False
    environment.server.https_port = 8443
    assert (rules(environment).https_only, rules(environment).https_at) == (wanted, ":8443")


def test_no_key_gets_into_the_simulated_servers_file() -> None:
    from instances.runtimes.simulated import _Edge

    assert "K" not in json.dumps(_Edge._plain([ROUTE])[0]["entry"]["names"][2]["key"])
