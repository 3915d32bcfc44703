"""A second version of an environment: set up beside the first, given a share of its clients, ended by keeping one.

Rows first; the edge is told, deployments are requested, and the clock goes on with an end that was interrupted.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.text import slugify

from deployments import at_work, claims, edges, keep_out, queues, removal, services
from deployments.fence import fenced
from deployments.models import Deployment
from deployments.services import NotPossible, Who
from deployments.states import Status, Trigger
from deployments.steps import copy
from deployments.steps.copy import CLAIM, HOLDER
from instances import doors, notices
from instances.models import Door, Instance
from instances.odoo import queries
from instances.runtimes import runtime_for
from ocore.errors import ExpectedError
from projects.inheritance import SETTINGS
from projects.models import Environment, Split
from projects.second import new_mark

logger = logging.getLogger(__name__)
Ending = Split.Ending
WRITTEN_LINES = 12


@dataclass(frozen=True)
class Written:
    """What clients have changed in one version's own data since the copy was taken."""

    models: tuple[tuple[str, int], ...]
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"what was written since could not be read: {self.problem}"
        if not self.models:
            return "no record was found that was made or changed there since (what was deleted can't be counted)"
        named = ", ".join(f"{model} {count}" for model, count in self.models[:WRITTEN_LINES])
        more = len(self.models) - WRITTEN_LINES
        return f"written there since: {named}{f' and {more} more' if more > 0 else ''}"


def live_of(environment: Environment) -> Deployment | None:
    return Deployment.objects.filter(environment=environment, live=True).first()


def split_of(environment: Environment) -> Split:
    """Of a first or a second version. Raises `NotPossible` where there is only one."""
    second = environment if environment.second_of_id else environment.beside
    split = Split.objects.select_related(
        "environment__second_of__project",
        "environment__second_of__server",
        "environment__project",
        "environment__server",
    )
    found = split.filter(environment=second).first() if second else None
    if found is None:
        raise NotPossible(f"{environment} has no second version.", advice="Set one up first.")
    return found


def begin_consequences(shared: bool) -> str:
    """What will become of what clients write, said before it starts."""
    if shared:
        return (
            "Both versions will use the same database: nothing that clients write is lost, whichever is kept. While it "
            "lasts no module can be updated in either."
        )
    return (
        "The second version begins with a copy of the data, for which clients wait a moment. From then on neither sees "
        "what is written in the other. If the first is kept, what was written in the second is removed with it; if the "
        "second is kept, what was written in the first since stays in a snapshot."
    )


def begin(first: Environment, name: str, who: Who, *, ref: str = "", shared: bool = True) -> Deployment:
    """An environment beside it, and its first deployment, queued. Raises `NotPossible`."""
    slug = slugify(name)
    if not slug:
        raise NotPossible("Give the second version a name.")
    with transaction.atomic():
        first = Environment.objects.select_for_update(of=("self",)).select_related("project", "server").get(pk=first.pk)
        _require_ready(first)
        if Environment.objects.filter(project=first.project_id, slug=slug).exists():
            raise NotPossible(f"{first.project} has an environment “{slug}” already.", advice="Choose another name.")
        second = Environment(
            project=first.project,
            server=first.server,
            name=name.strip()[:100],
            slug=slug[:40],
            description=f"Second version of {first.name}.",
            second_of=first,
            shares_data=shared,
            database_password=first.database_password,
            odoo_admin_password=first.odoo_admin_password,
        )
        try:
            second.full_clean(exclude=["key", "subdomain", "database"])
        except ValidationError as error:
            raise NotPossible(" ".join(error.messages), advice="Choose another name.") from None
        second.save()
        Split.objects.create(environment=second, since=timezone.now(), set_by=who.name[:200])
        Instance.ensure_first(second)
        deployment = services.request_deployment(second, Trigger.MANUAL, who, ref=ref or first.branch)
    logger.info("%s gets a second version, %s, on behalf of %s", first, second, who.name)
    return deployment


def _require_ready(first: Environment) -> None:
    if first.second_of_id:
        raise NotPossible(f"{first} is a second version itself.")
    if first.beside:
        raise NotPossible(
            f"{first} has a second version already: {first.beside}.", advice="End it first: keep one of the two."
        )
    if live_of(first) is None:
        raise NotPossible(f"{first} has not been deployed yet.", advice="Deploy it first.")
    found = at_work.hindrance(first)
    if found:
        raise NotPossible(found.message, advice=found.advice)
    if services.broken_by(first):
        raise NotPossible(f"The last rollback of {first} failed.", advice="Mend that first.")


