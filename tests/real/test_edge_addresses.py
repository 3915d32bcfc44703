"""Names, certificates and access rules of the edge, against real Caddy; ACME against a second one that is the
authority."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
from django.conf import settings

from instances.edge import CaddyEdge
from instances.handshakes import look
from instances.runtimes.base import (
    Colour,
    ContainerSpec,
    EdgeError,
    Entrance,
    Entry,
    File,
    Name,
    Route,
    ServerSpec,
    Upstream,
)
from instances.runtimes.docker.client import Engine
from instances.runtimes.docker.containers import DockerContainers
from instances.runtimes.docker.images import DockerImages
from projects.certificates import Facts
from tests.pems import authority, made
from tests.real.test_edge import HOST, Place, free_port, quiet

pytestmark = pytest.mark.real

UPSTREAM = Upstream("acme-staging-1", max_requests=8)
SHOP, OLD = "shop.acme.test", "old.acme.test"
PUBLIC = "shop.example.com"
ELSEWHERE = ("203.0.113.0/24",)


class SecurePlace(Place):
    """The same edge with an HTTPS port."""

    folder: Path
    https: int

    @property
    def trust(self) -> str:
        return str(self.folder / "roots.pem")

    def show(self, route: Route, entrance: Entrance | None = None) -> None:
        """The route is served behind an open door."""
        self.edge.spec = replace(self.edge.spec, entrance=entrance or Entrance(https_port=self.https))
        self.edge.apply([route], quiet)
        self.edge.open(route.upstreams, Colour.BLUE)
        assert self.wait_for_200()

    def ask(self, url: str, *, verify: Any = False, **more: Any) -> requests.Response:
        """Any of our names leads to this machine."""
        host = url.split("/")[2].partition(":")[0]
        with requests.Session() as session, resolved_here(host):
            session.trust_env = False
            method = more.pop("method", "GET")
            return session.request(method, url, verify=verify, timeout=60, allow_redirects=False, **more)

    def secure(self, path: str = "/", *, host: str = SHOP, **more: Any) -> requests.Response:
        return self.ask(f"https://{host}:{self.https}{path}", **more)

    def plain(self, path: str = "/", *, host: str = SHOP, **more: Any) -> requests.Response:
        return self.ask(f"http://{host}:{self.edge.spec.edge_port}{path}", **more)

    def shown(self, host: str, seconds: float = 30) -> Facts:
        """The certificate, once there is one."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return look("127.0.0.1", self.https, host)
            except EdgeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


