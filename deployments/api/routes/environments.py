"""What runs where: environments and their instances."""

from functools import partial

from django.http import HttpRequest

from deployments import locks
from deployments.api import shaping
from deployments.api.caller import caller, one_of
from deployments.api.paging import PageOf, page
from deployments.api.shapes import (
    EnvironmentDetail,
    EnvironmentPage,
    EnvironmentShape,
    InstancePage,
    InstanceShape,
)
from deployments.api.strict import Routes
from deployments.condition import conditions
from deployments.models import Deployment, Lock
from instances.models import Instance
from projects.models import Environment

router = Routes(tags=["environments"])
ONE = "/projects/{slug:project}/environments/{slug:environment}"


@router.get(
    "/projects/{slug:project}/environments",
    response=EnvironmentPage,
    operation_id="list_environments",
    summary="A project's environments, and what runs there",
)
def environments(request: HttpRequest, project: str, paging: PageOf) -> EnvironmentPage:
    who = caller(request)
    who.may_read(Environment)
    seen = who.sees(Deployment)
    items, cursor = page(who.environments.filter(project=who.project(project)), paging, partial(_shapes, seen))
    return EnvironmentPage(items=items, next_cursor=cursor)


def _shapes(seen: bool, rows: list[Environment]) -> list[EnvironmentShape]:
    locked = {lock.environment_id: lock for lock in Lock.objects.filter(environment__in=rows, unlocked_at=None)}
    return [shaping.environment(one, locked.get(one.environment.pk), deployments=seen) for one in conditions(rows)]


@router.get(
    ONE,
    response=EnvironmentDetail,
    operation_id="get_environment",
    summary="An environment: what runs there, with which settings, and who set them",
)
def environment(request: HttpRequest, project: str, environment: str) -> EnvironmentDetail:
    who = caller(request)
    who.may_read(Environment)
    row = who.environment(project, environment)
    return shaping.environment_detail(conditions([row])[0], locks.current(row), deployments=who.sees(Deployment))


@router.get(f"{ONE}/instances", response=InstancePage, operation_id="list_instances", summary="Its instances")
def instances(request: HttpRequest, project: str, environment: str, paging: PageOf) -> InstancePage:
    who = caller(request)
    who.may_read(Instance)
    rows = who.environment(project, environment).instances.select_related("environment__project")
    items, cursor = page(rows, paging, lambda rows: map(shaping.instance, rows))
    return InstancePage(items=items, next_cursor=cursor)


@router.get(
    f"{ONE}/instances/{{slug:instance}}", response=InstanceShape, operation_id="get_instance", summary="An instance"
)
def instance(request: HttpRequest, project: str, environment: str, instance: str) -> InstanceShape:
    who = caller(request)
    who.may_read(Instance)
    rows = who.environment(project, environment).instances.select_related("environment__project")
    return shaping.instance(one_of(rows.filter(slug=instance)))
