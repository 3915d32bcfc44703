"""The git hosts by name. To add one: a module with a class that is a `Host`, and a line here."""

from .api import StatusNotTaken
from .azure_devops import AzureDevOps, AzureDevOpsStatuses
from .base import Host, Push, PushedCommit, RefChange, Refused, Setup, Unreadable, WebhookError
from .bitbucket_cloud import BitbucketCloud, BitbucketCloudStatuses
from .bitbucket_server import BitbucketServer, BitbucketServerStatuses
from .forgejo import Forgejo
from .generic import Generic
from .gitea import Gitea, GiteaStatuses
from .github import GitHub, GitHubStatuses
from .gitlab import GitLab, GitLabStatuses
from .gogs import Gogs
from .statuses import Credentials, Place, Report, State, Statuses

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
STATUSES: dict[str, Statuses] = {
    "github": GitHubStatuses(),
    "gitlab": GitLabStatuses(),
    "bitbucket_cloud": BitbucketCloudStatuses(),
    "bitbucket_server": BitbucketServerStatuses(),
    "gitea": GiteaStatuses(),
    "forgejo": GiteaStatuses(),
    "azure_devops": AzureDevOpsStatuses(),
}
"""Those that can be told what became of a commit. Gogs has no API for it."""

__all__ = [
    "HOSTS",
    "STATUSES",
    "Credentials",
    "Host",
    "Place",
    "Push",
    "PushedCommit",
    "RefChange",
    "Refused",
    "Report",
    "Setup",
    "State",
    "StatusNotTaken",
    "Statuses",
    "Unreadable",
    "WebhookError",
]
