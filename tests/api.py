"""Programs that call the API: their users, their tokens, and one call."""

import json
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

from deployments import tokens
from deployments.tokens import Verb
from projects.models import Project

VIEWS = ["view_project", "view_environment", "view_instance", "view_deployment", "view_snapshot", "view_delivery"]
VIEWS.append("view_server")
ACTS = ["deploy_environment", "cancel_deployment", "roll_back_environment", "lock_environment"]


def user(name: str = "ci", *codenames: str) -> User:
    """May view and do everything in the portal that the API offers, unless told what."""
    made = User.objects.create_user(name, is_staff=True)
    made.user_permissions.set(Permission.objects.filter(codename__in=codenames or [*VIEWS, *ACTS]))
    return made


def secret(of: User, *projects: Project, verbs: list[str] | None = None, name: str = "CI") -> str:
    """A new token; without projects for every one."""
    wanted = list(Verb.values) if verbs is None else verbs
    return tokens.make(of, "root", name=name, verbs=wanted, projects=list(projects) or None)[1]


def call(secret: str | None, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """`path` below /api/v1; `headers` with _ for -."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if secret is not None:
        sent["Authorization"] = f"Bearer {secret}"
    content = body if isinstance(body, bytes | str) else b"" if body is None else json.dumps(body)
    client = Client(raise_request_exception=False)
    return client.generic(method, f"/api/v1{path}", content, content_type="application/json", headers=sent)
