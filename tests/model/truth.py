"""What must hold, judged from outside: the server's real state and the clients' ledger, not what the rows say of it."""

from dataclasses import dataclass, field
from typing import Any

from deployments.models import Deployment, Snapshot, Step
from deployments.states import ACTIVE, FINAL, FORWARD, UNDERWAY, Status, StepKind, StepStatus, Trigger
from instances.models import Door, Instance
from instances.odoo.versions import series, stored_version
from instances.runtimes.base import Colour
from instances.runtimes.simulated import serving
from projects.models import Environment
from tests.model.world import World

Ledger = list[str]


@dataclass
class Served:
    """What an environment went live with, the last time that it did."""

    deployment: int
    containers: set[str]
    modules: dict[str, Any]


class Rows:
    """What the portal's rows say, read at once."""

    def __init__(self) -> None:
        self.deployments = list(
            Deployment.objects.order_by("-pk").values_list(
                "pk", "environment_id", "status", "token", "live", "live_at", "switched_at", "finished_at", named=True
            )
        )
        self.snapshots = list(
            Snapshot.objects.values_list(
                "pk", "environment_id", "deployment_id", "state", "database", "label", named=True
            )
        )

    def of(self, environment: Environment) -> list[Any]:
        return [one for one in self.deployments if one.environment_id == environment.pk]

    def kept(self, environment: Environment, *states: str) -> list[Any]:
        return [one for one in self.snapshots if one.environment_id == environment.pk and one.state in states]


