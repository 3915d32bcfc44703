"""The keeper on a simulated server: what should run is brought back, and what somebody stopped stays stopped."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.utils import timezone

from deployments import (
    attention,
    claims,
    control,
    edges,
    jobs,
    keeper,
    looks,
    pipeline,
    probes,
    recovery,
    services,
    serving,
)
from deployments.bring_back import bring_back
from deployments.condition import State, conditions
from deployments.configuration import freeze
from deployments.keeper import repairs
from deployments.keeper.instances import RESTART_AGAIN
from deployments.models import Deployment
from deployments.states import Status, Trigger
from instances import doors, incidents
from instances.models import Door, HealthCheck, Incident, Instance
from instances.runtimes import runtime_for
from instances.runtimes.base import Answer, Colour, DatabaseError, RunFailed, ServerUnreachable
from instances.runtimes.simulated import Faults
from projects.models import Environment, Server
from tests import factories
from tests.acme import ADA, Client, running
from tests.conftest import Queues

pytestmark = pytest.mark.django_db
Outcome = Incident.Outcome
PAUSES = [*incidents.PAUSES, incidents.PAUSES[-1]]
"""After each attempt."""
POSTGRES, EDGE = "simulated-postgres", "simulated-edge"


@pytest.fixture
def live(queues: Queues, faults: Faults) -> Instance:
    """Acme's production, live with plain Odoo, without the time that a deployment takes."""
    made = go_live(factories.environment(branch=""))
    faults.calls.clear()
    return made


def go_live(environment: Environment) -> Instance:
    now = timezone.now() - timedelta(minutes=1)
    runtime = runtime_for(environment.server)
    runtime.prepare(quiet)
    image = runtime.images.ensure_base("odoo:19.0", quiet)
    runtime.databases.create(environment.database, environment.database)
    deployment = factories.deployment(
        environment, ref="", live=True, live_at=now, image=image.reference, image_id=image.id
    )
    instances = list(environment.instances.all())
    for spec in serving.containers(deployment, freeze(deployment), instances, runtime):
        runtime.containers.create(spec)
        runtime.containers.start(spec.name)
    [instance] = instances
    instance.become(Instance.State.RUNNING, now, container=instance.container_for(deployment.pk))
    runtime.containers.join_edge(instance.container, instance.alias)
    doors.ensure_routes(environment.server, runtime, quiet)
    doors.lead(environment, runtime)
    return instance


def is_open(environment: Environment) -> bool:
    found = runtime_for(environment.server).edge.doors()
    return any(one.alias in found for one in environment.instances.all())


def deploy(environment: Environment, queues: Queues) -> Deployment:
    deployment = services.request_deployment(environment, Trigger.MANUAL, ADA, forced=True)
    queues.run_all()
    deployment.refresh_from_db()
    assert deployment.status == Status.SUCCEEDED
    return deployment


def quiet(_: str) -> None:
    pass


def server_of(instance: Instance) -> Any:
    return runtime_for(instance.environment.server)


def stop(instance: Instance) -> None:
    """As `docker stop` by hand."""
    server_of(instance).containers.stop(instance.container)


def let_pass(seconds: float) -> None:
    """All that the rows remember was so much longer ago."""
    gone = timedelta(seconds=seconds)
    for incident in Incident.objects.all():
        for name in ("noticed_at", "attempted_at", "next_attempt_at", "ended_at"):
            moment = getattr(incident, name)
            setattr(incident, name, moment - gone if moment else None)
        incident.save()


def simulate(instance: Instance, name: str, **fields: Any) -> None:
    """What happens on the server without a verb of ours."""
    file = Path(django_settings.STATE_DIR) / "simulated" / f"{instance.environment.server.slug}.json"
    state = json.loads(file.read_text())
    state["containers"][name] |= fields
    file.write_text(json.dumps(state))


def calls(faults: Faults, *verbs: str) -> list[str]:
    return [call for call in faults.calls if call.startswith(verbs)]


def serves(instance: Instance) -> bool:
    return Client(instance.environment).write("order")


def test_nothing_happens_where_everything_runs(live: Instance, faults: Faults) -> None:
    faults.calls.clear()
    keeper.keep()
    assert not Incident.objects.exists()
    assert not calls(faults, "containers.start", "containers.create", "edge", "prepare")