class resolved_here:
    """Names are not looked up."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __enter__(self) -> None:
        from urllib3.util import connection

        self.module, self.usual = connection, connection.create_connection

        def here(address: tuple[str, int], *args: Any, **more: Any) -> Any:
            return self.usual(("127.0.0.1", address[1]), *args, **more)

        connection.create_connection = here

    def __exit__(self, *_: object) -> None:
        self.module.create_connection = self.usual


ENTRY = Entry(names=(Name(HOST), Name(SHOP)))
ROUTE = Route("acme-staging", (HOST, SHOP, OLD), (UPSTREAM,), title="Acme", entry=ENTRY)


def route(**entry: Any) -> Route:
    return replace(ROUTE, entry=replace(ENTRY, **entry))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecurePlace]:
    spec = ServerSpec(
        "addresses-test",
        namespace=f"{settings.OCORE_NAMESPACE}-addrtest",
        edge_bind="127.0.0.1",
        edge_port=free_port(),
        entrance=Entrance(https_port=free_port()),
    )
    engine = Engine(spec)
    containers = DockerContainers(spec, engine)
    edge = CaddyEdge(spec, containers, DockerImages(spec, engine))

    def remove_all() -> None:
        for container in containers.list({}):
            containers.remove(container.name)
        for volume in (edge.name, f"{spec.namespace}-journal"):
            containers.remove_volume(volume)
        if containers.find_network(edge.name):
            engine.api.remove_network(edge.name)

    remove_all()
    containers.ensure_network(edge.name)
    edge.prepare(quiet)
    made = SecurePlace(edge, containers, f"http://127.0.0.1:{spec.edge_port}")
    made.folder = tmp_path_factory.mktemp("addresses")
    made.https = spec.entrance.https_port
    name = made.stand_in("odoo")
    containers.join_edge(name, UPSTREAM.name(Colour.BLUE))
    yield made
    remove_all()


def headers_seen(answer: requests.Response) -> dict[str, str]:
    """Those that reached Odoo."""
    return {name.lower(): value for name, value in answer.json()["headers"].items()}


def test_without_an_https_port_all_is_as_it_was(place: SecurePlace) -> None:
    place.show(route(), Entrance())
    assert place.plain("/x").status_code == 200
    with pytest.raises(EdgeError):
        look("127.0.0.1", place.https, SHOP)


@pytest.fixture(autouse=True)
def _own_entrance(place: SecurePlace, settings: Any) -> Iterator[None]:
    settings.OCORE_HOLD_SECONDS = 15
    kept = place.edge.spec
    yield
    place.edge.spec = kept


def test_the_edges_own_authority_gives_certificates_and_a_restart_comes_back_with_them(place: SecurePlace) -> None:
    place.show(route())
    before = place.shown(SHOP)
    assert (before.names, "oCore edge" in before.issuer) == ((SHOP,), True)
    root = place.containers.exec(place.edge.name, ["cat", "/data/data/caddy/pki/authorities/local/root.crt"]).output
    Path(place.trust).write_text(root)
    assert place.secure(verify=place.trust).status_code == 200
    for end in (lambda api: api.kill(place.edge.name, "KILL"), lambda api: api.restart(place.edge.name, timeout=5)):
        end(place.containers.engine.api)
        place.edge.prepare(quiet)
        assert place.edge.apply([route()], quiet) is False
        assert place.shown(SHOP).fingerprint == before.fingerprint
        assert place.secure(verify=place.trust).status_code == 200


def test_a_name_that_is_nobodys_gets_no_certificate(place: SecurePlace) -> None:
    place.show(route())
    place.shown(SHOP)
    with pytest.raises(EdgeError, match="no certificate for elsewhere"):
        look("127.0.0.1", place.https, "elsewhere.acme.test")


def test_an_uploaded_certificate_is_shown_and_replaced(place: SecurePlace) -> None:
    root = authority()
    Path(place.trust).write_text(root.pem)
    fingerprints = set()
    for name in ("First", "Second"):
        pair = made(name, [SHOP], root)
        place.show(route(names=(Name(HOST), Name(SHOP, chain=pair.pem + root.pem, key=pair.key_pem))))
        seen = place.shown(SHOP)
        fingerprints.add(seen.fingerprint)
        assert (seen.subject, seen.issuer) == (name, "Test authority")
        assert place.secure(verify=place.trust).status_code == 200
        assert pair.key_pem.splitlines()[1] not in place.containers.logs(place.edge.name, 1000)
    assert len(fingerprints) == 2


def test_a_configuration_larger_than_a_variable_may_be_is_taken(place: SecurePlace) -> None:
    root = authority()
    names = [Name(f"n{number}.acme.test") for number in range(300)]
    names = [
        replace(name, chain=pair.pem, key=pair.key_pem)
        for name in names
        for pair in [made(name.host, [name.host], root)]
    ]
    place.show(replace(route(names=(Name(HOST), *names)), hosts=(HOST, *(name.host for name in names))))
    assert place.shown("n299.acme.test").subject == "n299.acme.test"


def test_odoo_hears_that_it_is_https(place: SecurePlace) -> None:
    place.show(route())
    seen = headers_seen(place.secure(headers={"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"}))
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("https", f"{SHOP}:{place.https}")


def test_http_leads_to_https_and_says_so_for_longer(place: SecurePlace) -> None:
    place.show(route(https_only=True, https_at=f":{place.https}", hsts_seconds=600))
    for method in ("GET", "POST"):
        answer = place.plain("/a%20b/?x=1&y=%2F", method=method)
        assert answer.status_code == 308
        assert answer.headers["Location"] == f"https://{SHOP}:{place.https}/a%20b/?x=1&y=%2F"
        assert "Strict-Transport-Security" not in answer.headers
    assert place.secure().headers["Strict-Transport-Security"] == "max-age=600"
    assert place.edge.fetch(HOST, "/web/health").ok  # oCore's own look stays on http


def test_further_names_lead_to_the_primary_one(place: SecurePlace) -> None:
    there = f"https://{SHOP}:{place.https}"
    names = (Name(HOST, there), Name(SHOP), Name(OLD, there))
    place.show(route(names=names, https_only=True, https_at=f":{place.https}"))
    for host in (OLD, HOST):
        for ask in (place.plain, place.secure):
            place.shown(host)
            answer = ask("/web?a=1&b=%20#", host=host, method="POST", data=b"x")
            assert (answer.status_code, answer.headers["Location"]) == (308, f"{there}/web?a=1&b=%20")
    assert place.secure("/web").status_code == 200
    assert place.edge.fetch(HOST, "/web/health").ok
    assert place.edge.fetch(HOST, "/web/health", past_the_door=Colour.BLUE).ok


def address_seen(place: SecurePlace) -> str:
    """This machine's, as the edge sees it."""
    place.show(route())
    return headers_seen(place.plain())["x-forwarded-for"]


