"""What the clock finds out about the edges' certificates, and how an edge learns what has changed."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import certificates, edges, jobs
from deployments.attention import troubled_certificates, uninformed_servers
from instances.handshakes import look
from instances.models import Certificate, Door, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import EdgeError
from instances.runtimes.simulated import Faults
from projects.certificates import Facts, facts
from projects.domains import Domain
from projects.models import Environment, Server
from tests import factories
from tests.conftest import Queues
from tests.pems import Pair, authority, made

pytestmark = pytest.mark.django_db


class TlsServer:
    """Shows one certificate for one name, and none for others."""

    def __init__(self, folder: Path, host: str, pair: Pair) -> None:
        chain = folder / "chain.pem"
        chain.write_text(pair.pem + pair.key_pem)
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(chain)
        empty = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def choose(connection: Any, name: str | None, _: Any) -> None:
            if name == host:
                connection.context = own

        empty.sni_callback = choose
        self.context = empty
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                self.context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()


@pytest.fixture(scope="module")
def pair() -> Pair:
    return made("Shop", ["shop.example"], authority())


@pytest.fixture
def secure(tmp_path: Path, pair: Pair) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path, "shop.example", pair)
    yield server
    server.socket.close()


def test_a_handshake_says_what_certificate_is_shown(secure: TlsServer, pair: Pair) -> None:
    seen = look("127.0.0.1", secure.port, "shop.example")
    assert seen == facts(pair.certificate)
    with pytest.raises(EdgeError, match=r"has no certificate for other\.example"):
        look("127.0.0.1", secure.port, "other.example")
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    with pytest.raises(EdgeError, match="Nothing answers"):
        look("127.0.0.1", free, "shop.example")


@pytest.fixture
def live(secure: TlsServer, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment on a server with an edge that has one of its two certificates."""
    server = Server.objects.create(name="Real", slug="real", https_port=secure.port)
    environment = factories.environment(server=server)
    factories.deployment(environment, live=True, live_at=timezone.now())
    Domain.objects.create(environment=environment, name="shop.example")
    said = {
        "level": "error",
        "logger": "tls.obtain",
        "msg": "could not get certificate from issuer",
        "error": "[production-acme.localhost] solving challenges: 403 unauthorized",
    }
    monkeypatch.setattr(certificates, "_log", lambda server: f"noise\n{json.dumps(said)}\n")
    return environment


def test_the_clock_looks_at_every_name_and_keeps_why_one_has_no_certificate(live: Environment) -> None:
    jobs.look_at_certificates()
    generated, own = Certificate.objects.order_by("host")
    assert (own.host, own.issuer, own.problem) == ("shop.example", "Test authority", "")
    assert own.ends_at is not None
    assert generated.problem.startswith("The edge has no certificate for production-acme.localhost.")
    assert "403 unauthorized" in generated.problem
    since = generated.problem_since
    jobs.look_at_certificates()
    generated.refresh_from_db()
    assert generated.problem_since == since


def test_what_is_gone_is_forgotten(live: Environment) -> None:
    jobs.look_at_certificates()
    Domain.objects.all().delete()
    jobs.look_at_certificates()
    assert [one.host for one in Certificate.objects.all()] == [live.hostname]
    Server.objects.update(https_port=None)
    jobs.look_at_certificates()
    assert not Certificate.objects.exists()


def test_a_certificate_for_another_name_or_past_its_end_is_a_problem(pair: Pair) -> None:
    from instances.runtimes.base import Name

    said = facts(pair.certificate)
    assert "not for b.example" in certificates._problem(Name("b.example"), said, "")
    ended = Facts(said.subject, said.issuer, said.names, said.begins_at, timezone.now() - timedelta(days=1), "")
    assert "ended on" in certificates._problem(Name("shop.example"), ended, "")


