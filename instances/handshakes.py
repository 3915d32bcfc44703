"""What certificate an edge shows for a host name: a TLS handshake from outside, as a browser would begin it."""

import socket
import ssl

from cryptography import x509

from instances.runtimes.base import EdgeError
from projects.certificates import Facts, facts


def look(address: str, port: int, host: str, *, timeout: float = 5) -> Facts:
    """Whoever signed it: what is wrong with it is the caller's to judge. Raises `EdgeError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), timeout=timeout) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        raise EdgeError(f"The edge has no certificate for {host}.", detail=error.reason or str(error)) from error
    except OSError as error:
        raise EdgeError(f"Nothing answers on {address}:{port}.", detail=str(error)) from error
    if shown is None:
        raise EdgeError(f"The edge showed no certificate for {host}.")
    return facts(x509.load_der_x509_certificate(shown))
