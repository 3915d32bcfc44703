"""What a person must know without looking for it."""

from django.db.models import Exists, OuterRef

from deployments import certificates
from deployments.models import Deployment
from deployments.states import Status
from instances import incidents
from instances.models import Certificate, Incident
from ocore.rows import some
from projects.models import Server


def simulated_servers() -> list[Server]:
    return list(Server.objects.filter(kind=Server.Kind.SIMULATED))


def broken_environments() -> list[Deployment]:
    """Deployments whose rollback failed, and after which nothing has succeeded in their environment."""
    later = Deployment.objects.filter(
        environment=OuterRef("environment"), pk__gt=OuterRef("pk"), status=Status.SUCCEEDED
    )
    return some(
        Deployment.objects.filter(~Exists(later), status=Status.ROLLBACK_FAILED)
        .select_related("environment__project")
        .defer("configuration", "addons", "secret_variables", "detail")
    )


def given_up() -> list[Incident]:
    """What should run, does not, and was given up."""
    return some(incidents.unended().filter(outcome=Incident.Outcome.GIVEN_UP))


def troubled_certificates() -> list[Certificate]:
    """Host names without a certificate, or with one that ends."""
    return certificates.troubled()


def uninformed_servers() -> list[Server]:
    """Whose edge could not be told what has changed."""
    return list(Server.objects.exclude(edge_due_at=None).exclude(edge_problem=""))
