"""TLS at the edge, as data for Caddy: listeners, certificates by ACME, of the edge's own authority, or uploaded."""

import hashlib
from collections.abc import Sequence
from typing import Any

from instances.runtimes.base import Entrance, Name, Route

Json = dict[str, Any]

FOLDER = "/data"
"""The edge's volume."""
HTTPS_PORT = 8443
"""On which the edge listens inside its container."""


def listening(entrance: Entrance, http_port: int) -> Json:
    """Of the edge's server. Caddy leaves TLS off on what the application names its `http_port`. Caddy's own automatic
    redirects stay off: which environment wants them is said in its routes."""
    data: Json = {"listen": [f":{http_port}"], "protocols": ["h1"]}
    if entrance.https_port:
        data = {
            "listen": [f":{http_port}", f":{HTTPS_PORT}"],
            "protocols": ["h1", "h2"],
            "tls_connection_policies": [{}],
        }
    if entrance.trusted_proxies:
        # Strict: from the right to the left, as proxies append; the leftmost is the client's own word.
        data["trusted_proxies"] = {"source": "static", "ranges": sorted(entrance.trusted_proxies)}
        data["trusted_proxies_strict"] = 1
    return data


def ports(entrance: Entrance, http_port: int) -> Json:
    """Also those at which Caddy answers an ACME server's challenges."""
    return {"http_port": http_port, "https_port": HTTPS_PORT} if entrance.https_port else {}


def apps(routes: Sequence[Route], entrance: Entrance) -> Json:
    if not entrance.https_port:
        return {}
    names = sorted((name for route in routes for name in route.entry.names), key=lambda name: name.host)
    uploaded = [name for name in names if name.chain]
    own = [name.host for name in names if not name.chain and name.own_authority]
    public = [name.host for name in names if not name.chain and not name.own_authority]
    policies: list[Json] = []
    if own:
        policies.append({"subjects": own, "issuers": [{"module": "internal"}]})
    if public:
        policies.append({"subjects": public, "issuers": [_acme(entrance)]})
    return {
        "pki": {"certificate_authorities": {"local": {"name": "oCore edge", "install_trust": False}}},
        "tls": {
            "certificates": {"load_pem": [_pem(name) for name in uploaded], "automate": sorted(own + public)},
            "automation": {"policies": policies},
        },
    }


def roots_name(entrance: Entrance) -> str:
    """File with the authorities that are trusted at the ACME server. By its content: a saved configuration that is
    loaded at a restart finds the one that it was made with."""
    digest = hashlib.sha256(entrance.acme_roots.encode()).hexdigest()[:16]
    return f"acme-roots-{digest}.pem" if entrance.acme_roots else ""


def _pem(name: Name) -> Json:
    return {"certificate": name.chain, "key": name.key, "tags": [name.host]}


def _acme(entrance: Entrance) -> Json:
    issuer: Json = {"module": "acme", "ca": entrance.acme_directory}
    if entrance.acme_email:
        issuer["email"] = entrance.acme_email
    if entrance.acme_roots:
        issuer["trusted_roots_pem_files"] = [f"{FOLDER}/{roots_name(entrance)}"]
    return issuer
