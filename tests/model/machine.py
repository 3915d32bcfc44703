"""What may happen, in any order: pushes, people, clients, workers, the clock, and what goes wrong meanwhile."""

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from django.db import connection
from django.test import Client
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployments import control, services
from deployments.models import Deployment
from deployments.services import NotPossible, Who
from deployments.states import ACTIVE, Trigger
from instances.models import Instance
from projects.models import Environment, Project
from tests import factories
from tests.model.acts import ACTS, INTERRUPTIONS, KINDS, SETTINGS
from tests.model.repository import NO_BUILD, NO_UPDATE, SICK, Repository
from tests.model.truth import Truth
from tests.model.world import Outage, World

BREAKS = {NO_BUILD: "images.build", NO_UPDATE: "containers.run", SICK: "containers.exec"}
"""The verb that a kind of commit fails in."""
ENDS: Counter[str] = Counter()
"""How the deployments of all examples ended."""
GRACE = Who("grace")
GIT_HOST = Client()
TABLES = ("deployments", "instances", "projects")


class Model(RuleBasedStateMachine):
    """Two environments of Acme on one server: production, and staging beside it."""

    world: ClassVar[World]
    repository: ClassVar[Repository]

    def __init__(self) -> None:
        super().__init__()
        _wipe()
        self.world.restart()
        self.world.sick = self._sick
        self.repository.start()
        self.highest = 0
        self.bodies: list[tuple[str, bytes]] = []
        self.broken = False
        self.settled = -1

    @initialize(staging=st.booleans(), live=st.booleans(), far=st.booleans())
    def begin(self, staging: bool, live: bool, far: bool) -> None:
        self.world.far = far
        project = factories.project(repository_url=self.repository.url, health_deadline=30)
        self.environments = [factories.environment(project=project)]
        if staging:
            self.environments.append(
                factories.environment(project=project, name="Staging", slug="staging", kind="staging", branch="staging")
            )
        self.truth = Truth(self.world, self.environments)
        if live:
            for environment in self.environments:
                services.request_deployment(environment, Trigger.MANUAL, GRACE)
            self._work_off()

    # What happens

    @rule(act=ACTS, interruptions=INTERRUPTIONS)
    def somebody(self, act: tuple[Any, ...], interruptions: dict[int, tuple[Any, ...]]) -> None:
        self._guarded(lambda: self.world.run(lambda: self.do(act), self._interruptions(interruptions)))

    @rule(kind=KINDS, interruptions=INTERRUPTIONS)
    def push_meets_a_worker(self, kind: str, interruptions: dict[int, tuple[Any, ...]]) -> None:
        def act() -> None:
            self.world.run(lambda: self._push("main", kind))
            waiting = [place for place in self.world.jobs() if place[0] == "deployments"]
            if waiting:
                self.world.work(*waiting[-1], self._interruptions(interruptions))

        self._guarded(act)

    @rule(place=st.integers(0, 5), keep=st.booleans(), interruptions=INTERRUPTIONS)
    @precondition(lambda self: bool(self.world.jobs()))
    def worker(self, place: int, keep: bool, interruptions: dict[int, tuple[Any, ...]]) -> None:
        self._guarded(lambda: self._work(place, keep, interruptions))

    @rule(interruptions=INTERRUPTIONS, late=st.booleans())
    def clock(self, interruptions: dict[int, tuple[Any, ...]], late: bool) -> None:
        if late:
            self.world.pass_time(45)
        self._guarded(lambda: self.world.clock(self._interruptions(interruptions)))

    @rule()
    @precondition(lambda self: self.settled != self.world.changes)
    def everything_settles(self) -> None:
        self._guarded(self.settle)

    @invariant()
    def holds(self) -> None:
        if not self.broken and hasattr(self, "truth"):
            self._guarded(self.truth.check)

    def teardown(self) -> None:
        if not self.broken and hasattr(self, "truth"):
            self.settle()
            self.next_push_goes_live()
            ENDS.update(Deployment.objects.values_list("status", flat=True))
            ENDS["points"] = max(ENDS["points"], self.world.most_points)

    def _guarded(self, act: Callable[[], object]) -> None:
        self.broken = True
        act()
        self.broken = False

    def _work(self, place: int, keep: bool = False, interruptions: dict[int, tuple[Any, ...]] | None = None) -> None:
        waiting = self.world.jobs()
        if waiting:
            queue, at = waiting[place % len(waiting)]
            self.world.work(queue, at, self._interruptions(interruptions or {}), keep=keep)

    def _interruptions(self, drawn: dict[int, tuple[Any, ...]]) -> dict[int, Callable[[], None]]:
        return {point: self._interruption(act) for point, act in drawn.items()}

    def _interruption(self, act: tuple[Any, ...]) -> Callable[[], None]:
        if act == ("die",):
            return self.world.die

        def happen() -> None:
            if act == ("hold_up",):
                self.world.hold_up(self._others_take_over)
            elif act[0] in ("clock", "work"):
                self.world.live_on(lambda: self.do(act))
            else:
                self.world.live_on(lambda: self.world.run(lambda: self.do(act)) and None)

        happen.anywhere = act != ("hold_up",)  # type: ignore[attr-defined]
        return happen

    def _others_take_over(self) -> None:
        self.world.clock()
        for queue, place in reversed(self.world.jobs()):
            if self.world.queues.jobs[queue][place][0] == "recover_deployment":
                self.world.work(queue, place)

    # Each of it

    def do(self, act: tuple[Any, ...]) -> None:
        name, *arguments = act
        with suppress(NotPossible):
            getattr(self, f"_{name}")(*arguments)

    def environment(self, place: int) -> Environment:
        chosen = self.environments[place % len(self.environments)]
        return Environment.objects.select_related("project", "server").get(pk=chosen.pk)

    def _push(self, branch: str, kind: str) -> None:
        line = self.repository.line
        for place in range(self.highest + 1, len(line) - 1):
            if line[place].kind == kind:
                self.highest = self.repository.branches[branch] = place
                self._deliver(branch, line[place].commit.sha, f"d-{len(self.bodies)}")
                return

    def _deliver(self, branch: str, sha: str, delivery: str) -> None:
        body = {"ref": f"refs/heads/{branch}", "before": "1" * 40, "after": sha, "deleted": False, "commits": []}
        encoded = json.dumps(body | {"pusher": {"name": "ann"}, "repository": {"full_name": "acme/addons"}}).encode()
        self.bodies.append((delivery, encoded))
        self._send(delivery, encoded)

    def _redeliver(self, number: int, again: bool) -> None:
        if self.bodies:
            delivery, body = self.bodies[-1 - number % len(self.bodies)]
            self._send(delivery if again else f"{delivery}-replayed", body)

    def _send(self, delivery: str, body: bytes) -> None:
        secret = Project.objects.get().webhook_secret
        signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"x-github-event": "push", "x-github-delivery": delivery, "x-hub-signature-256": signature}
        answer = GIT_HOST.generic("POST", "/webhooks/github/acme/", body, "application/json", headers=headers)
        assert answer.status_code in (200, 202), answer.content

    def _deploy(self, place: int, forced: bool) -> None:
        services.request_deployment(self.environment(place), Trigger.MANUAL, GRACE, forced=forced)

    def _cancel(self, place: int) -> None:
        active = Deployment.objects.filter(environment=self.environment(place), status__in=ACTIVE).first()
        if active:
            services.cancel(active, GRACE)

    def _roll_back(self, place: int, with_data: bool) -> None:
        services.roll_back(self.environment(place), GRACE, with_data=with_data)

    def _retry(self, place: int) -> None:
        failed = services.broken_by(self.environment(place))
        if failed:
            services.retry_rollback(failed, GRACE)

    def _set(self, place: int, name: str, number: int) -> None:
        environment = self.environment(place)
        setattr(environment, name, SETTINGS[name][number % len(SETTINGS[name])])
        environment.save(update_fields=[name])

    def _control(self, place: int, verb: str) -> None:
        instance = self.environment(place).instances.first()
        if instance:
            control.request(instance, verb)

    def _write(self, place: int) -> None:
        self.truth.write(self.environment(place))

    def _scheduled_action(self, place: int) -> None:
        self.truth.scheduled_action(self.environment(place))

    def _outage(self, part: str, times: int) -> None:
        self.world.outage = Outage(part, times)

    def _redis_away(self, times: int) -> None:
        self.world.redis_away = times

    def _redis_lost(self) -> None:
        for jobs in self.world.queues.jobs.values():
            jobs.clear()

    def _wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def _clock(self) -> None:
        self.world.clock()

    def _sick(self, verb: str, name: str) -> str:
        """What a verb fails with because of the commit that it works on."""
        if verb != "images.build":
            number = re.search(r"-d(\d+)$", name)
            images = Deployment.objects.values_list("image", flat=True)
            name = (number and images.filter(pk=number[1]).first()) or ""
        sha = name.rpartition(":")[2].partition("-")[0]
        place = self.repository.place.get(sha)
        breaks = place is not None and BREAKS.get(self.repository.line[place].kind) == verb
        return f"{verb} of a bad commit" if breaks else ""

    # In the end

    def _work_off(self) -> None:
        for _ in range(200):
            if not self.world.jobs():
                return
            self._work(0)
        raise AssertionError("the jobs never end")

    def settle(self) -> None:
        """Everything is back, and the workers and the clock do what they always do."""
        self.world.outage, self.world.redis_away = None, 0
        self._come_to_rest()
        failed = [one for one in map(services.broken_by, self.environments) if one]
        for one in failed:
            services.retry_rollback(one, GRACE)
        if failed:
            self._come_to_rest()
            assert not any(map(services.broken_by, self.environments)), "a rollback that can't be done even now"
        self.truth.check_settled(swept=False)
        self.settled = self.world.changes

    def _come_to_rest(self) -> None:
        for _ in range(30):
            self._work_off()
            if not self._at_work():
                return
            self.world.pass_time(45)
            self.world.clock()
        at_work = [f"{one} {one.status}" for one in Deployment.objects.filter(status__in=ACTIVE)]
        raise AssertionError(f"it never settles: {at_work} {list(Instance.objects.values_list('slug', 'state'))}")

    def _at_work(self) -> bool:
        return (
            bool(self.world.jobs())
            or Deployment.objects.filter(status__in=ACTIVE).exists()
            or Instance.objects.filter(state=Instance.State.RESTARTING).exists()
            or any(one.busy for one in Environment.objects.all())
        )

    def next_push_goes_live(self) -> None:
        last = len(self.repository.line) - 1
        sha = self.repository.line[last].commit.sha
        Environment.objects.update(auto_deploy=True, branch="main")
        self.repository.branches["main"] = last
        self._deliver("main", sha, "d-last")
        self._come_to_rest()
        for environment in self.environments:
            live = Deployment.objects.filter(environment=environment, live=True).first()
            newest = Deployment.objects.filter(environment=environment).first()
            went = live is not None and live.commit == sha
            assert went, (
                f"the next good push did not go live in {environment}: {newest}, "
                f"{newest and newest.status}, {newest and newest.error} {newest and newest.detail}"
            )
        self.truth.check_settled(swept=True)


def _wipe() -> None:
    """An empty portal, whose rows are numbered from 1 again."""
    tables = [name for name in connection.introspection.table_names() if name.startswith(TABLES)]
    with connection.constraint_checks_disabled(), connection.cursor() as cursor:
        for name in (*tables, "sqlite_sequence"):
            cursor.execute(f"DELETE FROM {name}")  # noqa: S608 - names of our own tables
