"""The pages and endpoints for those who don't log in: git hosts, clients, and programs with a token."""

from django.urls import path

from deployments import status_pages, webhook
from deployments.api import api

urlpatterns = [
    path("api/v1/", api.urls),
    path("webhooks/<slug:host>/<slug:slug>/", webhook.receive, name="webhook"),
    path("status/<slug:token>/", status_pages.page, name="status"),
    path("status/<slug:token>.json", status_pages.data, name="status-json"),
]
