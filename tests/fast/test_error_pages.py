"""When the portal refuses, has nothing, or breaks: in its own look, and nothing of what is behind it."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tests import factories

SECRETS = ("Traceback", "canary", "Permission denied", "Exception", "Reason given", "DEBUG", "admin/login")


def is_ours(answer: Any, status: int, heading: str) -> None:
    content = answer.content.decode()
    assert answer.status_code == status
    assert f"<h1>{heading}</h1>" in content
    assert "ocore/status.css" in content
    assert not re.search("|".join(SECRETS), content)
    assert not re.search(r"<script|<style|style=", content)


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/canary", "/status/canary/", "/status/canary.json"])
def test_an_address_that_leads_nowhere_says_no_more_than_that(path: str) -> None:
    is_ours(Client().get(path), 404, "There is nothing here")


@pytest.mark.django_db
def test_who_lacks_a_permission_is_told_without_details() -> None:
    environment = factories.environment(name="canary")
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_user("nobody", is_staff=True))
    url = reverse("admin:projects_environment_change", args=[environment.pk])
    is_ours(client.get(url), 403, "You may not do this")
    is_ours(client.post(url), 403, "Please try that again")


@pytest.mark.django_db
def test_a_defect_of_ours_shows_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("canary")

    monkeypatch.setattr("deployments.status_pages.shown", broken)
    project = factories.project()
    answer = Client(raise_request_exception=False).get(f"/status/{project.status_token}/")
    is_ours(answer, 500, "Something went wrong")