@pytest.mark.parametrize(
    ("life", "left", "soon"),
    [
        (timedelta(days=90), timedelta(days=15), False),
        (timedelta(days=90), timedelta(days=13), True),
        (timedelta(hours=12), timedelta(hours=4), False),
        (timedelta(hours=12), timedelta(hours=2), True),
    ],
)
def test_the_end_of_a_certificate_is_told_in_time(life: timedelta, left: timedelta, soon: bool) -> None:
    ends = timezone.now() + left
    row = Certificate(environment=factories.environment(), host="a.example", checked_at=timezone.now())
    row.begins_at, row.ends_at = ends - life, ends
    row.save()
    assert row.ends_soon is soon
    assert bool(troubled_certificates()) is soon


def test_only_a_problem_that_lasts_is_told_on_every_page() -> None:
    row = Certificate.objects.create(
        environment=factories.environment(),
        host="a.example",
        checked_at=timezone.now(),
        problem="The edge has no certificate for a.example.",
        problem_since=timezone.now(),
    )
    assert troubled_certificates() == []
    Certificate.objects.update(problem_since=timezone.now() - timedelta(hours=1))
    assert troubled_certificates() == [row]
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert "a.example of Acme / Production has a problem" in client.get(reverse("admin:index")).content.decode()


@pytest.fixture
def served(queues: Queues) -> Environment:
    """Its edge has its route."""
    environment = factories.environment(kind=Environment.Kind.STAGING)
    Instance.objects.update(state=Instance.State.RUNNING)
    factories.deployment(environment, live=True, live_at=timezone.now())
    edges.ask([environment.server])
    edges.tell(environment.server_id)
    return environment


def hosts(environment: Environment) -> list[str]:
    from instances.runtimes.simulated import SimulatedRuntime

    runtime = runtime_for(environment.server)
    assert isinstance(runtime, SimulatedRuntime)
    with runtime._store.open() as state:
        return [host for route in state["routes"] for host in route["hosts"]]


def post(environment: Environment, **fields: str) -> Any:
    """The environment's form, as a person of all rights sends it."""
    client = Client()
    client.force_login(User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0])
    url = reverse("admin:projects_environment_change", args=[environment.pk])
    context = client.get(url).context
    data: dict[str, Any] = {}
    for form in (context["adminform"].form, *(f for s in context["inline_admin_formsets"] for f in s.formset.forms)):
        for name in form.fields:
            value = form[name].value()
            data[form.add_prefix(name)] = "" if value is None else value
    for shown in context["inline_admin_formsets"]:
        for name, value in shown.formset.management_form.initial.items():
            data[f"{shown.formset.prefix}-{name}"] = value
    data = {name: value for name, value in data.items() if value is not False and not name.endswith("-DELETE")}
    answer = client.post(url, data | fields)
    if answer.status_code != 302:
        raise AssertionError(answer.context["errors"])
    return answer


def new_domain(number: int, name: str, **more: str) -> dict[str, str]:
    base = {f"domains-{number}-name": name, f"domains-{number}-source": "auto", "domains-TOTAL_FORMS": str(number + 1)}
    return base | {f"domains-{number}-{field}": value for field, value in more.items()}


