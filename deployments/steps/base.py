"""What the steps share."""

from deployments.models import Deployment
from ocore.errors import ExpectedError

NO_UPDATE = "No module needed an update"
"""Outcome of the step that deploys."""


class Nothing(ExpectedError):
    """This step has nothing to do, and that is fine; the message says why."""


class NothingNew(ExpectedError):
    """A push that brings nothing that the environment hasn't had; the message says why."""

    default_advice = "To deploy it all the same, deploy it by hand."

    def __init__(self, message: str, instead: Deployment) -> None:
        super().__init__(message)
        self.instead = instead


class Refused(ExpectedError):
    """What was asked for would do harm; nothing has been changed."""


class DiskFull(Refused):
    default_advice = "Free space on the server: ./manage.py retention --dry-run tells what takes it. Then deploy again."


class DataLost(Refused):
    default_advice = (
        "Bring the database back from a dump (docs/operations.md); or, if its data is really gone and may be, "
        "run ./manage.py start_over and deploy again."
    )


class NotHealthy(ExpectedError):
    """The new version did not become healthy; `detail` is its last answer."""


class UpdateFailed(ExpectedError):
    """Odoo could not install or update its modules."""
