"""Gogs' webhook: Gitea's older relative."""

from .base import Setup
from .gitea import Gitea


class Gogs(Gitea):
    name = "gogs"
    title = "Gogs"
    prefix = "Gogs"
    setup = Setup(
        "the repository's Settings → Webhooks → Add a new webhook → Gogs",
        url_label="Payload URL",
        events="Just the push event",
        note="Gogs follows no redirect, and refuses local addresses unless its app.ini allows them.",
        deploy_key="the repository's Settings → Deploy Keys → Add Deploy Key; without write access.",
    )