@dataclass
class Truth:
    """What is true of the environments, remembered beside the rows."""

    world: World
    environments: list[Environment]
    ledger: dict[int, Ledger] = field(default_factory=dict)
    """Environment -> writes that were accepted and that its data must have."""
    kept: dict[int, Ledger] = field(default_factory=dict)
    """Snapshot -> what its data must have."""
    served: dict[int, Served] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    statuses: dict[int, str] = field(default_factory=dict)
    writes: int = 0
    looked: int = -1
    """The world's changes when it was last looked at."""

    # What clients and Odoo do

    def write(self, environment: Environment) -> bool:
        """A client's write; accepted when an Odoo took it."""
        self.observe()
        self.writes += 1
        text = f"w{self.writes}"
        name = self._serving(environment)
        if not name:
            return False
        self._insert(name, text)
        self.ledger.setdefault(environment.pk, []).append(text)
        return True

    def scheduled_action(self, environment: Environment) -> None:
        """Every Odoo that runs writes by itself. What those of the live version wrote counts like a client's write."""
        self.observe()
        served = self.served.get(environment.pk)
        for name, container in self._odoos(environment).items():
            if container["state"] == "running" and container["database"] in self.world.server["databases"]:
                self.writes += 1
                counts = served is not None and name in served.containers
                self._insert(name, f"w{self.writes}" if counts else f"new{self.writes}")
                if counts:
                    self.ledger.setdefault(environment.pk, []).append(f"w{self.writes}")

    def _insert(self, container: str, text: str) -> None:
        database = self.world.server["databases"][self.world.server["containers"][container]["database"]]
        database["rows"].append(text)
        database["sequence"] += 1
        self.world.changes += 1

    def _serving(self, environment: Environment) -> str:
        server = self.world.server
        return serving(server, environment.hostname)

    def _is_open(self, environment: Environment) -> bool:
        return any(one.alias in self.world.server["open_doors"] for one in environment.instances.all())

    def _led_to(self, environment: Environment) -> set[str]:
        """Names at the edge that its doors lead to."""
        found = self.world.server["open_doors"]
        instances = [one for one in environment.instances.all() if one.alias in found]
        return {one.name_at_edge(Colour(found[one.alias])) for one in instances}

    def _odoos(self, environment: Environment) -> dict[str, Any]:
        return {
            name: one
            for name, one in self.world.server["containers"].items()
            if one["labels"].get("io.ocore.environment") == environment.key
        }

    def _rows(self, database: str) -> Ledger:
        return [row for row in self.world.server["databases"][database]["rows"] if row.startswith("w")]

    # After every step

    def observe(self) -> Rows:
        """Take notice of what has become true since the last look."""
        with self.world.unseen():
            rows = Rows()
        underway = {one.pk for one in rows.deployments if one.status in UNDERWAY}
        for snapshot in rows.snapshots:
            if snapshot.state == Snapshot.State.READY and snapshot.pk not in self.kept:
                self.kept[snapshot.pk] = list(self.ledger.get(snapshot.environment_id, []))
                if snapshot.deployment_id not in underway:  # else it may just be on its way back
                    self.require(snapshot.database in self.world.server["databases"], f"{snapshot.database} is there")
                if snapshot.database in self.world.server["databases"]:
                    found = self._rows(snapshot.database)
                    self.require(
                        found == self.kept[snapshot.pk],
                        f"{snapshot.database} has {found}, accepted were {self.kept[snapshot.pk]}",
                    )
        for environment in self.environments:
            newest = next((one for one in rows.of(environment) if one.switched_at), None)
            served = self.served.get(environment.pk)
            if newest and (served is None or served.deployment != newest.pk):
                self._switch(environment, Deployment.objects.get(pk=newest.pk))
        return rows

    def _switch(self, environment: Environment, newest: Deployment) -> None:
        if newest.restores_id:
            self.ledger[environment.pk] = list(self.kept[newest.restores_id])
        database = self.world.server["databases"][environment.database]
        stays = Step.objects.filter(deployment=newest, kind=StepKind.DEPLOY, status=StepStatus.SKIPPED).exists()
        if stays:
            containers = self.served[environment.pk].containers
        else:
            containers = {
                name
                for name, one in self._odoos(environment).items()
                if one["labels"].get("io.ocore.deployment") == str(newest.pk)
            }
            self.require(bool(containers), f"{newest} went live with containers of its own")
        for name in containers:
            one = self.world.server["containers"][name]
            self.require(stays or one["image"] == newest.image, f"{name} runs {one['image']} of {newest}")
        addon = newest.addons.get("acme_notes")
        policy = newest.configuration["environment"]["update_policy"]["value"]
        if addon and newest.trigger != Trigger.ROLLBACK and policy in ("changed", "version", "all"):
            wanted = stored_version(addon["version"], series("19.0"))
            found = database["modules"].get("acme_notes", ["", "absent"])[1]
            self.require(
                wanted == found, f"{newest} went live with acme_notes {found} in the data, {wanted} in the code"
            )
        self.served[environment.pk] = Served(newest.pk, containers, dict(database["modules"]))

    def check(self) -> None:
        """What holds at any time."""
        if self.looked == self.world.changes:
            return
        self.looked = self.world.changes
        rows = self.observe()
        for environment in self.environments:
            self._check_rows(rows.of(environment))
            self._check_served(environment)

    def _check_rows(self, rows: list[Any]) -> None:
        self.require(sum(one.status in UNDERWAY for one in rows) <= 1, "one underway")
        self.require(sum(one.status == Status.QUEUED for one in rows) <= 1, "one queued")
        self.require(sum(one.live for one in rows) <= 1, "one live")
        for one in rows:
            before = self.statuses.get(one.pk)
            self.require(one.token >= self.tokens.get(one.pk, 0), f"the token of #{one.pk} never falls")
            if before in FINAL - {Status.ROLLBACK_FAILED}:
                self.require(before == one.status, f"#{one.pk} was {before} and is {one.status}")
            self.tokens[one.pk], self.statuses[one.pk] = one.token, one.status
            if one.status in FINAL:
                self.require(one.finished_at is not None, f"#{one.pk} has an end")
                self.require(one.live is False or one.status == Status.SUCCEEDED, f"#{one.pk} is live and {one.status}")
                self.require(
                    (one.switched_at is not None) == (one.status == Status.SUCCEEDED),
                    f"#{one.pk} is {one.status}, its point of no return was {one.switched_at}",
                )

    def _check_served(self, environment: Environment) -> None:
        """Behind an open door: one version, with its data and every accepted write."""
        server = self.world.server
        if not self._is_open(environment):
            return
        served = self.served.get(environment.pk)
        reachable = {
            name
            for name, one in self._odoos(environment).items()
            if one["alias"] in self._led_to(environment) and one["state"] == "running"
        }
        if served is None:
            self.require(not reachable, f"{environment} serves {reachable} before anything went live")
            return
        self.require(reachable <= served.containers, f"{reachable} serve, live are {served.containers}")
        if not reachable:
            return
        database = server["databases"].get(environment.database)
        self.require(database is not None, f"{environment} serves without its database")
        self.require(
            database["modules"] == served.modules,
            f"data of another version is served: {database['modules']}, went live with {served.modules}",
        )
        self._check_ledger(environment)

    def _check_ledger(self, environment: Environment) -> None:
        found, wanted = self._rows(environment.database), self.ledger.get(environment.pk, [])
        self.require(found == wanted, f"{environment} has the writes {found}, accepted were {wanted}")

    # When everything has settled

    def check_settled(self, *, swept: bool) -> None:
        """Nothing is at work any more. `swept`: a good deployment has just gone through, so nothing is left over."""
        self.check()
        rows = Rows()
        for environment in self.environments:
            self._check_ended(environment, rows.of(environment))
            self._check_door(environment, rows)
            self._check_instances(environment)
            self._check_left_over(environment, rows, swept)
        self._check_databases({one.database for one in self.environments})

    def _check_ended(self, environment: Environment, rows: list[Any]) -> None:
        self.require(not [one for one in rows if one.status in ACTIVE], "nothing is queued or underway for ever")
        environment.refresh_from_db(fields=["busy_until", "busy_with"])
        self.require(not environment.busy, f"{environment} is busy with {environment.busy_with}")
        succeeded = [one for one in rows if one.status == Status.SUCCEEDED]
        last = max(succeeded, key=lambda one: one.live_at, default=None)
        live = next((one for one in rows if one.live), None)
        self.require(live == last, f"live is {live}, the last that succeeded is {last}")
        steps: dict[int, dict[str, tuple[str, bool]]] = {}
        of_ours = Step.objects.filter(deployment__environment=environment)
        for pk, kind, status, facts in of_ours.values_list("deployment", "kind", "status", "facts"):
            steps.setdefault(pk, {})[kind] = (status, bool(facts))
        for one in rows:
            self._check_steps(one, steps.get(one.pk, {}))

    def _check_steps(self, one: Any, steps: dict[str, tuple[str, bool]]) -> None:
        told = f"#{one.pk} is {one.status}, its steps are {steps}"
        self.require(not [kind for kind, (status, _) in steps.items() if status == StepStatus.RUNNING], told)
        if one.status == Status.SUCCEEDED:
            done = {StepStatus.SUCCEEDED, StepStatus.SKIPPED}
            self.require(set(steps) == set(FORWARD) and {status for status, _ in steps.values()} <= done, told)
        elif one.status == Status.SUPERSEDED:
            self.require(not any(facts for _, facts in steps.values()), told)
        else:
            did = {kind: status for kind, (status, facts) in steps.items() if facts}
            self.require(set(did.values()) <= {StepStatus.UNDONE}, told)
            if did:
                self.require(one.status in (Status.ROLLED_BACK, Status.CANCELLED), told)
                self.require(steps[StepKind.ROLLBACK][0] == StepStatus.SUCCEEDED, told)

    def _check_door(self, environment: Environment, rows: Rows) -> None:
        live = any(one.live for one in rows.of(environment))
        is_open = self._is_open(environment)
        self.require(not Door.objects.filter(environment=environment).exists(), f"{environment}: a door is closed")
        self.require(is_open == live, f"{environment}: live {live}, door open {is_open}")

    def _check_instances(self, environment: Environment) -> None:
        wanted = set()
        for instance in Instance.objects.filter(environment=environment):
            if not instance.container:
                self.require(instance.state == Instance.State.NEW, f"{instance} is {instance.state} without container")
                continue
            wanted.add(instance.container)
            found = self.world.server["containers"].get(instance.container)
            self.require(found is not None, f"{instance.container} of {instance} is gone")
            runs = found["state"] == "running"
            self.require(
                runs == (instance.state == Instance.State.RUNNING),
                f"{instance} is {instance.state}, its container {found['state']} ({instance.problem})",
            )
            name = instance.name_at_edge(Colour(instance.colour))
            self.require(not runs or found["alias"] == name, f"{instance} is behind the edge")
        served = self.served.get(environment.pk)
        self.require(wanted == (served.containers if served else set()), f"instances {wanted}, live {served}")
        if served:
            database = self.world.server["databases"].get(environment.database)
            self.require(database is not None, f"the database of {environment} is gone")
            self.require(
                database["modules"] == served.modules, f"{environment} has other modules than it went live with"
            )
            self._check_ledger(environment)

    def _check_left_over(self, environment: Environment, rows: Rows, swept: bool) -> None:
        server = self.world.server
        served = self.served.get(environment.pk)
        containers = set(self._odoos(environment))
        expected = served.containers if served else set()
        if swept:
            self.require(containers == expected, f"containers {containers}, live are {expected}")
        databases = {name for name in server["databases"] if name.split("__s")[0] == environment.database}
        kept = rows.kept(environment, Snapshot.State.READY, Snapshot.State.TAKING)
        explained = {one.database for one in kept} | ({environment.database} if served else set())
        self.require(databases <= explained, f"databases {databases}, explained {explained}")
        volume = server["volumes"].get(environment.volume)
        self.require((volume is not None) == bool(served), f"{environment}: volume {volume}, live {served}")
        labels = set(volume["snapshots"]) if volume else set()
        if swept:
            self.require(labels <= {one.label for one in kept}, f"filestores kept: {labels}")
        for snapshot in rows.kept(environment, Snapshot.State.READY):
            self.require(snapshot.database in databases, f"the clone {snapshot.database} is gone")
            self.require(snapshot.label in labels, f"the filestore {snapshot.label} is gone")
            found = self._rows(snapshot.database)
            self.require(found == self.kept[snapshot.pk], f"{snapshot.database} has the writes {found}")

    def _check_databases(self, names: set[str]) -> None:
        for role in self.world.server["roles"]:
            if role in names:
                self.require(role in self.world.server["databases"], f"the role {role} is left without its database")
        template = [name for name in self.world.server["databases"] if name.startswith("ocore_base_")]
        drafts = [name for name in template if name.endswith("_draft")]
        self.require(not [one for one in drafts if one.removesuffix("_draft") in template], f"templates {template}")
        strange = [
            name
            for name in self.world.server["databases"]
            if not name.startswith("ocore_base_") and name.split("__s")[0] not in names
        ]
        self.require(not strange, f"databases of nobody: {strange}")

    @staticmethod
    def require(holds: bool, what: str) -> None:
        assert holds, what