def test_a_name_that_is_added_in_the_admin_is_served_without_a_deployment(
    served: Environment, queues: Queues, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        post(served, **new_domain(0, "Shop.Acme.example"))
    queues.run_all()
    assert hosts(served) == [served.hostname, "shop.acme.example"]
    served.server.refresh_from_db()
    assert served.server.edge_due_at is None


def test_primary_is_handed_on_in_one_form_and_never_given_twice(served: Environment, queues: Queues) -> None:
    post(served, **new_domain(0, "a.example"))
    post(served, **new_domain(1, "b.example", primary="on"))
    assert Environment.objects.get().address == "b.example"
    with pytest.raises(AssertionError, match="Only one host name"):
        post(served, **(new_domain(2, "c.example", primary="on") | new_domain(3, "d.example", primary="on")))
    with pytest.raises(AssertionError, match=r"c\.example stands there twice"):
        post(served, **(new_domain(2, "c.example") | new_domain(3, "C.example")))


def test_what_redis_lost_or_a_closed_door_held_up_the_clock_hands_over_again(
    served: Environment, queues: Queues
) -> None:
    door = Door.objects.create(environment=served, server=served.server, holder="d1", closed_at=timezone.now())
    Domain.objects.create(environment=served, name="shop.example")
    edges.ask([served.server])
    edges.tell(served.server_id)
    assert hosts(served) == [served.hostname]
    door.delete()
    jobs.hand_over_edges()
    queues.run_all()
    assert hosts(served) == [served.hostname, "shop.example"]


def test_an_edge_that_cannot_be_told_is_on_every_page_until_it_can(
    served: Environment, queues: Queues, faults: Faults
) -> None:
    Domain.objects.create(environment=served, name="shop.example")
    edges.ask([served.server])
    faults.raised["edge.apply"] = EdgeError("The edge could not take its new routes.", detail="no")
    edges.tell(served.server_id)
    (server,) = uninformed_servers()
    assert server.edge_problem == "The edge could not take its new routes. no"
    faults.clear()
    edges.tell(served.server_id)
    assert uninformed_servers() == []


def test_nothing_is_started_where_make_down_has_stopped_all(served: Environment, queues: Queues) -> None:
    Server.objects.update(stopped_at=timezone.now())
    Domain.objects.create(environment=served, name="shop.example")
    edges.ask([served.server])
    jobs.hand_over_edges()
    queues.run_all()
    assert hosts(served) == [served.hostname]


def test_settings_of_the_edge_wait_for_no_deployment(served: Environment) -> None:
    from deployments.configuration import freeze
    from deployments.drift import drift

    row = served.deployments.get()
    freeze(row)
    assert not {"allowed_addresses", "basic_auth"} & (set(row.configuration["environment"]) | set(row.secret_variables))
    served.allowed_addresses, served.basic_auth = ["192.0.2.0/24"], {"team": "x"}
    assert drift(served, row) == []


def test_who_may_only_look_sees_that_there_is_a_key_and_changes_nothing(served: Environment, pair: Pair) -> None:
    row = Domain.objects.create(
        environment=served, name="shop.example", source="uploaded", chain=pair.pem, private_key=pair.key_pem
    )
    vera = User.objects.create_user("vera", is_staff=True)
    vera.user_permissions.set(Permission.objects.filter(codename__in=["view_domain", "view_environment"]))
    client = Client()
    client.force_login(vera)
    url = reverse("admin:projects_domain_change", args=[row.pk])
    page = client.get(url).content.decode()
    assert pair.key_pem.splitlines()[1] not in page
    assert "••••" in page
    assert client.post(url, {"name": "evil.example"}).status_code == 403
    assert client.post(reverse("admin:projects_domain_delete", args=[row.pk])).status_code == 403


def test_a_key_is_written_and_never_shown_again(served: Environment, pair: Pair, queues: Queues) -> None:
    row = Domain.objects.create(environment=served, name="shop.example")
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    url = reverse("admin:projects_domain_change", args=[row.pk])
    data = {"name": "shop.example", "primary": "on", "source": "uploaded", "chain": pair.pem}
    typed = pair.key_pem.replace("\n", "\r\n")
    assert client.post(url, data | {"private_key": typed}).status_code == 302
    page = client.get(url).content.decode()
    assert pair.key_pem.splitlines()[1] not in page
    assert client.post(url, data | {"private_key": "•" * 8}).status_code == 302
    row.refresh_from_db()
    assert row.private_key == pair.key_pem.strip()
    refused = client.post(url, data | {"chain": "nonsense", "private_key": typed}).content.decode()
    assert "not a certificate in PEM form" in refused
    assert pair.key_pem.splitlines()[1] not in refused


def test_a_password_of_the_prompt_is_never_shown_again(served: Environment, queues: Queues) -> None:
    post(served, basic_auth="team = s3cret")
    served.refresh_from_db()
    kept = dict(served.basic_auth or {})
    client = Client()
    client.force_login(User.objects.get(username="root"))
    page = client.get(reverse("admin:projects_environment_change", args=[served.pk])).content.decode()
    assert "team = ••••••••" in page
    assert "s3cret" not in page
    assert kept["team"] not in page
    post(served, description="Untouched")
    served.refresh_from_db()
    assert served.basic_auth == kept
