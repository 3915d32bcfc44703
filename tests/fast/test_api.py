"""The HTTP API: what it shows and does, for whom, and what it answers when it doesn't."""

from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
import time_machine
from django.contrib.admin.models import LogEntry
from django.db import OperationalError, connection
from django.test import Client
from django.utils import timezone

from deployments import jobs, locking, rates, tokens
from deployments.api import gate
from deployments.models import ApiToken, Delivery, Deployment, KeptAnswer, LogChunk, Snapshot, Step
from deployments.states import Status, StepKind, StepStatus, Trigger
from instances.models import Instance
from projects.models import Environment
from tests import factories
from tests.acme import ADA
from tests.api import ACTS, VIEWS, call, secret, user

pytestmark = pytest.mark.django_db
HERE = "/projects/acme/environments/production"


@pytest.fixture
def production(queues: Any) -> Environment:
    return factories.environment(branch="")


@pytest.fixture
def full(production: Environment) -> str:
    return secret(user(), production.project)


def is_problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    content: dict[str, Any] = answer.json()
    assert (content["status"], content["type"]) == (status, f"urn:ocore:problem:{kind}")
    assert content["title"]
    assert content["detail"]
    return content


def everything(environment: Environment) -> dict[str, int]:
    """A row of each kind."""
    first = factories.deployment(environment, live=True, live_at=timezone.now(), commit="c" * 40)
    last = factories.deployment(environment, status=Status.FAILED, error="Broken", superseded_by=first)
    built = Step.objects.create(deployment=last, kind=StepKind.BUILD, status=StepStatus.FAILED)
    LogChunk.objects.create(step=built, text="one\n\x1b[31mtwo\x1b[0m\n")
    snapshot = Snapshot.objects.create(environment=environment, deployment=last, of=first, database="x", label="x")
    outcome = [{"environment": environment.path, "verdict": "accepted", "reason": "Queued.", "deployment": last.pk}]
    delivery = Delivery.objects.create(
        project=environment.project, verdict="accepted", host="github", status_code=202, outcome=outcome, body="{}"
    )
    return {"live": first.pk, "deployment": last.pk, "snapshot": snapshot.pk, "delivery": delivery.pk}


def test_it_shows_what_there_is(production: Environment, full: str) -> None:
    made = everything(production)
    locking.lock(production, ADA, "Closing")

    assert call(full, "GET", "/token").json()["projects"] == ["acme"]
    assert [one["slug"] for one in call(full, "GET", "/projects").json()["items"]] == ["acme"]
    assert call(full, "GET", "/projects/acme").json()["name"] == "Acme"
    (listed,) = call(full, "GET", "/projects/acme/environments").json()["items"]
    shown = call(full, "GET", HERE).json()
    assert shown.pop("settings")["odoo_version"] == {"value": "19.0", "origin": "oCore's defaults"}
    assert shown == listed
    assert (shown["server"], shown["live"]["id"], shown["lock"]["reason"]) == ("sim", made["live"], "Closing")
    assert [one["slug"] for one in call(full, "GET", f"{HERE}/instances").json()["items"]] == ["main"]
    assert call(full, "GET", f"{HERE}/instances/main").json()["state"] == "new"
    assert call(full, "GET", f"/snapshots/{made['snapshot']}").json()["of"] == made["live"]
    assert call(full, "GET", "/snapshots?state=taking").json()["items"][0]["id"] == made["snapshot"]
    assert call(full, "GET", "/deliveries").json()["items"][0]["outcome"][0]["deployment"] == made["deployment"]
    assert call(full, "GET", f"/deliveries/{made['delivery']}").json()["body"] == "{}"
    assert [one["slug"] for one in call(full, "GET", "/servers").json()["items"]] == ["sim"]
    assert call(full, "GET", "/servers/sim").json()["deployments"] == 0
    assert call(full, "GET", "/openapi.json").json()["info"]["title"] == "oCore"


