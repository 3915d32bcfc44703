"""Every URL of the portal."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from ocore.health import healthz

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("healthz", healthz, name="healthz"),
    path("", include("deployments.urls")),
]
