"""Webhooks that come twice, late or out of order, on a simulated server: nothing is deployed twice, and nothing old."""

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest

from deployments import intake, retries, services
from deployments.models import Delivery, Deployment
from deployments.states import Status, StepKind, StepStatus, Trigger
from instances.runtimes.base import Answer
from instances.runtimes.simulated import Faults
from projects.models import Environment
from tests import kept
from tests.acme import ADA, addon, log_of
from tests.conftest import Queues
from tests.git_remote import GitRemote

pytestmark = pytest.mark.django_db(transaction=True)
Deliver = Callable[..., Deployment | None]


@pytest.fixture
def deliver(production: Environment, queues: Queues, faults: Faults) -> Deliver:
    """A webhook call for a commit of main, under an id of its own; what it caused, once the workers are done."""

    def call(sha: str, *, work: bool = True) -> Deployment | None:
        # Each from elsewhere: the very same push sent again is told apart before a worker sees it.
        number = Delivery.objects.count()
        document = {"ref": "refs/heads/main", "before": f"{number + 1:040x}", "after": sha, "commits": []}
        body = json.dumps(document | {"pusher": {"name": "ann"}}).encode()
        secret = production.project.webhook_secret.encode()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": f"d-{number}",
            "X-Hub-Signature-256": f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}",
        }
        known = set(Deployment.objects.values_list("pk", flat=True))
        answer = intake.receive(production.project, "github", body, headers, None)
        assert answer.status in (200, 202)
        if work:
            queues.run_all()
        return Deployment.objects.exclude(pk__in=known).first()

    return call


@pytest.fixture
def pushed(deliver: Deliver, production: Environment, remote: GitRemote, once: Any) -> Deployment:
    """The first push, which is live."""
    once("pushed", lambda: deliver(remote.sha("main")), kept.traits(production))
    return live(production)


def live(environment: Environment) -> Deployment:
    return Deployment.objects.get(environment=environment, live=True)


