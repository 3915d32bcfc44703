"""Who looks at the page that is being made, so that a link is offered to those only who may open it."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from django.apps import apps
from django.db.models import Model
from django.http import HttpRequest
from django.http.response import HttpResponseBase

_viewer: ContextVar[Any] = ContextVar("viewer", default=None)


class ViewerMiddleware:
    """After Django's own that finds the user. Nobody is looked up before a link is made."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        token = _viewer.set(request.user)
        try:
            return self.get_response(request)
        finally:
            _viewer.reset(token)


def may_see(model: type[Model] | str) -> bool:
    """Whether the viewer may open its pages in the admin. A model, or its name as `projects.environment`."""
    user = _viewer.get()
    opts = (apps.get_model(model) if isinstance(model, str) else model)._meta
    acts = ("view", "change")
    return user is not None and any(user.has_perm(f"{opts.app_label}.{act}_{opts.model_name}") for act in acts)