def test_a_deployment_comes_with_its_steps_and_its_log_from_an_offset_on(production: Environment, full: str) -> None:
    pk = everything(production)["deployment"]
    taken = {"name": "oca", "url": "https://git.example.com/oca.git", "asked": "19.0", "commit": "a" * 40}
    Deployment.objects.filter(pk=pk).update(repositories=[taken | {"subject": "One", "folder": ""}])
    shown = call(full, "GET", f"/deployments/{pk}").json()
    assert [(one["name"], one["commit"]) for one in shown["repositories"]] == [("oca", "a" * 40)]
    assert (shown["status"], shown["final"], shown["error"]) == ("failed", True, "Broken")
    assert [(one["kind"], one["status"]) for one in shown["steps"]] == [("build", "failed")]
    assert shown["url"].endswith(f"/admin/deployments/deployment/{pk}/change/")

    log = call(full, "GET", f"/deployments/{pk}/log").json()
    assert log["parts"] == [{"step": "build", "text": "one\ntwo\n"}]
    assert (log["more"], log["final"]) == (False, True)
    LogChunk.objects.create(step=Step.objects.get(), text="three\n")
    later = call(full, "GET", f"/deployments/{pk}/log?offset={log['next_offset']}").json()
    assert later["parts"] == [{"step": "build", "text": "three\n"}]


def test_a_long_log_comes_in_pieces(production: Environment, full: str) -> None:
    step = Step.objects.create(deployment=factories.deployment(production), kind=StepKind.BUILD)
    LogChunk.objects.bulk_create(LogChunk(step=step, text=f"{n}\n") for n in range(501))
    first = call(full, "GET", f"/deployments/{step.deployment_id}/log").json()
    rest = call(full, "GET", f"/deployments/{step.deployment_id}/log?offset={first['next_offset']}").json()
    assert (first["more"], rest["more"]) == (True, False)
    assert first["parts"][0]["text"] + rest["parts"][0]["text"] == "".join(f"{n}\n" for n in range(501))


def test_lists_are_pages_and_nothing_that_comes_meanwhile_shifts_them(production: Environment, full: str) -> None:
    pks = [factories.deployment(production).pk for _ in range(5)]
    first = call(full, "GET", "/deployments?limit=2").json()
    factories.deployment(production)
    second = call(full, "GET", f"/deployments?limit=2&cursor={first['next_cursor']}").json()
    third = call(full, "GET", f"/deployments?limit=2&cursor={second['next_cursor']}").json()
    assert [one["id"] for page in (first, second, third) for one in page["items"]] == pks[::-1]
    assert third["next_cursor"] is None
    is_problem(call(full, "GET", "/deployments?limit=101"), 422, "invalid")


def test_a_list_of_deployments_is_narrowed_down(production: Environment, full: str) -> None:
    made = everything(production)
    for query, found in (
        ("project=acme&environment=production", 2),
        ("project=other", 0),
        ("status=failed", 1),
        ("live=true", 1),
        ("commit=ccccccc", 1),
        ("commit=ddddddd", 0),
    ):
        assert len(call(full, "GET", f"/deployments?{query}").json()["items"]) == found, query
    assert call(full, "GET", "/deployments?live=true").json()["items"][0]["id"] == made["live"]


