"""API tokens: made by people and at the shell, shown once, never more than their user, and gone when revoked."""

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import tokens
from deployments.models import ApiToken
from deployments.tokens import TokenRefused
from ocore.redaction import HIDDEN, redact
from projects.models import Project
from tests import factories
from tests.api import call, secret, user

pytestmark = pytest.mark.django_db
SECRET = re.compile(r"ocore_[0-9a-f]{8}_[\w-]{43}")
ADD = reverse("admin:deployments_apitoken_add")


@pytest.fixture
def acme() -> Project:
    return factories.project()


def browser(of: User, *more: str) -> Client:
    of.user_permissions.add(*Permission.objects.filter(codename__in=more))
    client = Client()
    client.force_login(of)
    return client


def test_a_token_is_kept_as_a_digest_and_its_prefix_is_no_part_of_its_secret(acme: Project) -> None:
    whole = secret(user(), acme)
    token = ApiToken.objects.get()
    assert SECRET.fullmatch(whole)
    assert whole.startswith(f"{token.prefix}_")
    kept = " ".join(str(value) for value in ApiToken.objects.values().get().values())
    assert whole.removeprefix(token.prefix) not in kept
    assert tokens.find(whole) == token
    assert HIDDEN in redact(f"Authorization: Bearer {whole}")
    assert whole not in redact(f"curl failed with {whole} in it")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": " \n"}, "needs a name"),
        ({"verbs": []}, "to be for something"),
        ({"verbs": ["root"]}, "to be for something"),
        ({"projects": []}, "needs projects"),
        ({"days": 0}, "valid for up to 366 days, not for 0"),
        ({"days": 367}, "not for 367"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(wrong: dict[str, Any], told: str) -> None:
    asked = {"name": "CI", "verbs": ["read"], "projects": None, "days": 1} | wrong
    with pytest.raises(TokenRefused, match=told):
        tokens.make(user(), "root", **asked)
    assert not ApiToken.objects.exists()


def test_its_use_is_noted_but_not_at_each_call(acme: Project, django_assert_num_queries: Any) -> None:
    whole = secret(user(), acme)
    began = timezone.now()
    with time_machine.travel(began, tick=False):
        call(whole, "GET", "/token")
    for minutes, noted in ((4, 0), (6, 6)):
        with time_machine.travel(began + timedelta(minutes=minutes), tick=False):
            call(whole, "GET", "/token")
        assert ApiToken.objects.get().last_used_at == began + timedelta(minutes=noted)


def test_who_may_add_one_makes_it_for_themselves_and_sees_it_once(acme: Project) -> None:
    eva = user("eva")
    client = browser(eva, "add_apitoken", "view_apitoken")
    asked = {"name": "CI of acme", "verbs": ["read", "deploy"], "projects": [acme.pk], "days": 30}
    asked["form"] = client.get(ADD).context["adminform"].form["form"].initial
    answer = client.post(ADD, asked)
    (whole,) = SECRET.findall(answer.content.decode())
    again = client.post(ADD, asked).content.decode()
    assert "sent already" in again
    assert not SECRET.findall(again)
    token = ApiToken.objects.get()
    assert "no-store" in answer.headers["Cache-Control"]
    assert (token.user, token.made_by, list(token.projects.all())) == (eva, "eva", [acme])
    assert token.verbs == ["read", "deploy"]
    assert timedelta(days=29) < token.expires_at - timezone.now() <= timedelta(days=30)
    assert call(whole, "GET", "/projects/acme").status_code == 200
    assert LogEntry.objects.get().object_id == str(token.pk)
    for url in ("changelist", "change", "history"):
        where = reverse(f"admin:deployments_apitoken_{url}", args=[] if url == "changelist" else [token.pk])
        page = client.get(where).content.decode()
        assert token.prefix in page
        assert whole not in page
        assert token.digest not in page


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"projects": []}, "Choose the projects in which it holds"),
        ({"every_project": "on"}, "not both"),
        ({"verbs": []}, "This field is required"),
        ({"days": 400}, "less than or equal to 366"),
        ({"name": ""}, "This field is required"),
    ],
)
def test_the_form_says_what_is_wrong(acme: Project, wrong: dict[str, Any], told: str) -> None:
    client = browser(user("eva"), "add_apitoken", "view_apitoken")
    asked = {"name": "CI", "verbs": ["read"], "projects": [acme.pk], "days": 30} | wrong
    assert told in client.post(ADD, asked).content.decode()
    assert not ApiToken.objects.exists()


def test_who_may_not_see_projects_learns_no_names_from_the_form(acme: Project) -> None:
    client = browser(user("narrow", "view_deployment"), "add_apitoken")
    assert "Acme" not in client.get(ADD).content.decode()
    asked = {"name": "CI", "verbs": ["read"], "projects": [acme.pk], "days": 30}
    assert "not one of the available choices" in client.post(ADD, asked).content.decode()


