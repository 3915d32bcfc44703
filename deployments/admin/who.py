from django.http import HttpRequest

from deployments.services import Who


def who(request: HttpRequest) -> Who:
    """The person behind an admin's request, for the record."""
    user = request.user
    return Who(name=user.get_username(), user=user)  # type: ignore[arg-type]
