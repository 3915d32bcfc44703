"""The client's own host names, and certificates that are uploaded for them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from instances import doors
from instances.entries import entry_of, names
from instances.models import Instance
from projects.certificates import check, facts
from projects.domains import Domain, is_public, normalised
from projects.models import Environment, Server
from tests import factories
from tests.pems import Pair, authority, made

pytestmark = pytest.mark.django_db


@pytest.fixture
def production() -> Environment:
    return factories.environment()


def domain(environment: Environment, name: str, **fields: Any) -> Domain:
    made = Domain(environment=environment, name=name, **fields)
    made.full_clean()
    made.save()
    return made


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("Shop.Acme.example.", "shop.acme.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("intranet", "intranet"),
    ],
)
def test_a_host_name_is_kept_as_it_is_sent(typed: str, sent: str) -> None:
    assert normalised(typed) == sent


@pytest.mark.parametrize(
    "typed",
    ["*.acme.example", "-a.example", "a b.example", "http://a.example", "a.example:80", "192.0.2.1", ""],
)
def test_what_is_no_host_name_is_refused(typed: str) -> None:
    with pytest.raises(ValidationError):
        normalised(typed)


def test_only_names_that_are_public_are_asked_for_at_an_authority() -> None:
    assert is_public("shop.acme.com")
    assert not any(map(is_public, ("localhost", "a.localhost", "erp.lan", "erp.internal", "a.test", "intranet")))


def test_the_first_name_is_primary_and_another_takes_that_over(production: Environment) -> None:
    first, second = domain(production, "a.example"), domain(production, "b.example")
    assert (first.primary, second.primary) == (True, False)
    second.primary = True
    second.full_clean()
    second.save()
    first.refresh_from_db()
    assert (first.primary, second.primary) == (False, True)
    assert production.address == "b.example"


def test_two_primary_names_are_refused_by_the_database(production: Environment) -> None:
    domain(production, "a.example")
    second = domain(production, "b.example")
    with pytest.raises(IntegrityError), transaction.atomic():
        Domain.objects.filter(pk=second.pk).update(primary=True)


def test_a_name_leads_to_one_environment_per_server(production: Environment) -> None:
    domain(production, "a.example")
    staging = factories.environment(name="Staging", slug="staging")
    with pytest.raises(ValidationError, match="leads to Acme / Production on this server already"):
        domain(staging, "A.example")
    elsewhere = factories.environment(name="Far", slug="far", server=factories.server(slug="far", name="Far"))
    assert domain(elsewhere, "a.example").pk


def test_a_generated_name_is_nobodys_own_and_a_new_one_keeps_clear_of_those(production: Environment) -> None:
    with pytest.raises(ValidationError, match="a name that oCore has made"):
        domain(production, production.hostname)
    domain(production, "staging-acme.localhost")
    assert factories.environment(name="Staging", slug="staging").hostname == "staging-acme-2.localhost"


def test_a_servers_new_domain_takes_nobodys_name(production: Environment) -> None:
    domain(production, "production-acme.example.com")
    production.server.base_domain = "example.com"
    with pytest.raises(ValidationError, match="would be a generated name"):
        production.server.full_clean()


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "http://a.example:8080"),
        ({"edge_port": 80}, "http://a.example"),
        ({"https_port": 443}, "https://a.example"),
        ({"https_port": 8443}, "https://a.example:8443"),
        ({"behind_tls_proxy": True}, "https://a.example"),
    ],
)
def test_links_lead_to_the_primary_name(fields: dict[str, Any], url: str) -> None:
    environment = factories.environment(server=factories.server(**fields))
    assert environment.url == url.replace("a.example", "production-acme.localhost")
    domain(environment, "a.example")
    assert Environment.objects.get().url == url


def test_http_and_https_need_a_port_each() -> None:
    server = Server(name="S", slug="s", edge_port=443, https_port=443)
    with pytest.raises(ValidationError, match="a port each"):
        server.full_clean()


def test_further_names_lead_to_the_primary_one_and_the_generated_one_if_wanted(production: Environment) -> None:
    domain(production, "a.example")
    domain(production, "b.example")
    assert [(name.host, name.leads_to) for name in names(production)] == [
        ("production-acme.localhost", ""),
        ("a.example", ""),
        ("b.example", "http://a.example:8080"),
    ]
    production.redirect_generated_name = True
    assert names(production)[0].leads_to == "http://a.example:8080"


def test_without_a_primary_name_all_are_served(production: Environment) -> None:
    domain(production, "a.example")
    domain(production, "b.example")
    Domain.objects.get(name="a.example").delete()
    assert {name.leads_to for name in names(Environment.objects.get())} == {""}
    assert Environment.objects.get().url == "http://production-acme.localhost:8080"


def test_the_route_of_an_environment_has_all_its_names(production: Environment) -> None:
    Instance.objects.update(state=Instance.State.RUNNING)
    domain(production, "a.example")
    (route,) = doors.routes(production.server)
    assert route.hosts == ("production-acme.localhost", "a.example")
    assert route.entry == entry_of(production)


@pytest.mark.parametrize(
    ("name", "source", "directory", "own"),
    [
        ("shop.acme.com", "auto", "https://acme.example/directory", False),
        ("shop.acme.com", "own", "https://acme.example/directory", True),
        ("shop.acme.com", "auto", "", True),
        ("shop.lan", "auto", "https://acme.example/directory", True),
    ],
)
def test_a_certificate_comes_by_acme_where_that_can_be(name: str, source: str, directory: str, own: bool) -> None:
    environment = factories.environment(server=factories.server(https_port=443, acme_directory=directory))
    domain(environment, name, source=source)
    assert names(environment)[1].own_authority is own


@pytest.fixture(scope="module")
def root() -> Pair:
    return authority()


def test_an_uploaded_certificate_reaches_the_edge_and_its_key_is_ciphertext_at_rest(
    production: Environment, root: Pair
) -> None:
    pair = made("Shop", ["shop.example"], root)
    domain(production, "shop.example", source="uploaded", chain=pair.pem + root.pem, private_key=pair.key_pem)
    name = names(Environment.objects.get())[1]
    assert (name.chain.count("BEGIN CERTIFICATE"), name.key) == (2, pair.key_pem.strip())
    assert pair.key_pem.splitlines()[1] not in repr(name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT private_key FROM projects_domain")
        assert "BEGIN" not in cursor.fetchone()[0]


def refusals(chain: str, key: str, host: str = "shop.example") -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as refused:
        check(chain, key, host)
    assert not any(line in str(refused.value) for line in key.splitlines() if len(line) > 20)
    return dict(refused.value.message_dict)


def test_a_certificate_that_would_not_serve_is_refused_with_the_reason(root: Pair) -> None:
    good, other = made("a", ["shop.example"], root), made("b", ["b.example"], root)
    old = made("old", ["shop.example"], root, began=datetime(2020, 1, 1, tzinfo=UTC))
    early = made("early", ["shop.example"], root, began=datetime(2090, 1, 1, tzinfo=UTC))
    check(good.pem + root.pem, good.key_pem, "shop.example")
    assert "for b.example, not for shop.example" in refusals(other.pem, other.key_pem)["chain"][0]
    assert "ended on 2020" in refusals(old.pem, old.key_pem)["chain"][0]
    assert "from 2090-01-01 on only" in refusals(early.pem, early.key_pem)["chain"][0]
    assert "does not belong" in refusals(good.pem, other.key_pem)["private_key"][0]
    assert "not in order" in refusals(good.pem + other.pem, good.key_pem)["chain"][0]
    assert "not a certificate in PEM" in refusals("hello", good.key_pem)["chain"][0]
    assert "not a private key in PEM" in refusals(good.pem, "-----BEGIN\nx\n")["private_key"][0]
    assert "needs its chain and its key" in str(_incomplete(good))


def _incomplete(pair: Pair) -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        Domain(name="shop.example", source="uploaded", chain=pair.pem).clean()
    return refused.value


def test_a_wildcard_covers_one_label(root: Pair) -> None:
    said = facts(made("w", ["*.acme.example"], root).certificate)
    assert said.covers("shop.acme.example")
    assert not said.covers("acme.example")
    assert not said.covers("a.shop.acme.example")
