"""All of oCore's settings, each with a default that runs. `.env.example` documents the environment."""

import contextlib
import math
import os
import secrets
from pathlib import Path
from typing import Any

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env", overwrite=False)

# Everything that oCore writes on the portal's machine lies below this folder.
STATE_DIR = Path(env("OCORE_STATE_DIR", default=str(BASE_DIR / "var"))).resolve()
STATE_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)


def _kept_secret(name: str, make: Any) -> str:
    """A secret made at first use and kept in the state folder, readable by its owner only."""
    path = STATE_DIR / name
    if not path.exists():
        draft = path.with_name(f"{name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(make())
        # Of two processes that start at once the first one's stays; a half-written one is never seen.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def _seconds(text: str) -> float:
    """NaN where it is no number: a system check tells (`ocore.E018`)."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _new_fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


# Sessions, CSRF and signed links. Kept in the state folder unless given.
SECRET_KEY = env("DJANGO_SECRET_KEY", default="").strip() or _kept_secret(
    "django-secret-key", lambda: secrets.token_urlsafe(50)
)
# Fernet keys of the encrypted fields, newest first: prepend one to rotate.
OCORE_ENCRYPTION_KEYS: list[str] = [key.strip() for key in env.list("OCORE_ENCRYPTION_KEYS", default=[])] or [
    _kept_secret("encryption-key", _new_fernet_key)
]

DEBUG = env.bool("DJANGO_DEBUG", default=False)
# Password of the first account, `admin`; generated and shown once where it isn't given.
OCORE_ADMIN_PASSWORD = env("OCORE_ADMIN_PASSWORD", default="")
# Host names under which the portal is reached.
ALLOWED_HOSTS: list[str] = env.list("DJANGO_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
# Where people and git hosts reach the portal; links in messages are built from it.
OCORE_BASE_URL = env("OCORE_BASE_URL", default="http://localhost:8000").rstrip("/")
CSRF_TRUSTED_ORIGINS: list[str] = env.list("DJANGO_CSRF_TRUSTED_ORIGINS", default=[OCORE_BASE_URL])
# The web server listens here.
OCORE_WEB_BIND = env("OCORE_WEB_BIND", default="127.0.0.1:8000")
# True where a reverse proxy in front of the portal ends TLS and sets X-Forwarded-Proto and -For itself.
OCORE_BEHIND_TLS_PROXY = env.bool("OCORE_BEHIND_TLS_PROXY", default=False)
if OCORE_BEHIND_TLS_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
if OCORE_BASE_URL.startswith("https://"):
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_rq",
    "ocore",
    "projects",
    "instances",
    "deployments",
]
MIDDLEWARE = [
    "deployments.api.gate.ApiGate",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ocore.viewer.ViewerMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "ocore.urls"
WSGI_APPLICATION = "ocore.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
# Only our own files: no inline script or style, nothing from elsewhere.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}

# SQLite by default: readers never wait (WAL), writers queue at BEGIN instead of failing at COMMIT (IMMEDIATE).
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{STATE_DIR / 'ocore.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis only carries primary keys to the workers; by default on a private unix socket, started by `make up`.
REDIS_SOCKET = STATE_DIR / "redis" / "redis.sock"
REDIS_URL = env("REDIS_URL", default=f"unix://{REDIS_SOCKET}?db=0")
# Seconds a deployment may take in all, before it is taken back; the steps have their own deadlines.
OCORE_DEPLOYMENT_TIMEOUT = env.int("OCORE_DEPLOYMENT_TIMEOUT", default=4 * 3600)
# Each has a process that nothing else can keep from it (Procfile): what must not wait is never behind what takes long.
RQ_QUEUES = {
    # With an hour more than a deployment has, to take it back.
    "urgent": {"URL": REDIS_URL, "DEFAULT_TIMEOUT": OCORE_DEPLOYMENT_TIMEOUT + 3600},  # recoveries; a person's control
    "deployments": {"URL": REDIS_URL, "DEFAULT_TIMEOUT": OCORE_DEPLOYMENT_TIMEOUT + 3600},
    "chores": {"URL": REDIS_URL, "DEFAULT_TIMEOUT": 600},  # the clock's
    "slow": {"URL": REDIS_URL, "DEFAULT_TIMEOUT": OCORE_DEPLOYMENT_TIMEOUT},  # dumps, removals, looking for commits
    "reports": {"URL": REDIS_URL, "DEFAULT_TIMEOUT": 90},  # what git hosts are told, which no deployment waits for
}
# django-rq's dashboard lets any staff user empty the queues; the admin shows what matters itself.
RQ_SHOW_ADMIN_LINK = False
RQ = {"WORKER_CLASS": "deployments.worker.Worker"}
# Per step of a deployment: seconds in all, and seconds without a word. `build=1200/300,...` replaces single ones.
OCORE_DEADLINES: dict[str, tuple[float, float]] = {
    "build": (5400, 900),
    "snapshot": (3600, 3600),
    "deploy": (10800, 1800),
    "health_check": (3900, 3900),
    "complete": (600, 300),
}
for _entry in env.list("OCORE_DEADLINES", default=[]):
    _step, _, _limits = _entry.partition("=")
    _total, _, _silence = _limits.partition("/")
    OCORE_DEADLINES[_step.strip()] = (_seconds(_total), _seconds(_silence or _total))
# How many deployments run at once, on all servers together; each server has limits of its own.
OCORE_WORKERS = env.int("OCORE_WORKERS", default=2)
# Seconds that a program of the portal may stand still before `make up` kills it and starts it again; 0: never.
OCORE_STANDSTILL_SECONDS = env.int("OCORE_STANDSTILL_SECONDS", default=60)

CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False
DATETIME_FORMAT = "Y-m-d H:i:s e"

STATIC_URL = "static/"
STATIC_ROOT = STATE_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True

# A webhook's body: GitHub and GitLab send up to 25 MB. Bytes.
OCORE_WEBHOOK_MAX_BYTES = env.int("OCORE_WEBHOOK_MAX_BYTES", default=25 * 1024 * 1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = OCORE_WEBHOOK_MAX_BYTES
# How many refused webhook calls are kept per project and minute; more than that are only logged.
OCORE_REFUSED_PER_MINUTE = env.int("OCORE_REFUSED_PER_MINUTE", default=30)

# How many webhook calls a minute are taken from one address, proven or not, and how many proven ones for one project;
# more are answered with 429. 0: no limit. A git host calls for many projects from few addresses.
OCORE_WEBHOOKS_PER_ADDRESS = env.int("OCORE_WEBHOOKS_PER_ADDRESS", default=3000)
OCORE_WEBHOOKS_PER_PROJECT = env.int("OCORE_WEBHOOKS_PER_PROJECT", default=1200)
# How many calls of the API a minute are taken from one address, and how many of one token; more are answered with 429.
# 0: no limit.
OCORE_API_PER_ADDRESS = env.int("OCORE_API_PER_ADDRESS", default=3000)
OCORE_API_PER_TOKEN = env.int("OCORE_API_PER_TOKEN", default=600)
# Hours for which the answer to a call with an Idempotency-Key is kept.
OCORE_API_ANSWER_HOURS = env.int("OCORE_API_ANSWER_HOURS", default=24)
# In a head commit's message: don't deploy this by itself. Where an environment honours them: its setting skip_words.
OCORE_SKIP_WORDS: list[str] = env.list(
    "OCORE_SKIP_WORDS",
    default=["[skip deploy]", "[deploy skip]", "[no deploy]", "[skip ci]", "[ci skip]", "[no ci]"],
)
# Git hosts whose API may be told statuses over plain http, or that are this very machine: host, or host:port.
OCORE_PLAIN_GIT_HOSTS: list[str] = env.list("OCORE_PLAIN_GIT_HOSTS", default=[])

# What separates this oCore's containers, images, volumes, networks and databases from another's on one server.
OCORE_NAMESPACE = env("OCORE_NAMESPACE", default="ocore")
# The images, by template. `{version}` is the Odoo version; projects and environments may override the first.
OCORE_ODOO_IMAGE = env("OCORE_ODOO_IMAGE", default="odoo:{version}")
OCORE_POSTGRES_IMAGE = env("OCORE_POSTGRES_IMAGE", default="postgres:17")
OCORE_EDGE_IMAGE = env("OCORE_EDGE_IMAGE", default="caddy:2.11")
OCORE_LIMITER_IMAGE = env("OCORE_LIMITER_IMAGE", default="haproxy:3.2")
# Seconds to wait for a registry before a base image is built from Debian's packages instead.
OCORE_REGISTRY_TIMEOUT = env.int("OCORE_REGISTRY_TIMEOUT", default=20)
# The edge of "this machine" listens here, and environments are named below this domain.
OCORE_EDGE_HTTP_PORT = env.int("OCORE_EDGE_HTTP_PORT", default=8080)
OCORE_BASE_DOMAIN = env("OCORE_BASE_DOMAIN", default="localhost")
# Address on which a server's edge publishes its port.
OCORE_EDGE_BIND = env("OCORE_EDGE_BIND", default="0.0.0.0")  # noqa: S104 - an edge is there to be reached
# PEM file of the authorities that the edges trust at an ACME server of your own; empty: the public ones.
OCORE_ACME_ROOTS = env("OCORE_ACME_ROOTS", default="")
# Seconds between two looks at the certificates that the edges show, and days before the end of one that it is told.
OCORE_CERTIFICATE_SECONDS = env.int("OCORE_CERTIFICATE_SECONDS", default=300)
OCORE_CERTIFICATE_WARN_DAYS = env.int("OCORE_CERTIFICATE_WARN_DAYS", default=14)
# Folders from which `file://` repositories are accepted; the demo's is the only one by default.
OCORE_FILE_REPOSITORIES: list[str] = env.list("OCORE_FILE_REPOSITORIES", default=[str(STATE_DIR / "demo")])
# PEM file of the authorities that pip trusts inside image builds, where a proxy inspects TLS; empty: the image's own.
OCORE_BUILD_CERTIFICATES = env(
    "OCORE_BUILD_CERTIFICATES", default=os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE", "")
)
# Free space a server must have before a build or a snapshot starts. Bytes.
OCORE_MIN_FREE_BYTES = env.int("OCORE_MIN_FREE_BYTES", default=2 * 1024**3)
# What is kept, by number and by days: beyond either it goes. What a rollback may need stays whatever these say.
# Earlier live versions of each environment that can always be gone back to, with their image and data.
OCORE_KEEP_ROLLBACKS = env.int("OCORE_KEEP_ROLLBACKS", default=3)
# Snapshots on the server, per environment.
OCORE_KEEP_SNAPSHOTS = env.int("OCORE_KEEP_SNAPSHOTS", default=5)
OCORE_KEEP_SNAPSHOT_DAYS = env.int("OCORE_KEEP_SNAPSHOT_DAYS", default=30)
# Portable dumps on the portal's machine, per environment.
OCORE_KEEP_DUMPS = env.int("OCORE_KEEP_DUMPS", default=10)
OCORE_KEEP_DUMP_DAYS = env.int("OCORE_KEEP_DUMP_DAYS", default=90)
# Images on each server, per project.
OCORE_KEEP_IMAGES = env.int("OCORE_KEEP_IMAGES", default=10)
OCORE_KEEP_IMAGE_DAYS = env.int("OCORE_KEEP_IMAGE_DAYS", default=90)
# Copies of repositories that nothing live comes from, in days without a deployment.
OCORE_KEEP_MIRROR_DAYS = env.int("OCORE_KEEP_MIRROR_DAYS", default=90)
# Deployments in the list, and those of them that still have their log, per environment.
OCORE_KEEP_DEPLOYMENTS = env.int("OCORE_KEEP_DEPLOYMENTS", default=500)
OCORE_KEEP_DEPLOYMENT_DAYS = env.int("OCORE_KEEP_DEPLOYMENT_DAYS", default=730)
OCORE_KEEP_LOGS = env.int("OCORE_KEEP_LOGS", default=200)
OCORE_KEEP_LOG_DAYS = env.int("OCORE_KEEP_LOG_DAYS", default=180)
# Webhook calls, per project.
OCORE_KEEP_DELIVERIES = env.int("OCORE_KEEP_DELIVERIES", default=1000)
OCORE_KEEP_DELIVERY_DAYS = env.int("OCORE_KEEP_DELIVERY_DAYS", default=90)
# Health probes; the status page shows 14 days of them.
OCORE_KEEP_PROBE_DAYS = env.int("OCORE_KEEP_PROBE_DAYS", default=35)
# With less than this free on a disk, the oldest things that no rollback needs go before their time. Bytes.
OCORE_KEEP_FREE_BYTES = env.int("OCORE_KEEP_FREE_BYTES", default=5 * 1024**3)
# Seconds between two looks at what may go.
OCORE_RETENTION_SECONDS = env.int("OCORE_RETENTION_SECONDS", default=3600)
# Seconds for which a request is held at the edge while an instance is replaced, before the maintenance page.
OCORE_HOLD_SECONDS = env.int("OCORE_HOLD_SECONDS", default=30)
# Seconds for which requests in flight may finish before an instance is stopped.
OCORE_DRAIN_SECONDS = env.int("OCORE_DRAIN_SECONDS", default=30)
# Seconds for which a rollback that fails is tried again, before a person is called.
OCORE_ROLLBACK_SECONDS = env.int("OCORE_ROLLBACK_SECONDS", default=120)
# Seconds between two health probes of an environment by the clock.
OCORE_PROBE_SECONDS = env.int("OCORE_PROBE_SECONDS", default=60)
# Seconds after which the previous webhook secret is no longer accepted once a new one was made.
OCORE_SECRET_GRACE_SECONDS = env.int("OCORE_SECRET_GRACE_SECONDS", default=24 * 3600)

# What a project has when it says nothing, and so the end of every inheritance (projects/inheritance.py).
OCORE_DEFAULTS: dict[str, Any] = {
    "odoo_version": env("OCORE_DEFAULT_ODOO_VERSION", default="19.0"),
    "odoo_image": "",  # the template OCORE_ODOO_IMAGE
    "auto_deploy": True,
    "skip_words": True,  # never in production
    "deploy_paths": [],  # any change deploys
    "strategy": "auto",
    "update_policy": "changed",
    "custom_modules": ["*"],  # all installable ones at the first deployment, none silently later
    "pip_packages": [],
    "workers": 0,  # threaded, as Odoo's own default; 150 MB instead of 280 MB
    "cron_threads": 1,
    "memory_limit": 2 * 1024**3,
    "cpu_limit": 0.0,  # none: where processors are short, Docker shares them out evenly
    "limit_memory_soft": 1536 * 1024**2,
    "limit_memory_hard": 1792 * 1024**2,
    "limit_time_cpu": 600,
    "limit_time_real": 1200,
    "odoo_conf": {},
    "environment_variables": {},
    "secret_variables": {},
    "health_path": "/web/health",
    "health_deadline": 120,
    "allowed_addresses": [],
    "basic_auth": {},
    "search_engines": "auto",
    "body_limit": 256 * 1024**2,  # twice what Odoo itself takes as an upload
    "https_only": True,
    "hsts_seconds": 30 * 24 * 3600,
    "redirect_generated_name": False,
    "requests_per_second": 100,  # an office behind one address; Odoo's first page alone takes some 30
    "request_burst": 300,
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"redact": {"()": "ocore.redaction.RedactingFilter"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["redact"]}},
    "root": {"handlers": ["console"], "level": env("OCORE_LOG_LEVEL", default="INFO")},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        # Its worker tells every job in four lines; ours tell what a deployment did.
        "rq": {"handlers": ["console"], "level": "WARNING", "propagate": False},
    },
}
