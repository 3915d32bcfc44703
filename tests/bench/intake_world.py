"""The intake's own database: who is there, and afterwards what a burst has left. A process of its own, because the
bench itself uses another one: `python -m tests.bench.intake_world seed|look`."""

import json
import sys
from typing import Any

import django

BRANCHES = {"production": "main", "staging": "next", "acceptance": "release/*"}
"""Environment -> its branch, or its rule."""
REACHES = {"main": "production", "next": "staging", "release/17.1": "acceptance"}
"""Branch -> the environment that a push to it is deployed in; no other branch of the burst is in any."""


def seed() -> dict[str, Any]:
    from django.core.management import call_command

    from instances.models import Instance
    from projects.models import BranchRule, Environment, Project, Server

    call_command("migrate", verbosity=0)
    server = Server.objects.create(name="Nowhere", slug="nowhere", kind=Server.Kind.SIMULATED)
    project = Project.objects.create(
        name="Burst", slug="burst", repository_url="https://git.example.com/acme/addons.git"
    )
    for slug, branch in BRANCHES.items():
        own = "" if "*" in branch else branch
        made = Environment.objects.create(project=project, server=server, name=slug.title(), slug=slug, branch=own)
        Instance.ensure_first(made)
        if not own:
            BranchRule.objects.create(project=project, environment=made, pattern=branch)
    return {"secret": project.webhook_secret, "path": project.webhook_path}


def look() -> dict[str, Any]:
    """What is there, without judging it."""
    from django.db.models import Count

    from deployments.models import Delivery, Deployment
    from deployments.states import Status

    deliveries = Delivery.objects.exclude(verdict=Delivery.Verdict.DUPLICATE)
    rows = Deployment.objects.select_related("environment", "delivery")
    return {
        "deliveries": dict(Delivery.objects.order_by().values_list("verdict").annotate(Count("pk"))),
        "ids": sorted(deliveries.values_list("delivery_id", flat=True)),
        "queued": dict(
            rows.filter(status=Status.QUEUED).order_by().values_list("environment__slug").annotate(Count("pk"))
        ),
        "deployments": [
            [one.environment.slug, one.commit, one.delivery.delivery_id if one.delivery else ""]
            for one in rows.only("environment__slug", "commit", "delivery__delivery_id").iterator()
        ],
    }


if __name__ == "__main__":
    django.setup()
    sys.stdout.write(json.dumps({"seed": seed, "look": look}[sys.argv[1]]()))
