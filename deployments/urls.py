"""The pages and endpoints for those who have no account: git hosts and clients."""

from django.urls import path

from deployments import webhook

urlpatterns = [
    path("webhooks/<slug:host>/<slug:slug>/", webhook.receive, name="webhook"),
]