def test_only_addresses_that_are_allowed_come_in_whatever_they_claim(place: SecurePlace) -> None:
    own = address_seen(place)
    place.show(route(allowed=ELSEWHERE))
    refused = place.plain()
    assert (refused.status_code, refused.text) == (403, f"Access from {own} is not allowed here.\n")
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP", "True-Client-IP", "X-Client-IP"):
        value = "for=203.0.113.5" if header == "Forwarded" else "203.0.113.5"
        assert place.plain(headers={header: value}).status_code == 403
        assert place.secure(headers={header: value}).status_code == 403
    assert place.plain(headers={"X-Ocore-Look": "guessed", "X-Ocore-Pass": "guessed"}).status_code == 403
    assert place.edge.fetch(HOST, "/web/health").ok
    place.show(route(allowed=(*ELSEWHERE, own)))
    assert headers_seen(place.plain(headers={"X-Forwarded-For": "6.6.6.6"}))["x-forwarded-for"] == own


def test_behind_a_trusted_proxy_the_last_address_that_it_saw_counts(place: SecurePlace) -> None:
    own = address_seen(place)
    entrance = replace(place.edge.spec.entrance, trusted_proxies=(own, "198.51.100.0/24"))
    place.show(route(allowed=ELSEWHERE, https_only=True, https_at=f":{place.https}", hsts_seconds=60), entrance)

    def ask(chain: str, scheme: str = "https") -> requests.Response:
        return place.plain(headers={"X-Forwarded-For": chain, "X-Forwarded-Proto": scheme})

    # What the client had written itself stands on the left; the proxies append on the right.
    assert ask("203.0.113.5, 192.0.2.9").status_code == 403
    let_in = ask("192.0.2.9, 203.0.113.5, 198.51.100.7")
    assert let_in.status_code == 200
    seen = headers_seen(let_in)
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("203.0.113.5", "https")
    assert let_in.headers["Strict-Transport-Security"] == "max-age=60"
    assert ask("203.0.113.5", "http").status_code == 308


def test_a_prompt_lets_in_who_knows_the_password_and_tells_odoo_nothing_of_it(place: SecurePlace) -> None:
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    place.show(route(accounts=(("team", hashed),)))
    refused = place.plain("/web", headers={"Accept": "text/html"})
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="Restricted"')
    assert place.plain(auth=("team", "guessed")).status_code == 401
    assert place.plain(auth=("other", "s3cret")).status_code == 401
    let_in = place.plain(auth=("team", "s3cret"))
    assert let_in.status_code == 200
    assert "authorization" not in headers_seen(let_in)
    assert place.edge.fetch(HOST, "/web/health").ok
    place.edge.close(ROUTE.upstreams)
    assert place.edge.fetch(HOST, "/web/health", past_the_door=Colour.BLUE).ok
    place.edge.open(ROUTE.upstreams, Colour.BLUE)


def test_ocores_own_look_is_not_seen_by_odoo(place: SecurePlace) -> None:
    place.show(route())
    answer = place.edge.fetch(HOST, "/web/health")
    assert answer.ok
    assert "x-ocore" not in answer.body.lower()


@pytest.mark.parametrize(("hidden", "said"), [(True, "noindex, nofollow"), (False, None)])
def test_search_engines_are_asked_to_stay_away(place: SecurePlace, hidden: bool, said: str | None) -> None:
    place.show(route(hidden=hidden))
    assert place.plain().headers.get("X-Robots-Tag") == said


