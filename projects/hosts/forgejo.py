"""Forgejo's webhook: Gitea's, under its own name."""

from .base import Setup
from .gitea import Gitea


class Forgejo(Gitea):
    name = "forgejo"
    title = "Forgejo"
    prefix = "Forgejo"
    setup = Setup(
        "the repository's Settings → Webhooks → Add webhook → Forgejo",
        url_label="Target URL",
        events="Push events",
        note="Forgejo calls only addresses that its ALLOWED_HOST_LIST ([webhook] in app.ini) allows; private ones must "
        "be named there. One so old that it offers only “Gitea” as a type is set up as Gitea here.",
        deploy_key="the repository's Settings → Deploy Keys → Add Deploy Key; without write access.",
    )
