"""What `make up` says at its end: where everything is reached, whether it answers, and what was stopped."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from deployments import addresses
from deployments.management.commands.up import Command
from deployments.models import Deployment
from deployments.states import Status
from instances.models import Door, Instance
from instances.runtimes import simulated
from instances.runtimes.base import Answer, ServerUnreachable
from ocore.machine.progress import Progress
from projects.models import Environment
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """By the first part of the host name: what its edge says, one after the other; the last one again and again."""
    given: dict[str, list[Any]] = {}

    def fetch(_self: Any, host: str, path: str, **_: Any) -> Answer:
        mine = given.get(host.split(".")[0], [Answer(200)])
        one = mine.pop(0) if len(mine) > 1 else mine[0]
        if isinstance(one, Exception):
            raise one
        return Answer(one) if isinstance(one, int) else one

    monkeypatch.setattr(simulated._Edge, "fetch", fetch)
    monkeypatch.setattr(addresses, "AGAIN_SECONDS", 0)
    return given


def live(slug: str, **fields: Any) -> Environment:
    made = factories.environment(name=slug.title(), slug=slug, **fields)
    factories.deployment(made, live=True, commit="a" * 40)
    made.instances.update(state=Instance.State.RUNNING, container=f"{slug}-1")
    return made


def told(patience: float = 0) -> str:
    found = addresses.addresses()
    return "\n".join(addresses.told(found, addresses.ask(found, patience)))


def test_an_odoo_that_answers_is_listed_and_no_more(answers: dict[str, list[Any]]) -> None:
    environment = live("production", public=True)

    lines = told().splitlines()

    assert lines[1] == f"Odoo         {environment.url} (simulated), Acme / Production"
    assert [line.split()[0] for line in lines] == ["Admin", "Odoo", "Status"]


@pytest.mark.parametrize("answer", [503, Answer(0, "refused"), ServerUnreachable("The engine does not answer.")])
def test_an_odoo_that_doesnt_answer_is_named_with_what_to_do(answers: dict[str, list[Any]], answer: Any) -> None:
    live("production")
    live("staging")
    answers["staging-acme"] = [answer]

    said = told()

    assert said.count("DOESN'T ANSWER") == 1
    after = said.split("Acme / Staging\n")[1]
    assert "DOESN'T ANSWER. Its container staging-1 is gone." in after
    assert f"/admin/instances/instance/{Instance.objects.get(container='staging-1').pk}/change/" in after
    assert "./manage.py deploy acme/staging --ref aaaaaaaaaa --force --wait" in after


def test_an_odoo_that_has_just_been_started_is_given_time(answers: dict[str, list[Any]]) -> None:
    live("production")
    answers["production-acme"] = [502, 502, 200]

    assert "ANSWER" not in told(patience=5)


def test_the_patience_is_for_all_of_them_together_and_ends(answers: dict[str, list[Any]]) -> None:
    live("production")
    answers["production-acme"] = [502]
    began = timezone.now()

    assert "DOESN'T ANSWER" in told(patience=0.05)
    assert (timezone.now() - began).total_seconds() < 2


def test_what_a_person_has_stopped_is_not_asked_and_said_to_be_stopped(answers: dict[str, list[Any]]) -> None:
    environment = live("production")
    environment.instances.update(state=Instance.State.STOPPED)
    answers["production-acme"] = [502]

    said = told()

    assert "Stopped by a person." in said
    assert "ANSWER" not in said


def test_what_is_being_deployed_is_no_failure(answers: dict[str, list[Any]]) -> None:
    environment = live("production")
    answers["production-acme"] = [502]
    running = factories.deployment(environment, status=Status.RUNNING)

    said = told()

    assert f"Doesn't answer now: {running} is underway. See: ./manage.py status acme/production" in said
    assert "DOESN'T" not in said


@pytest.fixture
def stopped() -> Any:
    """A command whose supervisor has ended; what it then says."""

    def tell(names: list[str], by: str) -> str:
        command = Command()
        stream = io.StringIO()
        command.progress = Progress(stream.write)
        command.supervisor = SimpleNamespace(stopped=names, stopped_by=by)  # type: ignore[assignment]
        command._tell_stopped()
        return stream.getvalue()

    return tell


def test_the_end_says_when_by_what_what_was_stopped_and_what_goes_on(stopped: Any) -> None:
    said = stopped(["redis", "web"], "SIGTERM")

    assert f"Stopped by SIGTERM at {timezone.now():%Y-%m-%d %H:%M}" in said
    assert "UTC: redis, web." in said
    assert "Clients' containers go on serving; make down stops them too." in said


def test_the_end_names_what_was_underway_and_who_waits_for_it(stopped: Any) -> None:
    environment = factories.environment()
    running = factories.deployment(environment, status=Status.RUNNING)
    assert f"{running} was running: the next make up takes it back." in stopped(["web"], "")

    Door.objects.create(environment=environment, server=environment.server, holder="x", closed_at=timezone.now())
    assert f"{running} was running, and requests wait for it: the next make up" in stopped(["web"], "")
    Deployment.objects.update(switched_at=timezone.now())
    assert "the next make up completes it." in stopped(["web"], "")
    Deployment.objects.update(status=Status.QUEUED, switched_at=None)
    assert "the next make up takes it up." in stopped(["web"], "")
    Deployment.objects.update(status=Status.SUCCEEDED)
    assert "the next make up takes it" not in stopped(["web"], "")


def test_where_nothing_was_started_nothing_is_said_to_be_stopped(stopped: Any, tmp_path: Path) -> None:
    assert stopped([], "Ctrl-C") == ""
