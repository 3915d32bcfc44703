"""The settings are checked at start: each wrong value gets its id and a hint."""

import pytest
from cryptography.fernet import Fernet
from django.core.checks import Error
from django.test import override_settings

from ocore.checks import check_settings


def found(**values) -> list[str]:
    with override_settings(**values):
        return [message.id for message in check_settings()]


def test_the_defaults_pass():
    assert check_settings() == []


@pytest.mark.parametrize(
    ("identity", "values"),
    [
        ("ocore.E001", {"STATE_DIR": "/nowhere/at/all"}),
        ("ocore.E002", {"REDIS_URL": f"unix:///{'long/' * 21}redis.sock?db=0"}),
        ("ocore.E003", {"OCORE_ENCRYPTION_KEYS": [Fernet.generate_key().decode(), "not-a-key"]}),
        ("ocore.E004", {"OCORE_BASE_URL": "portal.example.com"}),
        ("ocore.E004", {"OCORE_BASE_URL": "https://portal.example.com:port"}),
        ("ocore.E004", {"OCORE_BASE_URL": "ftp://portal.example.com", "ALLOWED_HOSTS": ["portal.example.com"]}),
        ("ocore.E005", {"REDIS_URL": "http://localhost:6379"}),
        ("ocore.E007", {"ALLOWED_HOSTS": ["*"], "DEBUG": False}),
        (
            "ocore.E008",
            {"DEBUG": True, "OCORE_BASE_URL": "https://ocore.example.com", "ALLOWED_HOSTS": ["ocore.example.com"]},
        ),
        ("ocore.E009", {"OCORE_BASE_URL": "https://ocore.example.com", "ALLOWED_HOSTS": ["localhost"]}),
        ("ocore.E010", {"OCORE_WEB_BIND": "8000"}),
        ("ocore.E011", {"OCORE_EDGE_BIND": "localhost"}),
        ("ocore.E012", {"OCORE_BASE_DOMAIN": ".example.com"}),
        ("ocore.E013", {"OCORE_ODOO_IMAGE": "odoo:19.0"}),
        ("ocore.E013", {"OCORE_ODOO_IMAGE": "odoo:{version}-{flavour}"}),
        ("ocore.E013", {"OCORE_ODOO_IMAGE": "odoo:{version"}),
        ("ocore.E014", {"OCORE_NAMESPACE": "Our oCore"}),
        ("ocore.E015", {"OCORE_FILE_REPOSITORIES": ["repositories"]}),
        ("ocore.E015", {"OCORE_FILE_REPOSITORIES": ["/"]}),
        ("ocore.E016", {"OCORE_WORKERS": 0}),
        ("ocore.E017", {"OCORE_EDGE_HTTP_PORT": 70000}),
        ("ocore.E018", {"OCORE_DEADLINES": {"build": (float("nan"), 60)}}),
        ("ocore.E018", {"OCORE_DEADLINES": {"lunch": (60, 60)}}),
        ("ocore.W001", {"OCORE_BASE_URL": "http://ocore.example.com", "ALLOWED_HOSTS": [".example.com"]}),
    ],
)
def test_a_wrong_value_is_found_by_its_id(identity, values):
    assert found(**values) == [identity]


def test_a_database_that_ocore_does_not_run_on_is_found(settings, monkeypatch):
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.mysql")
    assert found() == ["ocore.E006"]


@pytest.mark.parametrize(
    "values",
    [
        {"OCORE_BASE_URL": "https://ocore.example.com", "ALLOWED_HOSTS": [".example.com"]},
        {"REDIS_URL": "rediss://:secret@redis.example.com:6380/2"},
        {"OCORE_WEB_BIND": "[::]:8000"},
        {"OCORE_ODOO_IMAGE": "registry.example.com:5000/odoo:{version}"},
        {"OCORE_SECRET_GRACE_SECONDS": 0},
    ],
)
def test_a_right_value_passes(values):
    assert found(**values) == []


def test_every_finding_says_what_to_write_instead():
    with override_settings(
        OCORE_BASE_URL="x",
        REDIS_URL="x",
        OCORE_WEB_BIND="x",
        OCORE_ODOO_IMAGE="x",
        OCORE_NAMESPACE="-",
        OCORE_WORKERS=0,
    ):
        messages = check_settings()
    assert len(messages) == 6
    assert all(isinstance(message, Error) and message.hint for message in messages)


def test_a_password_in_the_redis_url_is_not_repeated():
    with override_settings(REDIS_URL="redes://:hunter2@redis.example.com"):
        assert "hunter2" not in str(check_settings())