def lead(split: Split, share: int, who: Who) -> str:
    """From now on that percentage of the first one's clients is led to the second; where the edge could not be told
    yet, what to say about that. Raises `NotPossible`."""
    second = split.environment
    if not 0 <= share <= 100:
        raise NotPossible(f"A share is 0 to 100 percent, not {share}.")
    if split.ending:
        raise NotPossible(f"{second} is being ended.")
    if share and live_of(second) is None:
        raise NotPossible(f"{second} is not live yet.", advice="Wait for its deployment, or deploy it again.")
    if share and not second.instances.filter(state=Instance.State.RUNNING).exists():
        raise NotPossible(f"{second} does not run.", advice="Start its instance first.")
    begins = 0 < share < 100 and not 0 < split.share < 100
    fields = {"share": share, "since": timezone.now(), "set_by": who.name[:200], "problem": ""}
    if begins:
        fields["mark"] = new_mark()
    with transaction.atomic():
        if not _still(split, share=split.share).update(**fields):
            raise NotPossible("Somebody else has changed that a moment ago.", advice="Look at it again.")
        edges.ask([second.server])
    logger.info("%s %% of %s's clients are led to %s, on behalf of %s", share, second.second_of, second, who.name)
    return keep_out.tell(second)


def _still(split: Split, **as_it_was: Any) -> QuerySet[Split]:
    """Its row, while it is not being ended."""
    return Split.objects.filter(pk=split.pk, ending=Ending.NOT, **as_it_was)


def written(environment: Environment, split: Split) -> Written:
    """In its own data, since the copy was taken. Asks the server."""
    if split.copied_at is None:
        return Written(())
    try:
        databases = runtime_for(environment.server).databases
        tables = databases.query(environment.database, queries.WRITTEN_TABLES_SQL)
        question = queries.written_since_sql(tables, _own_since(environment, split.copied_at))
        rows = databases.query(environment.database, question) if question else []
    except ExpectedError as error:
        return Written((), error.message)
    return Written(tuple((model, int(count)) for model, count in rows))


def _own_since(environment: Environment, copied_at: datetime) -> datetime:
    """What a second version's own first deployment has written is nobody's work."""
    if environment.second_of_id is None:
        return copied_at
    first_live = (
        environment.deployments.exclude(live_at=None).order_by("live_at").values_list("live_at", flat=True).first()
    )
    return max(copied_at, first_live or copied_at)


def consequences(split: Split, share: int) -> str:
    """What happens to what clients have written when the share becomes this; said before it does."""
    second, first = split.environment, split.environment.second_of
    if second.shares_data or first is None:
        return "Both versions use the same database: nothing is lost, whichever serves."
    if split.copied_at is None:
        return f"{second} has no data yet: it is not live."
    if share > split.share:
        return (
            f"{second} works with a copy of the data as of {split.copied_at:%Y-%m-%d %H:%M:%S} UTC. Clients that are "
            f"led there do not see what was written in {first} since, and have to log in again. "
            f"In {first}, {written(first, split)}."
        )
    if share < split.share:
        return (
            f"Clients that come back to {first} do not see what they wrote in {second}; it stays there. In {second}, "
            f"{written(second, split)}."
        )
    return "Nothing changes."


def end_consequences(split: Split, keep: str) -> str:
    """The same, for keeping one of the two."""
    return f"{_end_of_data(split, keep)}{_end_of_settings(split.environment) if keep == Ending.SECOND else ''}"


def _end_of_settings(second: Environment) -> str:
    own = [name for name in SETTINGS if getattr(second, name) not in (None, "", {}, [])]
    if not own:
        return ""
    return (
        f" What {second} has set for itself goes with it: {', '.join(own)}. {second.second_of} keeps its own settings."
    )


def _end_of_data(split: Split, keep: str) -> str:
    second, first = split.environment, split.environment.second_of
    if second.shares_data:
        waits = " Where modules are updated for it, the clients of both wait." if keep == Ending.SECOND else ""
        return f"Both use the same database: nothing is lost. {second} is removed.{waits}"
    if keep == Ending.FIRST:
        return f"{second} is removed with its data. In it, {written(second, split)}."
    return (
        f"The data of {second} takes the place of that of {first}, which is kept as a snapshot and can be gone back "
        f"to. In {first}, {written(first, split) if first else ''}. While it happens the clients of both wait, and "
        "read that there is an update when it takes longer."
    )


def end(split: Split, keep: str, who: Who) -> None:
    """Keep one of the two; workers do it, and the clock sees to it that they end. Raises `NotPossible`."""
    second, first = split.environment, split.environment.second_of
    if keep not in (Ending.FIRST, Ending.SECOND) or first is None:
        raise NotPossible("Keep the first or the second version.")
    if split.ending:
        raise NotPossible(f"{second} is being ended already.")
    live = live_of(second)
    deployment = None
    with transaction.atomic():
        Environment.objects.select_for_update().get(pk=second.pk)
        _require_at_rest(second)
        ended = {"ending": keep, "ended_by": who.name[:200], "problem": "", "deployment": None}
        if not _still(split).update(**ended):
            raise NotPossible(f"{second} is being ended already.")
        if keep == Ending.SECOND:
            if live is None:
                raise NotPossible(f"{second} is not live, so it cannot take the place of {first}.")
            deployment = services.request_deployment(
                first,
                Trigger.MANUAL,
                who,
                ref=live.commit or live.ref,  # what was tried, not what its branch has become since
                commit=live.commit,
                subject=live.subject,
                author=live.author,
                forced=True,
                takes_from=second,
            )
            Split.objects.filter(pk=split.pk).update(deployment=deployment.pk)
        else:
            Split.objects.filter(pk=split.pk).update(share=0, since=timezone.now(), set_by=who.name[:200])
        edges.ask([second.server])
    keep_out.tell(second)
    queues.enqueue_second(second.pk)
    logger.warning("%s is being ended, the %s version stays, on behalf of %s", second, keep, who.name)