def test_a_container_that_was_stopped_by_hand_runs_again_and_the_incident_is_on_record(live: Instance) -> None:
    stop(live)

    keeper.keep()

    assert serves(live)
    live.refresh_from_db()
    assert live.state == Instance.State.FAILED, "it was started, and not seen healthy yet"
    assert f"{live.container} does not run (exited)" in live.problem
    keeper.keep()
    incident = Incident.objects.get()
    assert (incident.outcome, incident.attempts, incident.instance) == (Outcome.BROUGHT_BACK, 1, live)
    assert incident.environment == live.environment
    assert incident.detail
    live.refresh_from_db()
    assert (live.state, live.problem) == (Instance.State.RUNNING, "")
    assert not live.environment.busy


def test_a_container_that_was_removed_is_made_anew_as_it_was_deployed(live: Instance, faults: Faults) -> None:
    client = Client(live.environment)
    client.write("before")
    labels = server_of(live).containers.find(live.container).labels
    Environment.objects.update(workers=4)  # takes effect at the next deployment only
    server_of(live).containers.remove(live.container)

    keeper.keep()

    assert client.write("after")
    assert client.found == ["before", "after"]
    assert server_of(live).containers.find(live.container).labels == labels
    keeper.keep()
    assert Incident.objects.get().seen == f"Its container {live.container} is gone."
    assert Incident.objects.get().outcome == Outcome.BROUGHT_BACK


