"""None inherits, everything else counts, and the reader sees who set it."""

from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction

from deployments.configuration import freeze, thaw
from deployments.models import Deployment
from deployments.states import Status
from instances.models import Instance
from projects.inheritance import SETTINGS, effective, inherited, resolve
from projects.models import Environment, Project
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def instance() -> Instance:
    return factories.environment().instances.get()


def levels(instance: Instance, **values: Any) -> Instance:
    """The instance with a setting's value at its own level, its environment's, its project's."""
    for holder in (instance, instance.environment, instance.environment.project):
        for name, (own, environment, project) in values.items():
            value = {"instance": own, "environment": environment, "project": project}[holder.level]
            if hasattr(holder, name):
                setattr(holder, name, value)
    return instance


@pytest.mark.parametrize(
    ("at", "value", "origin"),
    [
        ((None, None, None), 0, "oCore's defaults"),
        ((None, None, 4), 4, "project Acme"),
        ((None, 2, 4), 2, "environment Production"),
        ((None, 0, 4), 0, "environment Production"),
        ((1, 0, 4), 1, "instance main"),
    ],
)
def test_the_nearest_level_that_says_something_wins(instance: Instance, at: Any, value: int, origin: str) -> None:
    found = resolve(levels(instance, workers=at), "workers")
    assert (found.value, str(found.origin)) == (value, origin)


def test_false_and_an_empty_list_count(instance: Instance) -> None:
    environment = levels(instance, auto_deploy=(None, False, True), custom_modules=(None, [], ["sale"])).environment
    assert resolve(environment, "auto_deploy").value is False
    assert resolve(environment, "custom_modules").value == []


def test_mappings_are_inherited_entry_by_entry_and_an_entry_can_be_taken_away(instance: Instance) -> None:
    levels(instance, odoo_conf=({"c": "3", "a": None}, {"b": "2"}, {"a": "1", "b": "1"}))
    found = resolve(instance, "odoo_conf")
    assert found.value == {"b": "2", "c": "3"}
    assert {key: str(origin) for key, origin in found.entries.items()} == {
        "b": "environment Production",
        "c": "instance main",
    }


def test_what_is_inherited_is_known_where_it_is_overridden(instance: Instance) -> None:
    levels(instance, workers=(1, None, 4))
    assert str(inherited(instance, "workers")) == "4, from project Acme"


def test_every_setting_has_a_default_and_a_value_in_words(instance: Instance) -> None:
    assert set(settings.OCORE_DEFAULTS) == set(SETTINGS)
    assert all(str(setting).endswith("from oCore's defaults") for setting in effective(instance).values())


def test_a_secret_is_never_in_the_words(instance: Instance) -> None:
    levels(instance, secret_variables=({"API_KEY": "hunter2"}, None, None))
    assert "hunter2" not in str(resolve(instance, "secret_variables"))
    assert "API_KEY" in str(resolve(instance, "secret_variables"))


def test_a_deployment_freezes_what_applied_at_its_start(instance: Instance) -> None:
    environment = instance.environment
    environment.workers, environment.secret_variables = 3, {"API_KEY": "hunter2"}
    environment.save()
    deployment = factories.deployment(environment, status=Status.RUNNING)
    freeze(deployment)
    Environment.objects.filter(pk=environment.pk).update(workers=7)

    kept = thaw(Deployment.objects.get(pk=deployment.pk))

    assert kept.instance("main")["workers"] == 3
    assert kept.instance("main")["secret_variables"] == {"API_KEY": "hunter2"}
    assert "hunter2" not in str(deployment.configuration)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (Project, {"repository_url": "ext::sh -c id"}),
        (Project, {"odoo_version": "19"}),
        (Project, {"memory_limit": 1}),
        (Environment, {"branch": "-upload-pack"}),
        (Environment, {"branch": "a..b"}),
        (Environment, {"memory_limit": 0}),
    ],
)
def test_the_database_itself_refuses_what_no_row_may_say(instance: Instance, model: Any, values: Any) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        model.objects.update(**values)
