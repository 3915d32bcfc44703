"""The pages and endpoints for those who have no account: git hosts and clients."""

from django.urls import path

from deployments import status_pages, webhook

urlpatterns = [
    path("webhooks/<slug:host>/<slug:slug>/", webhook.receive, name="webhook"),
    path("status/<slug:token>/", status_pages.page, name="status"),
    path("status/<slug:token>.json", status_pages.data, name="status-json"),
]