def test_ones_own_is_revoked_by_oneself_and_anothers_by_permission(acme: Project) -> None:
    eva, bob = user("eva"), user("bob")
    own, other = secret(eva, acme), secret(bob, acme)
    client = browser(eva, "view_apitoken")
    urls = [
        reverse("admin:deployments_apitoken_revoke", args=[tokens.find(one).pk])  # type: ignore[union-attr]
        for one in (own, other)
    ]
    assert [client.post(url).status_code for url in urls] == [403, 403]
    browser(eva, "add_apitoken")
    assert client.get(urls[0]).status_code == 405
    assert [client.post(url).status_code for url in urls] == [302, 403]
    assert (call(own, "GET", "/token").status_code, call(other, "GET", "/token").status_code) == (401, 200)
    assert "is revoked already" in client.post(urls[0], follow=True).content.decode()
    browser(eva, "revoke_apitoken")
    assert client.post(urls[1]).status_code == 302
    assert call(other, "GET", "/token").status_code == 401
    assert set(ApiToken.objects.values_list("revoked_by", flat=True)) == {"eva"}


def test_the_list_tells_the_state_of_each(acme: Project) -> None:
    made = {name: tokens.find(secret(user(name), acme, name=name)) for name in ("good", "late", "gone", "left")}
    ApiToken.objects.filter(pk=made["late"].pk).update(expires_at=timezone.now())  # type: ignore[union-attr]
    tokens.revoke(made["gone"], "root")  # type: ignore[arg-type]
    User.objects.filter(username="left").update(is_active=False)
    client = browser(User.objects.create_superuser("root"))
    page = client.get(reverse("admin:deployments_apitoken_changelist")).content.decode()
    for words in ("Valid", "Expired", "Revoked", "Without effect"):
        assert words in page
    for state, names in (("valid", {"good", "left"}), ("expired", {"late"}), ("revoked", {"gone"})):
        url = reverse("admin:deployments_apitoken_changelist")
        found = client.get(url, {"state": state}).context["cl"].queryset
        assert {one.name for one in found} == names


def test_an_account_that_is_deleted_takes_its_tokens_power_with_it_and_the_record_stays(acme: Project) -> None:
    eva = user("eva")
    whole = secret(eva, acme)
    client = browser(User.objects.create_superuser("root"))
    deleted = client.post(reverse("admin:auth_user_delete", args=[eva.pk]), {"post": "yes"})
    assert deleted.status_code == 302
    assert call(whole, "GET", "/token").status_code == 401
    page = client.get(reverse("admin:deployments_apitoken_changelist")).content.decode()
    assert "nobody any more" in page
    assert "Without effect" in page
    assert "for nobody any more" in run()[0]


def run(*argv: str) -> tuple[str, str]:
    out, told = StringIO(), StringIO()
    call_command("api_token", *argv, stdout=out, stderr=told)
    return out.getvalue(), told.getvalue()


def test_the_command_line_makes_lists_and_revokes(acme: Project) -> None:
    user("ada")
    out, told = run("--make", "CI", "--user", "ada", "--for", "read", "deploy", "--project", "acme", "--days", "7")
    assert SECRET.fullmatch(out.strip()), "the token alone, for a script to keep"
    assert "shown once" in told
    token = ApiToken.objects.get()
    assert call(out.strip(), "GET", "/token").json()["verbs"] == ["read", "deploy"]
    listed, _ = run()
    assert f"{token.prefix}  CI, for ada: read, deploy in acme, until" in listed
    assert out.strip() not in listed
    assert "is revoked" in run("--revoke", token.prefix)[0]
    assert run()[0] == ""


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--make", "CI", "--user", "nobody", "--for", "read", "--every-project"], "There is no user “nobody”"),
        (["--make", "CI", "--user", "ada", "--for", "read"], "needs projects"),
        (["--make", "CI", "--user", "ada", "--every-project"], "to be for something"),
        (["--make", "CI", "--user", "ada", "--for", "read", "--project", "acmee"], "Did you mean acme"),
        (["--make", "CI", "--user", "ada", "--for", "read", "--project", "acme", "--every-project"], "already"),
        (["--make", "CI", "--user", "client", "--for", "read", "--every-project"], "may not work in the portal"),
        (["--revoke", "ocore_"], "There is no valid token"),
    ],
)
def test_the_command_line_says_what_is_wrong(acme: Project, argv: list[str], told: str) -> None:
    user("ada")
    User.objects.create_user("client")
    with pytest.raises(CommandError, match=told):
        run(*argv)
