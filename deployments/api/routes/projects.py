"""Who is calling, what there is, and where it lives: token, projects, servers; and the API's own description."""

from typing import Any

from django.http import HttpRequest

from deployments.api import shaping
from deployments.api.caller import caller, one_of
from deployments.api.paging import PageOf, page
from deployments.api.shapes import ProjectPage, ProjectShape, ServerDetail, ServerPage, TokenShape
from deployments.api.strict import Routes
from projects.models import Project, Server

router = Routes(tags=["projects"])


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: HttpRequest) -> dict[str, Any]:
    """What you read."""
    from deployments.api import api

    return api.get_openapi_schema()


@router.get("/token", response=TokenShape, operation_id="get_token", summary="What this token may do")
def token(request: HttpRequest) -> TokenShape:
    """Needs no verb."""
    return shaping.token(caller(request).token)


@router.get("/projects", response=ProjectPage, operation_id="list_projects", summary="Projects")
def projects(request: HttpRequest, paging: PageOf) -> ProjectPage:
    who = caller(request)
    who.may_read(Project)
    items, cursor = page(who.projects, paging, lambda rows: map(shaping.project, rows))
    return ProjectPage(items=items, next_cursor=cursor)


@router.get("/projects/{slug:project}", response=ProjectShape, operation_id="get_project", summary="A project")
def project(request: HttpRequest, project: str) -> ProjectShape:
    who = caller(request)
    who.may_read(Project)
    return shaping.project(who.project(project))


@router.get("/servers", response=ServerPage, operation_id="list_servers", summary="Servers")
def servers(request: HttpRequest, paging: PageOf) -> ServerPage:
    """Those on which environments lie that the token reaches."""
    who = caller(request)
    who.may_read(Server)
    items, cursor = page(who.servers, paging, lambda rows: map(shaping.server, rows))
    return ServerPage(items=items, next_cursor=cursor)


@router.get("/servers/{slug:server}", response=ServerDetail, operation_id="get_server", summary="A server and its load")
def server(request: HttpRequest, server: str) -> ServerDetail:
    who = caller(request)
    who.may_read(Server)
    return shaping.server_detail(one_of(who.servers.filter(slug=server)))