def _require_at_rest(second: Environment) -> None:
    """Nobody is at work in it, so that nothing of it changes while it is ended. What is queued there is called off."""
    for queued in Deployment.objects.filter(environment=second, status=Status.QUEUED):
        services.cancel(queued, Who("the end of the second version"))
    found = at_work.hindrance(second, behind_doors=True)
    if found:
        raise NotPossible(found.message, advice=found.advice)
    failed = services.broken_by(second)
    if failed:
        raise NotPossible(f"The rollback of {failed} failed.", advice="Mend that first: its data may not be whole.")


def unended() -> list[int]:
    return list(Split.objects.exclude(ending=Ending.NOT).values_list("environment", flat=True))


def carry_on(pk: int) -> None:
    """In a worker: the next step of an end, if its time has come. Idempotent."""
    split = (
        Split.objects.select_related(
            "environment__second_of__project",
            "environment__second_of__server",
            "environment__project",
            "environment__server",
        )
        .filter(environment=pk)
        .exclude(ending=Ending.NOT)
        .first()
    )
    if split is None or split.environment.removing_since:
        return
    second = split.environment
    if split.ending == Ending.SECOND and not _has_taken_its_place(split):
        return
    Door.objects.filter(environment=second).update(at_work=False)  # who waits there reads the page now
    if split.share:
        with transaction.atomic():
            Split.objects.filter(pk=split.pk).update(share=0, since=timezone.now(), set_by=split.ended_by)
            edges.ask([second.server])
        keep_out.tell(second)
        return
    second.server.refresh_from_db(fields=["edge_due_at"])
    if second.server.edge_due_at is not None or notices.outdated([second.server]):
        return  # clients are still led there
    try:
        with claims.claimed(second.pk, "its end", CLAIM, behind_doors=True, ending=True) as claim:
            doors.drain(second, fenced(runtime_for(second.server), claim.check))
        removal.request(second, Who(split.ended_by), ending=True)
    except ExpectedError as error:
        logger.info("The end of %s waits: %s", second, error.message)
        Split.objects.filter(pk=split.pk).update(problem=f"It waits: {error.message}")


def _has_taken_its_place(split: Split) -> bool:
    """The first environment's deployment has succeeded; where it has not, both go on as before."""
    deployment = _taking_over(split)
    if deployment is None or not deployment.final:
        return deployment is None
    if deployment.status == Status.SUCCEEDED:
        return True
    Split.objects.filter(pk=split.pk, ending=split.ending, deployment=split.deployment).update(
        ending=Ending.NOT,
        problem=f"{deployment}: {deployment.outcome}. {deployment.error} Mend that, then keep one again.",
    )
    return False


def _taking_over(split: Split) -> Deployment | None:
    return Deployment.objects.filter(pk=split.deployment or 0).select_related("environment__project").first()


def heal() -> None:
    """Doors of a first version that a worker closed to copy its data, and died; of a second whose data was being taken
    over by a deployment that has ended without."""
    for door in Door.objects.select_related("environment__server", "environment__project"):
        environment = door.environment
        if not (_left_after_a_copy(door) or _left_after_a_take_over(door)):
            continue
        try:
            with claims.claimed(environment.pk, f"a look at {environment}", CLAIM, behind_doors=True) as claim:
                if environment.second_of_id:
                    copy.serve_again(environment, fenced(runtime_for(environment.server), claim.check))
                doors.open(environment, fenced(runtime_for(environment.server), claim.check), holder=door.holder)
        except ExpectedError as error:
            logger.info("The door of %s is opened later: %s", environment, error.message)


def _left_after_a_copy(door: Door) -> bool:
    return door.holder.startswith(HOLDER) and at_work.hindrance(door.environment, behind_doors=True) is None


def _left_after_a_take_over(door: Door) -> bool:
    split = Split.objects.filter(environment=door.environment, ending=Ending.NOT).first()
    deployment = _taking_over(split) if split else None
    if deployment and deployment.status == Status.ROLLBACK_FAILED:
        return False  # with the same database, that is still to be put back
    free = at_work.hindrance(door.environment, behind_doors=True) is None
    return deployment is not None and deployment.final and door.holder == str(deployment) and free
