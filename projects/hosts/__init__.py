"""The git hosts by name. To add one: a module with a class that is a `Host`, and a line here."""

from .base import Host, Push, PushedCommit, RefChange, Refused, Unreadable, WebhookError
from .github import GitHub

HOSTS: dict[str, Host] = {host.name: host for host in (GitHub(),)}

__all__ = ["HOSTS", "Host", "Push", "PushedCommit", "RefChange", "Refused", "Unreadable", "WebhookError"]
