"""The portal's WSGI application."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from ocore.machine.web import keep_connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ocore.settings")
keep_connections(settings.DATABASES.values())
application = get_wsgi_application()
