"""Who calls the API: a token, and the user for whom it acts. Cookies and sessions count for nothing here, so no page of
another site can make a browser call it."""

from dataclasses import dataclass
from typing import TypeVar

from django.conf import settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest
from ninja.security import HttpBearer

from deployments import rates, tokens
from deployments.api.problems import Refused
from deployments.models import ApiToken, Delivery, Deployment, Snapshot
from deployments.services import Who
from deployments.tokens import Verb
from projects.domains import of_environments
from projects.models import Environment, Project, Server

T = TypeVar("T", bound=Model)
PERMISSIONS = {
    Verb.DEPLOY: "deployments.deploy_environment",
    Verb.CANCEL: "deployments.cancel_deployment",
    Verb.ROLL_BACK: "deployments.roll_back_environment",
    Verb.LOCK: "deployments.lock_environment",
}
"""What a verb needs of the user besides; reading needs the right to view that kind of thing."""
VIEWING = ("view", "change")


@dataclass(frozen=True)
class Caller:
    token: ApiToken
    user: User

    @property
    def who(self) -> Who:
        """For the record."""
        return Who(f"{self.user.get_username()} (API token {self.token.name})", self.user)

    def may_read(self, *kinds: type[Model]) -> None:
        """Raises `Refused` where the token, or its user now, may not view these kinds of things."""
        self._require(Verb.READ)
        self._require_view(*kinds)

    def may(self, verb: Verb, *kinds: type[Model]) -> None:
        """Raises `Refused` where the token, or its user now, may not do this to these kinds of things."""
        self._require(verb)
        if not self.user.has_perm(PERMISSIONS[verb]):
            raise Refused(403, f"The user of this token lacks the permission {PERMISSIONS[verb]}.")
        self._require_view(*kinds)

    def note(self, row: Model, words: str) -> None:
        """In the object's history, as what is done in the admin."""
        told = f"{words} By the API, with the token {self.token.name}."
        LogEntry.objects.log_actions(self.user.pk, [row], CHANGE, told, single_object=True)

    def _require(self, verb: Verb) -> None:
        if verb not in self.token.verbs:
            raise Refused(
                403,
                f"This token is not for “{verb}”.",
                advice=f"It is for {', '.join(self.token.verbs)}. Use another, or make one.",
            )

    def sees(self, kind: type[Model]) -> bool:
        """Whether its user now may view this kind of things."""
        return any(self.user.has_perm(f"{kind._meta.app_label}.{act}_{kind._meta.model_name}") for act in VIEWING)

    def _require_view(self, *kinds: type[Model]) -> None:
        for kind in kinds:
            if not self.sees(kind):
                name = f"{kind._meta.app_label}.view_{kind._meta.model_name}"
                raise Refused(403, f"The user of this token lacks the permission {name}.")

    @property
    def projects(self) -> QuerySet[Project]:
        return self.token.reach

    @property
    def environments(self) -> QuerySet[Environment]:
        rows = Environment.objects.filter(project__in=self.projects)
        return rows.select_related("project", "server", "second_of__project").prefetch_related(of_environments())

    @property
    def deployments(self) -> QuerySet[Deployment]:
        rows = Deployment.objects.filter(environment__project__in=self.projects)
        return rows.select_related("environment__project", "environment__server")

    @property
    def snapshots(self) -> QuerySet[Snapshot]:
        rows = Snapshot.objects.filter(environment__project__in=self.projects)
        return rows.select_related("environment__project")

    @property
    def deliveries(self) -> QuerySet[Delivery]:
        return Delivery.objects.filter(project__in=self.projects).select_related("project")

    @property
    def servers(self) -> QuerySet[Server]:
        """A server is no project's: seen are those on which an environment lies that is."""
        if self.token.every_project:
            return Server.objects.all()
        return Server.objects.filter(environments__project__in=self.projects).distinct()

    def project(self, slug: str) -> Project:
        """Raises `Http404`, as everything that asks for one thing: what is out of reach is not there."""
        return one_of(self.projects.filter(slug=slug))

    def environment(self, project: str, slug: str) -> Environment:
        return one_of(self.environments.filter(project__slug=project, slug=slug))

    def deployment(self, pk: int, **of: object) -> Deployment:
        return one_of(self.deployments.filter(pk=pk, **of))


def one_of(rows: QuerySet[T]) -> T:
    row = rows.first()
    if row is None:
        raise Http404
    return row


class Bearer(HttpBearer):
    """`Authorization: Bearer ocore_...`. Whatever is wrong with a token, the answer is the same 401."""

    def __call__(self, request: HttpRequest) -> Caller | None:
        _limit("api-address", rates.address_of(request), settings.OCORE_API_PER_ADDRESS)
        found: Caller | None = super().__call__(request)
        return found

    def authenticate(self, request: HttpRequest, token: str) -> Caller | None:
        row = tokens.find(token)
        if row is None or row.user is None:
            return None
        _limit("api-token", row.pk, settings.OCORE_API_PER_TOKEN)
        tokens.note_use(row)
        return Caller(row, row.user)


def _limit(kind: str, key: object, limit: int) -> None:
    wait = rates.wait_for(kind, key, limit)
    if wait:
        raise Refused(429, wait=wait)


def caller(request: HttpRequest) -> Caller:
    """Who is behind a request that has passed `Bearer`."""
    found: Caller = request.auth  # type: ignore[attr-defined]
    return found