def test_a_body_above_the_limit_is_refused(place: SecurePlace) -> None:
    place.show(route(max_body=100_000))

    def send(size: int, **more: Any) -> int:
        data: Any = (b"x" * 1000 for _ in range(size // 1000)) if more.get("chunked") else b"x" * size
        return place.plain(method="POST", data=data).status_code

    assert send(90_000) == 200
    assert send(110_000) == 413
    assert send(90_000, chunked=True) == 200
    assert send(600_000, chunked=True) == 413


@pytest.mark.parametrize(
    "target",
    [
        "/fr_BE/web/database/manager",
        "/en_US/web//database",
        "/pt_BR/%77eb/database/selector",
        "/zh-hant/web/./database/backup",
        "/fr/../en/web/database",
        "/web/database?x",
        "/web/database;x/manager",
        "/web/%2e/database/manager",
        "/%2Fweb/database/manager",
        "/en/web%2Fdatabase/manager",
        "/en/WEB/dAtabase/manager",
        "/web/database/%6danager",
    ],
)
def test_the_database_manager_is_not_there_in_any_language(place: SecurePlace, target: str) -> None:
    place.show(route())
    assert place.status_of_raw(target) == 404


def test_an_answer_that_takes_long_comes(place: SecurePlace) -> None:
    place.show(route())
    assert place.plain("/slow?sleep=33", method="POST", data=b"x").status_code == 200


AUTHORITY = {
    "admin": {"disabled": True},
    "apps": {
        "pki": {"certificate_authorities": {"local": {"install_trust": False, "name": "Acme test"}}},
        "http": {
            "http_port": 8999,
            "https_port": 9443,
            "servers": {
                "authority": {
                    "listen": [":9443"],
                    "automatic_https": {"disable": True},
                    "tls_connection_policies": [{}],
                    "routes": [
                        {"handle": [{"handler": "acme_server", "host": "authority:9443", "challenges": ["http-01"]}]}
                    ],
                },
                "port_80_of_the_name": {
                    "listen": [":80"],
                    "automatic_https": {"disable": True},
                    "routes": [{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": "@EDGE@:8080"}]}]}],
                },
            },
        },
        "tls": {
            "certificates": {"automate": ["authority"]},
            "automation": {"policies": [{"subjects": ["authority"], "issuers": [{"module": "internal"}]}]},
        },
    },
}


@pytest.fixture
def acme(place: SecurePlace) -> Iterator[Entrance]:
    """An ACME authority to which the public name leads to the edge, as DNS and port 80 of a server would."""
    name = f"{place.edge.spec.namespace}-authority"
    config = json.dumps(AUTHORITY).replace("@EDGE@", place.edge.name)
    spec = ContainerSpec(
        name=name,
        image=settings.OCORE_EDGE_IMAGE,
        entrypoint=["sh", "-c"],
        command=[f"echo 127.0.0.1 {PUBLIC} >> /etc/hosts; exec caddy run --config /authority.json"],
        files=[File("/authority.json", config.encode())],
        network=place.edge.name,
        aliases=["authority"],
        capabilities=("NET_BIND_SERVICE",),
        stop_seconds=1,
    )
    place.containers.remove(name)
    place.containers.create(spec)
    place.containers.start(name)
    where = "/data/caddy/pki/authorities/local/root.crt"
    deadline = time.monotonic() + 20
    root = ""
    while "END CERTIFICATE" not in root:
        assert time.monotonic() < deadline, place.containers.logs(name)
        time.sleep(0.2)
        root = place.containers.exec(
            name, ["sh", "-c", f"cat {where} /root/.local/share{where[5:]} 2>/dev/null"]
        ).output
    yield replace(
        place.edge.spec.entrance,
        acme_directory="https://authority:9443/acme/local/directory",
        acme_email="ops@acme.test",
        acme_roots=root[root.index("-----BEGIN") :],
    )
    place.containers.remove(name)


def test_a_public_name_gets_its_certificate_by_acme_while_http_leads_to_https(
    place: SecurePlace, acme: Entrance
) -> None:
    names = (Name(HOST), Name(PUBLIC, own_authority=False), Name("lost.example.com", own_authority=False))
    public = replace(
        route(names=names, https_only=True, https_at=f":{place.https}"), hosts=tuple(name.host for name in names)
    )
    place.show(public, acme)
    try:
        seen = place.shown(PUBLIC, seconds=60)
    except EdgeError as error:
        raise AssertionError(place.containers.logs(place.edge.name, 30)) from error
    assert (seen.names, "Acme test" in seen.issuer) == ((PUBLIC,), True)
    Path(place.trust).write_text(acme.acme_roots)
    assert place.secure(host=PUBLIC, verify=place.trust).status_code == 200
    assert "oCore edge" in place.shown(HOST).issuer
    with pytest.raises(EdgeError, match="no certificate for lost"):
        look("127.0.0.1", place.https, "lost.example.com")
    # What the saved configuration names is still there.
    place.containers.remove(place.edge.name)
    place.edge.prepare(quiet)
    assert place.shown(PUBLIC).fingerprint == seen.fingerprint
