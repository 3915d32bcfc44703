"""The git hosts by name. To add one: a module with a class that is a `Host`, and a line here."""

from .azure_devops import AzureDevOps
from .base import Host, Push, PushedCommit, RefChange, Refused, Setup, Unreadable, WebhookError
from .bitbucket_cloud import BitbucketCloud
from .bitbucket_server import BitbucketServer
from .forgejo import Forgejo
from .generic import Generic
from .gitea import Gitea
from .github import GitHub
from .gitlab import GitLab
from .gogs import Gogs

_ALL: tuple[Host, ...] = (
    GitHub(),
    GitLab(),
    BitbucketCloud(),
    BitbucketServer(),
    Gitea(),
    Forgejo(),
    Gogs(),
    AzureDevOps(),
    Generic(),
)
HOSTS: dict[str, Host] = {host.name: host for host in _ALL}

__all__ = ["HOSTS", "Host", "Push", "PushedCommit", "RefChange", "Refused", "Setup", "Unreadable", "WebhookError"]