def test_an_older_push_that_comes_late_deploys_nothing_and_says_what_runs(
    deliver: Deliver, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    older = remote.sha("main")
    newer = remote.commit("Second", addon("1.1"))
    assert deliver(newer).status == Status.SUCCEEDED
    faults.calls.clear()

    late = deliver(older)

    assert (late.status, late.superseded_by) == (Status.SUPERSEDED, live(production))
    assert "is live as #" in late.error
    assert late.advice
    assert [(step.kind, step.status) for step in late.steps.all()] == [(StepKind.BUILD, StepStatus.SKIPPED)]
    assert not [call for call in faults.calls if call.startswith(("images.", "edge.close", "containers.stop"))]


def test_of_two_pushes_out_of_order_the_branchs_tip_is_deployed_once(
    deliver: Deliver, production: Environment, remote: GitRemote
) -> None:
    older = remote.sha("main")
    newer = remote.commit("Second", addon("1.1"))

    first = deliver(older)
    second = deliver(newer)

    assert (first.status, first.commit) == (Status.SUCCEEDED, newer)
    assert second is None, "the intake already sees that it is live"
    assert live(production).commit == newer


def test_a_replay_after_a_rollback_by_hand_does_not_undo_the_rollback_and_a_new_push_deploys(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    first = pushed
    bad = remote.commit("Second", addon("1.1"))
    deliver(bad)
    back = services.roll_back(production, ADA)
    queues.run_all()

    replayed = deliver(bad)

    assert live(production) == back
    assert (replayed.status, replayed.superseded_by) == (Status.SUPERSEDED, back)
    assert live(production).commit == first.commit

    new = remote.commit("Third", addon("1.2"))
    third = deliver(new)

    assert third.status == Status.SUCCEEDED, log_of(third)
    assert live(production).commit == new


def test_a_replay_does_not_undo_a_rollback_from_what_a_person_had_deployed_again(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues, faults: Faults
) -> None:
    bad = remote.commit("Second", addon("1.1"))
    faults.unhealthy[f"-d{live(production).pk + 1}"] = Answer(500, "broken")
    failed = deliver(bad)
    assert failed.status == Status.ROLLED_BACK
    faults.clear()
    retries.retry(failed, ADA, Trigger.MANUAL)
    queues.run_all()
    assert live(production).commit == bad
    back = services.roll_back(production, ADA)
    queues.run_all()

    replayed = deliver(bad)

    assert (replayed.status, replayed.superseded_by) == (Status.SUPERSEDED, back)
    assert live(production) == back


def test_a_push_whose_delivery_is_kept_no_longer_is_still_judged_as_one(
    deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    older = remote.sha("main")
    deliver(remote.commit("Second", addon("1.1")))
    late = deliver(older, work=False)
    Delivery.objects.all().delete()

    queues.run_all()

    late.refresh_from_db()
    assert late.status == Status.SUPERSEDED


def test_a_push_does_not_replace_a_rollback_that_is_queued(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    newer = remote.commit("Second", addon("1.1"))
    deliver(newer)
    back = services.roll_back(production, ADA)

    assert deliver(newer, work=False) is None
    queues.run_all()

    assert live(production) == back


@pytest.mark.parametrize("forced", [False, True])
def test_a_push_does_not_replace_what_a_person_has_queued_and_its_commits_are_pending(
    deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues, forced: bool
) -> None:
    first = remote.sha("main")
    deliver(first)
    tag = remote.commit("Tagged", addon("1.1"), branch="v1", parent=first)
    by_hand = services.request_deployment(production, Trigger.MANUAL, ADA, ref="v1", forced=forced)

    assert deliver(first, work=False) is None
    newer = remote.commit("Second", addon("1.2"))
    assert deliver(newer, work=False) is None
    queues.run_all()

    assert live(production) == by_hand
    assert live(production).commit == tag
    assert f"#{by_hand.pk}, asked for by ada, is queued there" in Delivery.objects.first().outcome[0]["reason"]
    production.refresh_from_db()
    assert newer in [one["sha"] for one in production.pending["commits"]]


def test_a_force_push_is_deployed_whichever_way_it_went(
    deliver: Deliver, production: Environment, remote: GitRemote
) -> None:
    root = remote.sha("main")
    deliver(root)
    second = remote.commit("Second", addon("1.1"))
    deliver(second)

    remote.reset("main", root)
    rewound = deliver(root)
    assert rewound.status == Status.SUCCEEDED, log_of(rewound)
    assert live(production).commit == root

    rewritten = remote.commit("Second, otherwise", addon("1.2"), parent=root)
    assert deliver(rewritten).status == Status.SUCCEEDED
    assert live(production).commit == rewritten


def test_what_a_newer_tag_has_already_is_not_deployed_from_the_branch(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues
) -> None:
    behind = remote.commit("Second", addon("1.1"))
    ahead = remote.commit("Third", addon("1.2"), branch="release", parent=behind)
    services.request_deployment(production, Trigger.MANUAL, ADA, ref="release")
    queues.run_all()
    assert live(production).commit == ahead

    late = deliver(behind)

    assert late.status == Status.SUPERSEDED
    assert "and more" in late.error
    assert live(production).commit == ahead


def test_a_commit_that_did_not_get_healthy_is_tried_again_by_its_own_push_only(
    deliver: Deliver, production: Environment, remote: GitRemote, faults: Faults
) -> None:
    first = remote.sha("main")
    deliver(first)
    second = remote.commit("Second", addon("1.1"))
    deliver(second)
    third = remote.commit("Third", addon("1.2"))
    faults.unhealthy[f"-d{live(production).pk + 1}"] = Answer(500, "broken")
    assert deliver(third).status == Status.ROLLED_BACK
    faults.clear()

    late = deliver(first)
    assert late.status == Status.SUPERSEDED, "an older push does not bring the broken tip again"
    assert "rolled back" in late.error

    again = deliver(third)
    assert again.status == Status.SUCCEEDED, log_of(again)


def test_a_person_deploys_what_is_live_already(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues
) -> None:

    by_hand = services.request_deployment(production, Trigger.MANUAL, ADA)
    queues.run_all()

    by_hand.refresh_from_db()
    assert by_hand.status == Status.SUCCEEDED


def test_a_cancellation_at_that_instant_counts(
    deliver: Deliver, production: Environment, remote: GitRemote, queues: Queues, monkeypatch: Any
) -> None:
    from deployments import push_order

    older = remote.sha("main")
    deliver(remote.commit("Second", addon("1.1")))
    judge = push_order.nothing_new

    def cancelled_meanwhile(deployment: Deployment, *arguments: Any) -> Any:
        services.cancel(Deployment.objects.get(pk=deployment.pk), ADA)
        return judge(deployment, *arguments)

    monkeypatch.setattr(push_order, "nothing_new", cancelled_meanwhile)

    assert deliver(older).status == Status.CANCELLED


@pytest.mark.parametrize("paths", [["addons"], ["acme_notes/**"], ["acme_notes"], ["*.py"]])
def test_what_changes_none_of_the_wanted_paths_is_left_out_and_what_does_is_deployed(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote, paths: list[str]
) -> None:
    Environment.objects.update(deploy_paths=paths)

    left_out = deliver(remote.commit("Say more", {"README.md": "more"}))

    assert left_out.status == Status.SUPERSEDED
    assert left_out.error.startswith(f"Nothing changed since #{live(production).pk} in {paths[0]}")
    assert deliver(remote.commit("Second", addon("1.1"))).status == Status.SUCCEEDED


def test_a_wanted_change_is_not_lost_to_a_later_push_that_changes_nothing_wanted(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote
) -> None:
    Environment.objects.update(deploy_paths=["addons"])
    deliver(remote.commit("Second", addon("1.1")), work=False)

    last = deliver(remote.commit("Say more", {"README.md": "more"}))

    assert (last.status, live(production)) == (Status.SUCCEEDED, last)


def test_requirements_and_a_removed_addon_count_as_addons(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote
) -> None:
    Environment.objects.update(deploy_paths=["addons"])

    assert deliver(remote.commit("Need more", {"requirements.txt": "phonenumbers\n"})).status == Status.SUCCEEDED


def test_a_commit_whose_message_the_host_did_not_tell_may_still_ask_to_be_skipped(
    pushed: Deployment, deliver: Deliver, production: Environment, remote: GitRemote
) -> None:
    skipped = remote.commit("Second [skip deploy]", addon("1.1"))
    Environment.objects.update(kind="staging")

    assert deliver(skipped).error == "Skipped: its head commit says “[skip deploy]”."
    Environment.objects.update(kind="production")
    assert deliver(skipped).status == Status.SUCCEEDED
