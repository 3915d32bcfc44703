"""Encrypted fields: ciphertext in the database and in dumps, and the same secret again after loading one."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core import serializers
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.serializers.base import DeserializationError
from django.db import connection

from projects.models import Environment, Project, Server
from tests import factories

pytestmark = pytest.mark.django_db


def load(text: str, form: str = "json") -> None:
    for loaded in serializers.deserialize(form, text):
        loaded.save()


@pytest.mark.parametrize("form", ["json", "jsonl", "python", "xml"])
@pytest.mark.parametrize("mapping", [None, {}, {"API_KEY": "hunter22", "GONE": None}])
def test_a_dump_holds_ciphertext_and_loading_it_gives_the_same_secrets(
    form: str, mapping: dict[str, str | None] | None
) -> None:
    project = factories.project(repository_token="canary-token", secret_variables=mapping)
    before = (project.webhook_secret, "canary-token", "", mapping)
    dump: Any = serializers.serialize(form, [project])
    for secret in ("canary-token", "hunter22", project.webhook_secret):
        assert secret not in str(dump)
    Project.objects.update(webhook_secret="other", repository_token="other", secret_variables={"OTHER": "x"})

    load(dump, form)

    found = Project.objects.get()
    after = (found.webhook_secret, found.repository_token, found.previous_webhook_secret, found.secret_variables)
    assert after == before


def test_djangos_own_commands_move_an_installation(tmp_path: Path) -> None:
    environment = factories.environment(secret_variables={"API_KEY": "hunter22"})
    passwords = (environment.database_password, environment.odoo_admin_password)
    file = tmp_path / "everything.json"
    with file.open("w") as dump:
        call_command("dumpdata", "projects", stdout=dump)
    Environment.objects.update(database_password="other", odoo_admin_password="other", secret_variables=None)

    call_command("loaddata", str(file), stdout=StringIO())

    found = Environment.objects.get()
    assert (found.database_password, found.odoo_admin_password) == passwords
    assert found.secret_variables == {"API_KEY": "hunter22"}


def test_what_was_loaded_is_ciphertext_in_the_database_again() -> None:
    project = factories.project(repository_token="canary-token")
    load(serializers.serialize("json", [project]))

    with connection.cursor() as cursor:
        cursor.execute("SELECT repository_token FROM projects_project")
        stored = cursor.fetchone()[0]
    assert stored.startswith("gAAAA")


def test_a_dump_of_another_installation_needs_its_key(settings: Any) -> None:
    dump = serializers.serialize("json", [factories.project(repository_token="canary-token")])
    settings.OCORE_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]

    with pytest.raises(DeserializationError, match="OCORE_ENCRYPTION_KEYS"):
        load(dump)


def test_plain_text_is_validated_as_it_is_typed() -> None:
    server = Server(name="Paris", slug="paris", postgres_dsn="postgresql://dba:hidden@db.example.com/postgres")
    server.full_clean()
    assert server.postgres_dsn == "postgresql://dba:hidden@db.example.com/postgres"

    server.postgres_dsn = "postgresql://dba:hidden@localhost/postgres"
    with pytest.raises(ValidationError) as refused:
        server.full_clean()
    assert list(refused.value.message_dict) == ["postgres_dsn"]
    assert "hidden" not in json.dumps(refused.value.message_dict)
