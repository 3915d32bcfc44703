"""The tests' own state folder, namespace and ports, so that they run beside a `make up`."""

import os
import tempfile

os.environ.setdefault("OCORE_STATE_DIR", tempfile.mkdtemp(prefix="ocore-tests-"))
os.environ["OCORE_NAMESPACE"] = "ocore-test"
os.environ["OCORE_EDGE_HTTP_PORT"] = "18080"
os.environ["OCORE_EDGE_BIND"] = "127.0.0.1"
# SQLite, unless the tests are to run on another database: tests/real/test_portal_on_postgresql.py.
os.environ["DATABASE_URL"] = os.environ.get(
    "OCORE_TEST_DATABASE_URL", f"sqlite:///{os.environ['OCORE_STATE_DIR']}/ocore.sqlite3"
)

from ocore.settings import *  # noqa: F403
from ocore.settings import DATABASES, OCORE_FILE_REPOSITORIES, STATE_DIR, STORAGES

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file as in real life: heartbeats and workers write from threads, which SQLite's shared memory doesn't take.
    DATABASES["default"]["TEST"] = {"NAME": str(STATE_DIR / "test.sqlite3")}
    # No test cuts the power, and what a killed process wrote survives without waiting for the disk.
    DATABASES["default"]["OPTIONS"]["init_command"] += "PRAGMA synchronous=OFF;"
(STATE_DIR / "static").mkdir(exist_ok=True)
OCORE_ROLLBACK_SECONDS = 0
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
OCORE_FILE_REPOSITORIES.append(tempfile.gettempdir())
# All tests call from one address; those of the limits set them.
OCORE_WEBHOOKS_PER_ADDRESS = OCORE_WEBHOOKS_PER_PROJECT = OCORE_API_PER_ADDRESS = OCORE_API_PER_TOKEN = 0
