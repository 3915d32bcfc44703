"""What nobody knows is refused, not ignored: a misspelt filter would show everything."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest
from ninja import Router
from ninja.errors import ValidationError
from ninja.operation import Operation


class Routes(Router):
    """Its operations refuse parameters of the query that they don't have or get twice, once it is known who asks."""

    def add_api_operation(self, path: str, methods: list[str], view_func: Callable[..., Any], **options: Any) -> None:
        super().add_api_operation(path, methods, view_func, **options)
        _knows_its_query(self.path_operations[path].operations[-1])


def _knows_its_query(operation: Operation) -> None:
    models = [model for model in operation.models if model.__ninja_param_source__ == "query"]
    known = {name for model in models for name in model.__ninja_flatten_map__}
    act = operation.view_func

    @wraps(act)
    def view(request: HttpRequest, **values: Any) -> Any:
        wrong = {name: "There is no such parameter." for name in request.GET if name not in known}
        wrong |= {name: "It is given more than once." for name, values in request.GET.lists() if len(values) > 1}
        if wrong:
            raise ValidationError([{"loc": ("query", name), "msg": message} for name, message in wrong.items()])
        return act(request, **values)

    operation.view_func = view
