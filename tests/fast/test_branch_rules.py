"""Which environment a pushed ref reaches: exact branches, rules, skip words; and why the others not."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from deployments import intake, routing
from deployments.models import Delivery, Deployment
from deployments.states import Status
from projects.hosts import HOSTS, RefChange
from projects.hosts.reading import moved
from projects.inheritance import resolve
from projects.models import BranchRule, Environment, Project
from projects.rules import matches, validate_pattern
from tests import factories
from tests.conftest import Queues

OLD, NEW, NEWER, ZERO = "1" * 40, "2" * 40, "3" * 40, "0" * 40
pytestmark = pytest.mark.django_db


@pytest.fixture
def acme(queues: Queues) -> Project:
    return factories.project(repository_url="https://git.example.com/acme/addons.git", host="generic")


@pytest.fixture
def production(acme: Project) -> Environment:
    return factories.environment(project=acme)


@pytest.fixture
def staging(production: Environment) -> Environment:
    return factories.environment(name="Staging", slug="staging", branch="staging", kind="staging")


def rule(environment: Environment, pattern: str, priority: int = 10, kind: str = "branch") -> BranchRule:
    made = BranchRule(
        project=environment.project, environment=environment, pattern=pattern, priority=priority, kind=kind
    )
    made.full_clean()
    made.save()
    return made


def push(project: Project, ref: str, after: str = NEW, before: str = OLD, **more: Any) -> Delivery:
    document = {"ref": ref, "before": before, "after": after, "pusher": "ann"} | more
    body = json.dumps(document).encode()
    signature = hmac.new(project.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-oCore-Signature-256": f"sha256={signature}"}
    answer = intake.receive(project, "generic", body, headers, None)
    return Delivery.objects.get(pk=answer.content["delivery"])


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("release/*", "release/17.1", True),
        ("release/*", "release/17/hot", False),
        ("release/**", "release/17/hot", True),
        ("release/*", "my/release/1", False),
        ("v*", "v1.0", True),
        ("v?.0", "v1.0", True),
        ("v?.0", "v10.0", False),
        ("a.c", "abc", False),
        ("*", "main", True),
    ],
)
def test_a_star_stops_at_a_slash_and_two_do_not(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@pytest.mark.parametrize("pattern", ["", "-x", "a b", "refs/heads/*", "a..b", "***", "*a*a*a*a*a*", "[ab]", "x\x00"])
def test_what_can_match_nothing_or_takes_long_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValidationError):
        validate_pattern(pattern)


def test_a_rule_sends_what_is_nobodys_own_branch_to_its_environment(staging: Environment) -> None:
    rule(staging, "release/*")

    delivery = push(staging.project, "refs/heads/release/17.1")

    assert delivery.verdict == "accepted"
    assert Deployment.objects.get().environment == staging
    assert Deployment.objects.get().ref == "release/17.1"


def test_an_exact_branch_comes_before_every_rule(production: Environment, staging: Environment) -> None:
    rule(staging, "ma*", priority=1)

    push(production.project, "refs/heads/main")

    assert [one.environment.slug for one in Deployment.objects.all()] == ["production"]


def test_the_first_rule_that_matches_wins(production: Environment, staging: Environment) -> None:
    rule(production, "release/**", priority=20)
    rule(staging, "release/*", priority=5)

    push(production.project, "refs/heads/release/1")
    push(production.project, "refs/heads/release/1/2")

    assert [one.environment.slug for one in Deployment.objects.order_by("pk")] == ["staging", "production"]


def test_two_rules_of_one_priority_and_other_projects_environments_are_refused(staging: Environment) -> None:
    rule(staging, "a/*", priority=3)
    with pytest.raises(ValidationError, match="same priority"):
        rule(staging, "b/*", priority=3)
    other = factories.environment(project=factories.project(name="Beta", slug="beta"))
    stray = BranchRule(project=staging.project, environment=other, pattern="c/*", priority=4)
    with pytest.raises(ValidationError, match="another project"):
        stray.full_clean()


def test_tags_deploy_by_rule_only_and_are_not_mistaken_for_branches(staging: Environment) -> None:
    assert "No rule of Acme deploys the tag v1" in push(staging.project, "refs/tags/v1").reason
    rule(staging, "v*", kind="tag")

    assert push(staging.project, "refs/tags/v2", after="4" * 40, commit=NEWER).verdict == "accepted"
    assert push(staging.project, "refs/heads/v2").verdict == "ignored"

    deployment = Deployment.objects.get()
    assert (deployment.ref, deployment.commit) == ("refs/tags/v2", NEWER)


@pytest.mark.parametrize("message", ["Fix [skip deploy]", "Fix\n\n[CI skip]", "Fix\n\nskip-checks: true"])
def test_a_head_commit_may_ask_to_be_skipped_but_not_in_production(
    production: Environment, staging: Environment, message: str
) -> None:
    assert push(staging.project, "refs/heads/main", message=message).verdict == "accepted"
    skipped = push(staging.project, "refs/heads/staging", message=message)

    assert (skipped.verdict, skipped.status_code) == ("ignored", 200)
    assert skipped.reason.startswith("Skipped: its head commit says")
    Environment.objects.filter(pk=staging.pk).update(skip_words=False)
    assert push(staging.project, "refs/heads/staging", message=message).verdict == "accepted"


def test_that_production_skips_nothing_is_shown_whatever_is_set(production: Environment) -> None:
    production.skip_words = True

    shown = resolve(production, "skip_words")

    assert (shown.value, str(shown.origin)) == (False, "production's rules")


def test_the_same_push_under_a_fresh_id_does_not_try_a_failed_one_again(production: Environment) -> None:
    push(production.project, "refs/heads/main")
    Deployment.objects.update(status=Status.FAILED)

    again = push(production.project, "refs/heads/main")

    assert (again.verdict, again.status_code) == ("duplicate", 200)
    assert "do so by hand" in again.reason
    assert push(production.project, "refs/heads/main", before=NEWER).verdict == "accepted"


def test_a_branch_that_goes_back_and_forth_is_deployed_each_time(production: Environment) -> None:
    for before, after in ((OLD, NEW), (NEW, OLD), (OLD, NEW)):
        assert push(production.project, "refs/heads/main", before=before, after=after).verdict == "accepted"


def test_nothing_moved_is_a_test(production: Environment) -> None:
    delivery = push(production.project, "refs/heads/main", before=NEW, after=NEW)

    assert (delivery.verdict, delivery.status_code) == ("ignored", 200)
    assert delivery.reason.startswith("The test arrived")


def change(ref: str) -> RefChange:
    return moved(ref, OLD, NEW)


def test_why_not_is_told_of_each_environment(production: Environment, staging: Environment) -> None:
    rule(production, "release/**", priority=20)
    rule(staging, "release/*", priority=5)

    def why(environment: Environment, ref: str) -> str:
        return routing.why_not(environment, change(ref), routing.reached(environment.project, change(ref)))

    assert "comes first" in why(production, "refs/heads/release/1")
    assert why(staging, "refs/heads/main") == "Its branch is staging, and none of its rules matches main."
    assert why(staging, "refs/tags/v1") == "None of its rules matches the tag v1."
    assert why(staging, "refs/notes/x").startswith("Only branches and tags")


def test_a_rehearsal_decides_the_same_and_leaves_nothing(
    production: Environment, queues: Queues, django_capture_on_commit_callbacks: Any
) -> None:
    document = {"ref": "refs/heads/main", "before": OLD, "after": NEW}
    read = HOSTS["generic"].parse(json.dumps(document).encode(), {})

    with django_capture_on_commit_callbacks(execute=True):
        decision = intake.rehearse(production.project, read)

    assert (decision.verdict, decision.reason) == ("accepted", "Queued: acme/production.")
    assert not Deployment.objects.exists()
    assert not Delivery.objects.exists()
    assert not queues.jobs
