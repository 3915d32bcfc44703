"""The web server's configuration, for `gunicorn --config python:ocore.machine.gunicorn_conf`.

Threads, because a page waits for the database or an engine more than it computes; two processes, so that one that
dies is not an outage.
"""

import os

from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ocore.settings")

bind = settings.OCORE_WEB_BIND
worker_class = "gthread"
workers = 2
threads = 8
timeout = 60
graceful_timeout = 3
max_requests = 20_000
max_requests_jitter = 2_000
control_socket_disable = True
accesslog = None
errorlog = "-"
