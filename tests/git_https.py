"""A git host over https for tests: git's own server program behind a local TLS server, with a private folder.

Repositories below `private/` ask for `CREDENTIALS`, those below `public/` don't, everything below `moved/` redirects.
"""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.git_remote import GitRemote

CREDENTIALS = ("x-access-token", "canary-token-5f3a")


class GitHttps:
    """Serves while its context is open."""

    def __init__(self, folder: Path, *, certificate_of: "GitHttps | None" = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = certificate_of.certificate if certificate_of else folder / "certificate.pem"
        if not certificate_of:
            _make_certificate(self.certificate)
        self.seen: list[tuple[str, str]] = []
        """Path and Authorization of each request."""
        self.on_request: Callable[[object], None] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repository(self, name: str) -> GitRemote:
        return GitRemote(self.folder / name)

    def url(self, name: str) -> str:
        return f"https://127.0.0.1:{self._server.server_port}/{name}"


def _handler(host: GitHttps) -> type[BaseHTTPRequestHandler]:
    expected = "Basic " + base64.b64encode(":".join(CREDENTIALS).encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            host.seen.append((self.path, given))
            if host.on_request:
                host.on_request(self)
            if self.path.startswith("/moved/"):
                self._answer(301, {"Location": self.path.replace("/moved/", "/elsewhere/")})
            elif self.path.startswith("/private/") and given != expected:
                self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'})
            else:
                self._serve()

        do_POST = do_GET

        def _serve(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(host.folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
            }
            done = subprocess.run(
                ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
            self._answer(int(fields.pop("Status", "200").split()[0]), fields, content)

        def _answer(self, status: int, fields: dict[str, str], content: bytes = b"") -> None:
            self.send_response(status)
            for name, value in (fields | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _make_certificate(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