def test_one_made_anew_has_the_settings_that_the_live_deployment_froze(
    live: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    containers = type(server_of(live).containers)
    create = containers.create
    monkeypatch.setattr(containers, "create", lambda self, spec: made.append(spec) or create(self, spec))
    Environment.objects.update(workers=4, memory_limit=2**33)
    server_of(live).containers.remove(live.container)

    keeper.keep()

    [spec] = made
    assert spec.memory_bytes == django_settings.OCORE_DEFAULTS["memory_limit"]
    config = next(file.content.decode() for file in spec.files if file.path.endswith(".conf"))
    assert "workers = 0" in config
    assert spec.image == Deployment.objects.get(live=True).image


def test_a_container_that_cannot_be_started_is_made_anew(live: Instance, faults: Faults) -> None:
    stop(live)

    def paused(*_: Any) -> None:
        faults.raised.clear()
        raise RunFailed("The engine could not start it.", detail="cannot start a paused container")

    faults.raised["containers.start"] = paused
    keeper.keep()

    assert calls(faults, "containers.remove")
    assert serves(live)


def test_without_its_image_it_is_given_up_at_once_with_what_to_do(live: Instance) -> None:
    server_of(live).images.remove(Deployment.objects.get().image)
    server_of(live).containers.remove(live.container)

    keeper.keep()

    incident = Incident.objects.get()
    assert incident.given_up
    assert "is not on Sim" in incident.problem
    assert "again with force" in incident.advice
    live.refresh_from_db()
    assert "again with force" in live.problem


def test_without_its_database_it_is_not_started_on_nothing(live: Instance, faults: Faults) -> None:
    server_of(live).databases.drop(live.environment.database)
    server_of(live).containers.remove(live.container)
    faults.calls.clear()

    keeper.keep()

    assert Incident.objects.get().given_up
    assert "start_over" in Incident.objects.get().advice
    assert not calls(faults, "containers.create")


def test_what_a_person_stopped_stays_stopped(live: Instance, queues: Queues, faults: Faults) -> None:
    control.request(live, "stop")
    queues.run_all()
    faults.calls.clear()

    keeper.keep()

    assert running(live.environment) == []
    assert not Incident.objects.exists()


def test_a_stop_whose_worker_died_is_still_a_stop(live: Instance, faults: Faults) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    live.become(Instance.State.RESTARTING, timezone.now())
    stop(live)
    long_ago = timezone.now() - timedelta(hours=1)
    Environment.objects.update(busy_with=f"stop of {live}", busy_until=long_ago)
    Instance.objects.update(state_since=long_ago)

    recovery.reconcile()
    keeper.keep()

    live.refresh_from_db()
    assert live.state == Instance.State.STOPPED
    assert running(live.environment) == []


@pytest.mark.parametrize("why", ["deployment", "door", "claim", "removal", "never live"])
def test_where_somebody_is_at_work_nothing_is_touched(why: str, live: Instance, faults: Faults) -> None:
    environment, now = live.environment, timezone.now()
    stop(live)
    match why:
        case "deployment":
            factories.deployment(environment, status=Status.RUNNING, heartbeat_at=now)
        case "door":
            Door.objects.create(environment=environment, server=environment.server, holder="ada", closed_at=now)
        case "claim":
            Environment.objects.update(busy_with="restart", busy_until=now + timedelta(minutes=1))
        case "removal":
            Environment.objects.update(removing_since=now)
        case "never live":
            Deployment.objects.update(live=False)
    faults.calls.clear()

    keeper.keep()

    assert not calls(faults, "containers", "edge", "prepare")
    assert not Incident.objects.exists()


def test_what_make_down_stopped_is_brought_back_by_make_up_only(live: Instance) -> None:
    Server.objects.update(stopped_at=timezone.now())
    stop(live)
    for part in (EDGE, POSTGRES):
        server_of(live).containers.stop(part)

    keeper.keep()
    assert running(live.environment) == []

    assert bring_back(live.environment.server, print) == [str(live)]
    keeper.keep()
    assert serves(live)
    assert not Incident.objects.exists()
    assert Server.objects.get().stopped_at is None


def test_a_deployment_that_begins_between_the_look_and_the_act_wins(
    live: Instance, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(live)
    claimed = claims.require_free

    def begin(environment: Environment, **despite: bool) -> None:
        factories.deployment(environment, status=Status.RUNNING, heartbeat_at=timezone.now())
        claimed(environment, **despite)

    monkeypatch.setattr(claims, "require_free", begin)
    faults.calls.clear()

    keeper.keep()

    assert not calls(faults, "containers")
    assert not Incident.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_container_that_was_replaced_between_the_look_and_the_act_is_no_incident(
    live: Instance, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = looks._containers(live.environment.server)
    deploy(live.environment, queues)
    monkeypatch.setattr(looks, "_containers", lambda server: before)

    keeper.keep()

    assert not Incident.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_no_deployment_begins_while_a_container_is_brought_back(live: Instance, faults: Faults, queues: Queues) -> None:
    stop(live)
    waited: list[str] = []

    def begin(*_: Any) -> None:
        faults.raised.clear()
        queued = services.request_deployment(live.environment, Trigger.PUSH, ADA, forced=True)
        with pytest.raises(pipeline.Busy):
            pipeline.run(queued.pk)
        waited.append(queued.status)

    faults.raised["containers.start"] = begin
    keeper.keep()
    queues.run_all()

    assert waited == [Status.QUEUED]
    assert Deployment.objects.first().status == Status.SUCCEEDED, "it was handed on when the keeper had ended"


def test_a_keeper_whose_claim_was_taken_does_nothing_more(live: Instance, faults: Faults) -> None:
    server_of(live).containers.remove(live.container)

    def overtaken(*_: Any) -> None:
        Environment.objects.update(busy_with="somebody else", busy_until=timezone.now() + timedelta(minutes=5))
        faults.calls.clear()

    faults.raised["containers.create"] = overtaken
    keeper.keep()

    assert not calls(faults, "containers.start", "containers.join_edge")
    assert Environment.objects.get(pk=live.environment_id).busy_with == "somebody else", "nor did it end the other's"


def test_a_keeper_that_was_killed_leaves_nothing_stuck(live: Instance, faults: Faults) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    stop(live)
    faults.raised["containers.join_edge"] = die
    with pytest.raises(KeyboardInterrupt):
        keeper.keep()
    # So it would be after kill -9: nobody has released the claim.
    Environment.objects.update(busy_with="keeping it", busy_until=timezone.now() - timedelta(seconds=1))
    faults.raised.clear()

    keeper.keep()

    assert Incident.objects.get().outcome == Outcome.BROUGHT_BACK
    assert serves(live)


def test_two_keepers_make_one_attempt(live: Instance) -> None:
    incident = incidents.notice(Incident.Part.EDGE, live.environment.server, "It is gone.")
    other = Incident.objects.get()

    assert incidents.attempt(incident)
    assert not incidents.attempt(other)
    assert incidents.notice(Incident.Part.EDGE, live.environment.server, "It is gone.") == incident


def test_one_that_keeps_dying_is_given_up_loudly_after_growing_pauses(
    live: Instance, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    for attempt, pause in enumerate(PAUSES, start=1):
        stop(live)
        keeper.keep()
        assert Incident.objects.get().attempts == attempt
        stop(live)
        keeper.keep()
        assert Incident.objects.get().attempts == attempt, "not before the pause is over"
        let_pass(pause)
    faults.calls.clear()

    keeper.keep()

    incident = Incident.objects.get()
    assert incident.given_up
    assert incident.attempts == incidents.LIMIT
    assert not calls(faults, "containers.start")
    assert any(record.levelname == "CRITICAL" for record in caplog.records)
    assert attention.given_up() == [incident]
    live.refresh_from_db()
    assert live.state == Instance.State.FAILED
    assert "given up" in live.problem
    [condition] = conditions([live.environment])
    assert condition.state == State.DOWN
    assert condition.given_up == incident


def test_what_is_seen_later_does_not_hide_the_first_cause(live: Instance) -> None:
    server = live.environment.server
    first = incidents.notice(Incident.Part.EDGE, server, "Its container was killed.", detail="the first lines")
    incidents.attempt(first)
    incidents.end(first)

    again = incidents.notice(Incident.Part.EDGE, server, "Its container is gone.", detail="the later lines")

    assert again.pk == first.pk
    assert again.seen.startswith("Its container was killed. Then, at ")
    assert again.seen.endswith(" UTC: Its container is gone.")
    assert again.detail == "the first lines\nthe later lines"


def test_one_that_is_healthy_in_between_and_dies_again_soon_is_the_same_incident(live: Instance) -> None:
    stop(live)
    keeper.keep()
    keeper.keep()
    assert Incident.objects.get().outcome == Outcome.BROUGHT_BACK
    let_pass(60)

    stop(live)
    keeper.keep()

    assert Incident.objects.get().attempts == 2
    keeper.keep()
    let_pass(incidents.WINDOW.total_seconds())
    stop(live)
    keeper.keep()
    assert [one.attempts for one in Incident.objects.all()] == [1, 2], "much later it is another one"


def test_an_attempt_that_fails_is_told_and_made_again(live: Instance, faults: Faults) -> None:
    stop(live)
    faults.raised["containers.join_edge"] = RunFailed("The engine could not connect it.", advice="Look at it.")

    keeper.keep()

    incident = Incident.objects.get()
    assert (incident.outcome, incident.problem) == (Outcome.OPEN, "The engine could not connect it.")
    faults.raised.clear()
    stop(live)
    let_pass(incidents.PAUSES[0])
    keeper.keep()
    keeper.keep()
    incident.refresh_from_db()
    assert (incident.outcome, incident.attempts, incident.problem) == (Outcome.BROUGHT_BACK, 2, "")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("by", ["person", "deployment", "docker start"])
def test_what_was_given_up_is_over_when_it_is_seen_healthy_again(by: str, live: Instance, queues: Queues) -> None:
    stop(live)
    keeper.keep()
    stop(live)
    incidents.give_up(Incident.objects.get(), "It died.", "Look.")
    keeper.keep()
    assert running(live.environment) == []

    if by == "person":
        control.request(Instance.objects.get(), "start")
        queues.run_all()
    elif by == "deployment":
        deploy(live.environment, queues)
    else:
        server_of(live).containers.start(live.container)
    keeper.keep()

    incident = Incident.objects.get()
    assert incident.ended_at
    assert incident.outcome == Outcome.GIVEN_UP
    assert attention.given_up() == []
    live.refresh_from_db()
    assert (live.state, live.problem) == (Instance.State.RUNNING, "")


def test_what_is_stopped_by_a_person_meanwhile_is_no_incident_any_more(live: Instance, queues: Queues) -> None:
    stop(live)
    keeper.keep()
    control.request(Instance.objects.get(), "stop")
    queues.run_all()

    keeper.keep()

    assert Incident.objects.get().ended_at
    assert running(live.environment) == []


def test_one_that_the_engine_started_again_itself_is_on_record_once(live: Instance) -> None:
    started = timezone.now().isoformat()
    simulate(live, live.container, restarts=1, started_at=started)

    keeper.keep()
    keeper.keep()

    incident = Incident.objects.get()
    assert (incident.outcome, incident.attempts) == (Outcome.BROUGHT_BACK, 1)
    assert "ended by itself; the engine started it again" in incident.seen


def test_starts_before_it_went_live_are_no_incident(live: Instance) -> None:
    simulate(live, live.container, restarts=2, started_at=(timezone.now() - timedelta(hours=1)).isoformat())
    keeper.keep()
    assert not Incident.objects.exists()


def test_one_that_its_engine_starts_again_and_again_is_given_up(live: Instance, faults: Faults) -> None:
    for count in range(incidents.LIMIT + 1):
        started = (timezone.now() + timedelta(seconds=count)).isoformat()
        simulate(live, live.container, state="restarting", restarts=count + 1, started_at=started)
        faults.calls.clear()
        keeper.keep()
        let_pass(max(incidents.PAUSES))

    assert Incident.objects.get().given_up
    assert not calls(faults, "containers.start"), "that is the engine's"


@pytest.mark.parametrize("part", [POSTGRES, EDGE])
@pytest.mark.parametrize("gone", [True, False])
def test_postgres_and_the_edge_come_back(part: str, gone: bool, live: Instance) -> None:
    containers = server_of(live).containers
    (containers.remove if gone else containers.stop)(part)
    assert conditions([live.environment])[0].state == State.UP

    keeper.keep()

    assert containers.find(part).running
    assert serves(live)
    incident = Incident.objects.get()
    assert incident.outcome == Outcome.BROUGHT_BACK
    assert incident.instance is None
    assert incident.subject == ("PostgreSQL of Sim (simulated)" if part == POSTGRES else "Edge of Sim (simulated)")


def test_an_edge_that_lost_its_volume_gets_its_routes_and_open_doors_back_and_a_closed_one_stays_closed(
    live: Instance,
) -> None:
    staging = go_live(factories.environment(name="Staging", slug="staging", kind="staging")).environment
    doors.close(staging, server_of(live), holder="ada")
    edge = server_of(live).edge
    server_of(live).containers.remove(EDGE)
    Door.objects.update(at_work=False)
    edge.apply([], quiet)
    edge.close(doors.upstreams(live.environment))

    keeper.keep()

    assert edge.serves(doors.routes(live.environment.server))
    assert serves(live)
    assert not is_open(staging)


def test_a_door_is_not_opened_under_a_deployment_and_is_looked_at_again(live: Instance) -> None:
    edge = server_of(live).edge
    server_of(live).containers.remove(EDGE)
    edge.close(doors.upstreams(live.environment))
    underway = factories.deployment(live.environment, status=Status.RUNNING, heartbeat_at=timezone.now())

    keeper.keep()

    assert not is_open(live.environment)
    assert Incident.objects.get().outcome == Outcome.OPEN
    Deployment.objects.filter(pk=underway.pk).update(status=Status.FAILED)
    let_pass(incidents.PAUSES[0])
    keeper.keep()
    assert serves(live)
    assert Incident.objects.get().outcome == Outcome.BROUGHT_BACK


def test_instances_wait_for_postgres_and_it_is_given_up_loudly(live: Instance, faults: Faults) -> None:
    stop(live)
    server_of(live).containers.stop(POSTGRES)
    faults.raised["prepare"] = DatabaseError("PostgreSQL does not answer.", advice="Look at its log.")
    for pause in PAUSES:
        keeper.keep()
        let_pass(pause)
    keeper.keep()

    incident = Incident.objects.get()
    assert incident.given_up
    assert incident.problem == "PostgreSQL does not answer."
    assert "What should run" in incident.advice
    assert running(live.environment) == [], "an Odoo without PostgreSQL is of no use"
    assert conditions([live.environment])[0].state == State.DOWN
    faults.raised.clear()

    server_of(live).prepare(quiet)
    keeper.keep()

    incident.refresh_from_db()
    assert incident.ended_at
    assert serves(live)


def test_an_engine_that_does_not_answer_is_told_after_a_while_and_the_other_servers_are_kept(
    live: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = factories.server(slug="away", name="Away", edge_port=9999)
    other = factories.environment(server=away, name="Away", slug="away")
    factories.deployment(other, live=True)
    stop(live)
    containers = looks._containers

    def look(server: Server) -> Any:
        if server == away:
            raise ServerUnreachable("The engine of away does not answer.")
        return containers(server)

    with monkeypatch.context() as patched:
        patched.setattr(looks, "_containers", look)
        keeper.keep()
        assert serves(live)
        incident = Incident.objects.get(part=Incident.Part.ENGINE)
        assert incident.outcome == Outcome.OPEN
        let_pass(keeper.ENGINE_SECONDS)
        keeper.keep()
        incident.refresh_from_db()
        assert incident.given_up
    keeper.keep()
    incident.refresh_from_db()
    assert incident.ended_at


def silent(instance: Instance, *, since: float = 200, faults: Faults) -> None:
    """It runs, and from outside nothing was answered for so many seconds."""
    faults.unhealthy[instance.container] = Answer(502, "Bad gateway")
    HealthCheck.objects.all().delete()
    for back in (since, since / 2, 0):
        moment = timezone.now() - timedelta(seconds=back)
        HealthCheck.objects.create(environment=instance.environment, checked_at=moment, ok=False, status=502)
    simulate(instance, instance.container, started_at=(timezone.now() - timedelta(days=1)).isoformat())
    Instance.objects.update(state=Instance.State.FAILED)


def test_one_that_runs_and_does_not_answer_is_restarted_once(live: Instance, faults: Faults) -> None:
    silent(live, faults=faults)

    keeper.keep()

    assert len(calls(faults, f"containers.stop {live.container}")) == 1
    incident = Incident.objects.get()
    assert incident.restarted
    assert "has not answered since" in incident.seen
    faults.unhealthy.clear()
    keeper.keep()
    incident.refresh_from_db()
    assert incident.outcome == Outcome.BROUGHT_BACK


def test_a_slow_one_is_not_restarted_again_but_told(live: Instance, faults: Faults) -> None:
    silent(live, faults=faults)
    keeper.keep()
    faults.calls.clear()

    keeper.keep()
    let_pass(170)
    keeper.keep()
    assert Incident.objects.get().outcome == Outcome.OPEN, "a start may take its time"
    let_pass(20)
    keeper.keep()

    assert Incident.objects.get().given_up
    assert not calls(faults, "containers.stop")
    faults.unhealthy.clear()
    keeper.keep()
    assert Incident.objects.get().ended_at, "it was slow, not dead"

    silent(live, faults=faults)
    keeper.keep()
    assert attention.given_up()
    assert not calls(faults, "containers.stop"), "nor is it soon after that"

    incidents.end(attention.given_up()[0])
    let_pass(RESTART_AGAIN.total_seconds())
    keeper.keep()
    assert len(calls(faults, "containers.stop")) == 1, "much later it may be"


@pytest.mark.parametrize("but", ["not for long", "it was just started", "it answers now", "a probe in between did"])
def test_one_that_may_be_well_is_left_alone(but: str, live: Instance, faults: Faults) -> None:
    silent(live, faults=faults, since=60 if but == "not for long" else 200)
    if but == "it was just started":
        simulate(live, live.container, started_at=timezone.now().isoformat())
    if but == "it answers now":
        faults.unhealthy.clear()
    if but == "a probe in between did":
        HealthCheck.objects.filter(pk=HealthCheck.objects.all()[1].pk).update(ok=True)
    faults.calls.clear()

    keeper.keep()

    assert not calls(faults, "containers.stop", "containers.start")
    assert not Incident.objects.exists()


def test_one_that_does_not_answer_because_postgres_does_not_is_not_restarted(live: Instance, faults: Faults) -> None:
    silent(live, faults=faults)
    faults.calls.clear()
    faults.raised["databases.exists"] = DatabaseError("PostgreSQL does not answer.")

    keeper.keep()

    assert not calls(faults, "containers.stop")
    assert Incident.objects.get().problem == "PostgreSQL does not answer."


def test_one_that_only_the_edge_does_not_find_is_put_back_behind_it(live: Instance, faults: Faults) -> None:
    silent(live, faults=faults)
    faults.unhealthy.clear()
    simulate(live, live.container, alias="")
    faults.calls.clear()

    keeper.keep()

    assert serves(live)
    assert not calls(faults, "containers.stop")
    keeper.keep()
    assert Incident.objects.get().outcome == Outcome.BROUGHT_BACK


def test_the_probes_leave_an_instance_with_an_incident_to_the_keeper(live: Instance) -> None:
    """Another instance's answer doesn't make this one run."""
    stop(live)
    incident = incidents.notice(Incident.Part.INSTANCE, live.environment.server, "It is down.", instance=live)
    Instance.objects.update(state=Instance.State.FAILED, problem="It is down.")
    server_of(live).containers.start(live.container)

    probes.probe_all()
    live.refresh_from_db()
    assert live.problem == "It is down."

    incidents.end(incident)
    probes.probe_all()
    live.refresh_from_db()
    assert live.state == Instance.State.RUNNING


def test_an_incident_on_a_server_without_a_live_environment_is_over(live: Instance) -> None:
    incidents.give_up(incidents.notice(Incident.Part.EDGE, live.environment.server, "It is gone."), "no", "look")
    Deployment.objects.update(live=False)
    jobs.keep_running()
    assert Incident.objects.get().ended_at


def test_what_was_seen_holds_no_secret(live: Instance, faults: Faults) -> None:
    stop(live)
    faults.raised["containers.join_edge"] = RunFailed("postgresql://odoo:hunter2@db/acme refused")
    keeper.keep()
    live.refresh_from_db()
    assert "hunter2" not in Incident.objects.get().problem + live.problem


def test_a_container_that_was_never_started_is_made_anew_since_it_may_lack_its_configuration(
    live: Instance, faults: Faults
) -> None:
    simulate(live, live.container, state="created")
    faults.calls.clear()

    keeper.keep()

    name = live.container
    assert calls(faults, "containers.remove", "containers.create", "containers.start") == [
        f"containers.remove {name}",
        f"containers.create {name}",
        f"containers.start {name}",
    ]
    assert serves(live)


def test_a_part_that_somebody_starts_at_the_last_moment_is_not_removed(live: Instance, faults: Faults) -> None:
    runtime = server_of(live)
    runtime.containers.stop(POSTGRES)

    def start(*_: Any) -> None:
        faults.raised.clear()
        runtime.containers.start(POSTGRES)

    faults.raised["containers.remove"] = start
    repairs.remove_unless_running(runtime, POSTGRES)

    found = runtime.containers.find(POSTGRES)
    assert found
    assert found.running


def test_an_incident_that_another_makes_and_ends_in_the_same_instant_is_that_one(
    live: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = incidents.notice(Incident.Part.INSTANCE, live.environment.server, "It has exited.", instance=live)
    incidents.end(ended)

    def another_was_faster(**_: Any) -> Incident:
        raise IntegrityError

    monkeypatch.setattr(Incident.objects, "create", another_was_faster)
    found = incidents.notice(Incident.Part.INSTANCE, live.environment.server, "It has exited.", instance=live)
    assert found == ended
    assert not incidents.attempt(found)


class TestTheLookAtTheEdges:
    def test_doors_and_routes_that_somebody_changed_are_noticed_and_mended(self, live: Instance) -> None:
        edge = server_of(live).edge
        for harm in (
            lambda: edge.close(doors.upstreams(live.environment)),
            lambda: edge.open(doors.upstreams(live.environment), Colour(live.colour).other),
            lambda: edge.apply([], quiet),
        ):
            harm()
            assert not serves(live)

            edges.look_at_edges()
            let_pass(incidents.PAUSES[-1])
            keeper.keep()

            assert serves(live)
            incident = Incident.objects.latest("pk")
            assert (incident.part, incident.outcome) == (Incident.Part.EDGE, Outcome.BROUGHT_BACK)

    def test_all_that_is_right_is_left_alone(self, live: Instance) -> None:
        edges.look_at_edges()
        assert not Incident.objects.exists()

    @pytest.mark.parametrize("who", ["a deployment", "whoever holds the door closed"])
    def test_who_is_at_work_is_not_disturbed(self, live: Instance, who: str) -> None:
        if who == "a deployment":
            factories.deployment(live.environment, status=Status.RUNNING, heartbeat_at=timezone.now())
            server_of(live).edge.close(doors.upstreams(live.environment))
        else:
            doors.close(live.environment, server_of(live), holder="ada")

        edges.look_at_edges()

        assert not Incident.objects.exists()


def test_a_person_opens_a_door_that_stayed_closed(live: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    doors.close(live.environment, server_of(live), holder="a rollback that failed")
    call_command("open_door", live.environment.path)
    assert serves(live)
    assert not Door.objects.exists()


def test_a_door_is_not_opened_by_hand_while_somebody_is_at_work(live: Instance) -> None:
    doors.close(live.environment, server_of(live), holder="ada")
    factories.deployment(live.environment, status=Status.RUNNING, heartbeat_at=timezone.now())
    with pytest.raises(CommandError, match="is underway"):
        call_command("open_door", live.environment.path)
    assert not is_open(live.environment)