def test_a_page_costs_the_same_queries_with_2_and_12_rows(
    production: Environment, full: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        everything(factories.environment(name=f"E{number}", slug=f"e{number}"))
    for path in ("/projects/acme/environments", "/deployments", "/snapshots", "/deliveries"):
        with django_assert_max_num_queries(20):
            assert len(call(full, "GET", path).json()["items"]) >= 12


def test_deploying_queues_in_the_users_name_and_says_where_to_look(production: Environment, full: str) -> None:
    answer = call(full, "POST", f"{HERE}/deployments", {"force": True})
    made = Deployment.objects.get()
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/api/v1/deployments/{made.pk}")
    assert (answer.json()["id"], answer.json()["status"], answer.json()["force"]) == (made.pk, "queued", True)
    assert (made.trigger, made.requester) == (Trigger.API, "ci (API token CI)")
    assert made.requested_by.username == "ci"


def test_times_are_told_alike_by_who_does_and_by_who_looks(production: Environment, full: str) -> None:
    made = call(full, "POST", f"{HERE}/deployments", {}).json()
    assert call(full, "GET", f"/deployments/{made['id']}").json() == made


def test_a_parameter_is_known_and_given_once(production: Environment, full: str) -> None:
    for query, where in (("limit=1&limit=2", "query.limit"), ("projekt=acme", "query.projekt")):
        answer = is_problem(call(full, "GET", f"/deployments?{query}"), 422, "invalid")
        assert [one["where"] for one in answer["errors"]] == [where]


def test_a_body_that_is_no_object_is_told_so_in_words_of_the_api(production: Environment, full: str) -> None:
    answer = is_problem(call(full, "POST", f"{HERE}/deployments", []), 422, "invalid")
    assert answer["errors"] == [{"where": "body", "message": "It should be an object."}]


def test_what_waited_and_gave_way_is_named(production: Environment, full: str) -> None:
    first = call(full, "POST", f"{HERE}/deployments", {}).json()
    second = call(full, "POST", f"{HERE}/deployments", {"force": True})
    assert (first["supersedes"], second.json()["supersedes"]) == ([], [first["id"]])


def test_a_locked_environment_takes_a_deployment_and_says_what_it_waits_for(production: Environment, full: str) -> None:
    answer = call(full, "POST", f"{HERE}/lock", {"reason": "Month-end"})
    assert (answer.status_code, answer.json()["locked_by"]) == (201, "ci (API token CI)")
    assert "Month-end" in call(full, "POST", f"{HERE}/deployments", {}).json()["waits_for"]
    assert (
        "locked already"
        in is_problem(call(full, "POST", f"{HERE}/lock", {"reason": "x"}), 409, "not-possible")["detail"]
    )
    assert call(full, "DELETE", f"{HERE}/lock").status_code == 204
    is_problem(call(full, "DELETE", f"{HERE}/lock"), 409, "not-possible")


def test_a_queued_deployment_is_cancelled_once(production: Environment, full: str) -> None:
    pk = call(full, "POST", f"{HERE}/deployments", {}).json()["id"]
    answer = call(full, "POST", f"/deployments/{pk}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert Deployment.objects.get().cancelled_by == "ci (API token CI)"
    assert (
        "cannot be cancelled"
        in is_problem(call(full, "POST", f"/deployments/{pk}/cancel"), 409, "not-possible")["detail"]
    )


def test_rolling_back_goes_to_what_was_live_before(production: Environment, full: str) -> None:
    earlier, live = (factories.deployment(production, live_at=timezone.now(), content=text, ref="") for text in "ab")
    Deployment.objects.filter(pk=live.pk).update(live=True)
    answer = call(full, "POST", f"{HERE}/rollback", {})
    assert (answer.status_code, answer.json()["rollback_to"]) == (201, earlier.pk)
    problem = is_problem(call(full, "POST", f"{HERE}/rollback", {"with_data": True}), 409, "not-possible")
    assert problem["advice"] == "Roll back without data: image and settings only."
    staging = factories.deployment(factories.environment(name="Staging", slug="staging"))
    is_problem(call(full, "POST", f"{HERE}/rollback", {"to": staging.pk}), 404, "not-found")


def test_asked_again_with_the_same_key_nothing_is_done_again(production: Environment, full: str) -> None:
    first = call(full, "POST", f"{HERE}/deployments", {"force": True}, Idempotency_Key="run-1")
    again = call(full, "POST", f"{HERE}/deployments", {"force": True}, Idempotency_Key="run-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert [one.headers.get("Idempotency-Replayed") for one in (first, again)] == [None, "true"]
    assert Deployment.objects.count() == 1
    is_problem(call(full, "POST", f"{HERE}/deployments", {}, Idempotency_Key="run-1"), 422, "key-reused")
    is_problem(call(full, "POST", f"{HERE}/rollback", {}, Idempotency_Key="run-1"), 422, "key-reused")
    other = secret(user("other"), production.project)
    assert call(other, "POST", f"{HERE}/deployments", {}, Idempotency_Key="run-1").status_code == 201
    assert Deployment.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_asked_twice_at_the_same_instant_it_is_done_once(production: Environment, full: str) -> None:
    together = Barrier(2)
    answers: list[Any] = []

    def ask() -> None:
        together.wait()
        answers.append(call(full, "POST", f"{HERE}/deployments", {"force": True}, Idempotency_Key="run-1"))
        connection.close()

    threads = [Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.status_code for one in answers] == [201, 201]
    assert sorted(one.headers.get("Idempotency-Replayed", "") for one in answers) == ["", "true"]
    assert answers[0].json() == answers[1].json()
    assert Deployment.objects.count() == 1


def test_what_is_done_stands_in_the_histories(production: Environment, full: str) -> None:
    pk = call(full, "POST", f"{HERE}/deployments", {}).json()["id"]
    call(full, "POST", f"/deployments/{pk}/cancel")
    call(full, "POST", f"{HERE}/lock", {"reason": "Closing"})
    call(full, "DELETE", f"{HERE}/lock")
    told = list(LogEntry.objects.order_by("pk").values_list("object_id", "change_message"))
    here = str(production.pk)
    words = [(here, f"Deployed as #{pk}."), (str(pk), "Cancelled."), (here, "Locked: Closing."), (here, "Unlocked.")]
    assert told == [(row, f"{what} By the API, with the token CI.") for row, what in words]


def test_a_refusal_is_not_kept_and_may_be_asked_again(production: Environment, full: str) -> None:
    for _ in range(2):
        is_problem(call(full, "POST", f"{HERE}/rollback", {}, Idempotency_Key="k"), 409, "not-possible")
    assert not KeptAnswer.objects.exists()
    with_body = {"reason": "now"}
    assert call(full, "POST", f"{HERE}/lock", with_body, Idempotency_Key="k").status_code == 201


def test_an_answer_is_kept_for_a_day(production: Environment, full: str) -> None:
    call(full, "POST", f"{HERE}/deployments", {}, Idempotency_Key="k")
    with time_machine.travel(timezone.now() + timedelta(hours=23)):
        tokens.forget_old_answers()
        assert "Idempotency-Replayed" in call(full, "POST", f"{HERE}/deployments", {}, Idempotency_Key="k").headers
    with time_machine.travel(timezone.now() + timedelta(hours=25)):
        assert "Idempotency-Replayed" not in call(full, "POST", f"{HERE}/deployments", {}, Idempotency_Key="k").headers
        assert KeptAnswer.objects.count() == 1
    with time_machine.travel(timezone.now() + timedelta(hours=50)):
        jobs.sweep_all()
        assert not KeptAnswer.objects.exists()


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(production: Environment) -> None:
    def made(name: str, **fields: Any) -> str:
        whole = secret(user(name))
        ApiToken.objects.filter(digest=tokens.digest_of(whole)).update(**fields)
        return whole

    good = made("good")
    wrong = [
        None,
        "",
        "ocore_0badc0de_nonsense",
        good[:-1],
        f"{good} ",
        good.upper(),
        made("late", expires_at=timezone.now()),
        made("gone", revoked_at=timezone.now()),
    ]
    for name, field in (("inactive", "is_active"), ("no-staff", "is_staff")):
        wrong.append(made(name))
        type(user("x" + name)).objects.filter(username=name).update(**{field: False})
    answers = [call(one, "GET", "/projects") for one in wrong]
    answers.append(call(None, "GET", "/projects", Authorization="Basic Z29vZDpnb29k"))
    for answer in answers:
        is_problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="oCore"'
    assert len({answer.content for answer in answers}) == 1
    assert call(good, "GET", "/projects").status_code == 200


def test_a_browsers_session_is_nobody_here(production: Environment) -> None:
    client = Client()
    client.force_login(user())
    assert client.get("/api/v1/projects").status_code == 401
    assert client.post(f"/api/v1{HERE}/deployments", {}, content_type="application/json").status_code == 401
    assert not Deployment.objects.exists()


ACTS_OF = {
    "deploy": ("POST", f"{HERE}/deployments", {}),
    "roll_back": ("POST", f"{HERE}/rollback", {}),
    "lock": ("POST", f"{HERE}/lock", {"reason": "x"}),
    "cancel": ("POST", "/deployments/{}/cancel", None),
}
PERMISSION_OF = dict(zip(["deploy", "cancel", "roll_back", "lock"], ACTS, strict=True))
READS_OF = {
    "view_project": ["/projects", "/projects/acme"],
    "view_environment": ["/projects/acme/environments", HERE],
    "view_instance": [f"{HERE}/instances", f"{HERE}/instances/main"],
    "view_deployment": ["/deployments", "/deployments/1", "/deployments/1/log"],
    "view_snapshot": ["/snapshots", "/snapshots/1"],
    "view_delivery": ["/deliveries", "/deliveries/1"],
    "view_server": ["/servers", "/servers/sim"],
}


def test_what_runs_in_an_environment_is_for_who_may_view_deployments(production: Environment, full: str) -> None:
    live = factories.deployment(production, live_at=timezone.now())
    Deployment.objects.filter(pk=live.pk).update(live=True)
    only = secret(user("only", "view_project", "view_environment"))
    (listed,) = call(only, "GET", "/projects/acme/environments").json()["items"]
    assert listed["live"] is None is call(only, "GET", HERE).json()["live"]
    assert call(full, "GET", HERE).json()["live"]["id"] == live.pk


@pytest.mark.parametrize("verb", ACTS_OF)
def test_each_act_needs_its_verb_and_its_users_permission_of_now(production: Environment, verb: str) -> None:
    for text in "ab":
        live = factories.deployment(production, live_at=timezone.now(), content=text, ref="")
    Deployment.objects.filter(pk=live.pk).update(live=True)
    queued = factories.deployment(production, status=Status.QUEUED)
    method, path, body = ACTS_OF[verb]
    path = path.format(queued.pk)
    others = [one for one in (*ACTS_OF, "read") if one != verb]
    everybody = user("everybody")
    refused = is_problem(call(secret(everybody, verbs=others), method, path, body), 403, "forbidden")
    assert f"not for “{verb}”" in refused["detail"]
    lacking = user("lacking", *VIEWS, *(name for name in ACTS if name != PERMISSION_OF[verb]))
    refused = is_problem(call(secret(lacking), method, path, body), 403, "forbidden")
    assert PERMISSION_OF[verb] in refused["detail"]
    blind = user("blind", *ACTS)
    is_problem(call(secret(blind), method, path, body), 403, "forbidden")

    token = secret(everybody, verbs=[verb])
    assert call(token, method, path, body).status_code in (200, 201)
    is_problem(call(token, "GET", "/deployments"), 403, "forbidden")
    everybody.user_permissions.clear()
    is_problem(call(token, method, path, body), 403, "forbidden")


@pytest.mark.parametrize("permission", READS_OF)
def test_each_kind_of_thing_needs_the_right_to_view_it(production: Environment, permission: str) -> None:
    blind = secret(user("blind", *(one for one in VIEWS if one != permission)))
    seeing = secret(user("seeing", permission))
    acting = secret(user("acting"), verbs=["deploy", "cancel", "roll_back", "lock"])
    for path in READS_OF[permission]:
        assert permission in is_problem(call(blind, "GET", path), 403, "forbidden")["detail"]
        assert call(seeing, "GET", path).status_code in (200, 404)
        is_problem(call(acting, "GET", path), 403, "forbidden")


def test_what_is_outside_of_a_tokens_projects_is_not_there(production: Environment) -> None:
    made = everything(production)
    other = factories.project(name="Beta", slug="beta")
    factories.environment(project=other, server=factories.server(slug="two", name="Two"))
    token = secret(user(), other)
    paths = [path.replace("/1", "/{}") for paths in READS_OF.values() for path in paths]
    ones = {"deployments": "deployment", "snapshots": "snapshot", "deliveries": "delivery"}
    for path in paths:
        answer = call(token, "GET", path.format(made.get(ones.get(path.split("/")[1], ""), 0)))
        if path in ("/projects", "/deployments", "/snapshots", "/deliveries", "/servers"):
            assert [one.get("slug") for one in answer.json()["items"]] in ([], ["beta"], ["two"]), path
        else:
            is_problem(answer, 404, "not-found")
    for method, path, body in ACTS_OF.values():
        is_problem(call(token, method, path.format(made["deployment"]), body), 404, "not-found")
    Instance.objects.filter(environment__project=other).delete()
    other.environments.all().delete()
    other.delete()
    assert call(token, "GET", "/projects").json()["items"] == [], "and never everything"


def test_an_address_and_a_token_that_call_too_often_wait(
    production: Environment, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(rates, "counter", rates.Counter())
    monkeypatch.setattr(rates.counter, "_quiet_until", float("inf"))
    settings.OCORE_API_PER_TOKEN = 2
    first, second = secret(user("a")), secret(user("b"))
    with time_machine.travel("2026-03-01 12:00:10Z", tick=False):
        ApiToken.objects.update(expires_at=timezone.now() + timedelta(days=1))
        codes = [call(one, "GET", "/token").status_code for one in (first, first, first, second)]
        assert codes == [200, 200, 429, 200]
        late = call(first, "GET", "/token")
        is_problem(late, 429, "too-many-calls")
        assert late.headers["Retry-After"] == "51"
        settings.OCORE_API_PER_ADDRESS = 5
        assert call(None, "GET", "/token").status_code == 401
        settings.OCORE_API_PER_ADDRESS = 1
        is_problem(call(None, "GET", "/token"), 429, "too-many-calls")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/nothing", None, 404, "not-found"),
        ("GET", "/deployments/999999999999999999999999", None, 404, "not-found"),
        ("PATCH", "/projects", None, 405, "method-not-allowed"),
        ("POST", f"{HERE}/deployments", b"{", 400, "unreadable"),
        ("POST", f"{HERE}/deployments", b"\xff", 400, "unreadable"),
        ("POST", f"{HERE}/deployments", None, 422, "invalid"),
        ("POST", f"{HERE}/deployments", [], 422, "invalid"),
        ("POST", f"{HERE}/deployments", {"forced": True}, 422, "invalid"),
        ("POST", f"{HERE}/deployments", {"force": "yes"}, 422, "invalid"),
        ("POST", f"{HERE}/deployments", {"ref": "main"}, 409, "not-possible"),
        ("POST", f"{HERE}/deployments", {"ref": "a\x00"}, 422, "invalid"),
        ("POST", f"{HERE}/lock", {"reason": "\ud800"}, 422, "invalid"),
        ("GET", "/deployments?project=%00", None, 422, "invalid"),
        ("GET", "/deployments?projects=acme", None, 422, "invalid"),
        ("GET", "/token?x=", None, 422, "invalid"),
        ("GET", "/deployments?cursor=99999999999999999999", None, 422, "invalid"),
        ("POST", f"{HERE}/deployments", b" " * (gate.MOST_BYTES + 1), 413, "too-large"),
    ],
)
def test_what_goes_wrong_is_a_problem(
    production: Environment, full: str, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    problem = is_problem(call(full, method, path, body), status, kind)
    if status == 422 and "forced" in str(body):
        assert problem["errors"] == [{"where": "body.forced", "message": "Extra inputs are not permitted"}]


def test_a_method_that_is_not_there_names_those_that_are(full: str) -> None:
    assert call(full, "PUT", "/projects").headers["Allow"] == "GET"


def test_a_key_that_is_none_is_refused(production: Environment, full: str) -> None:
    for key in ("", "a b", "x" * 256):
        is_problem(call(full, "POST", f"{HERE}/deployments", {}, Idempotency_Key=key), 422, "invalid")
    assert not Deployment.objects.exists()


def test_a_database_that_is_away_and_a_defect_are_problems_too(
    production: Environment, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> Any:
        def raise_it(*_: Any, **__: Any) -> None:
            raise error

        return raise_it

    monkeypatch.setattr(tokens, "find", fails(OperationalError("canary")))
    away = call(full, "GET", "/projects")
    is_problem(away, 503, "unavailable")
    assert away.headers["Retry-After"] == "30"
    monkeypatch.setattr(tokens, "find", fails(ZeroDivisionError("canary")))
    assert b"canary" not in away.content
    assert "canary" not in str(is_problem(call(full, "GET", "/projects"), 500, "defect"))


def test_a_wrong_host_name_is_a_problem_that_says_so(full: str) -> None:
    assert "host name" in is_problem(call(full, "GET", "/projects", Host="evil.example"), 400, "unreadable")["detail"]


def test_what_the_portal_shows_elsewhere_stays_a_page(db: None) -> None:
    assert Client().get("/apiary").headers["Content-Type"].startswith("text/html")
