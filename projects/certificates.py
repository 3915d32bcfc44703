"""Certificates as PEM: what one says, and whether a chain and a key can serve a host name."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtensionOID, NameOID
from django.core.exceptions import ValidationError
from django.utils import timezone

LONGEST = 100_000
"""Characters of a PEM that are read at all."""
LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Facts:
    """What a certificate says of itself."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    begins_at: datetime
    ends_at: datetime
    fingerprint: str

    def covers(self, host: str) -> bool:
        """As browsers judge: a wildcard stands for one label."""
        parent = host.partition(".")[2]
        return host in self.names or bool(parent and f"*.{parent}" in self.names)


def facts(certificate: x509.Certificate) -> Facts:
    return Facts(
        subject=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        names=_names(certificate),
        begins_at=certificate.not_valid_before_utc,
        ends_at=certificate.not_valid_after_utc,
        fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
    )


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME) or name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value)[:200] if found else name.rfc4514_string()[:200]


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except (x509.ExtensionNotFound, ValueError):
        return ()
    value = extension.value
    return tuple(value.get_values_for_type(x509.DNSName)) if isinstance(value, x509.SubjectAlternativeName) else ()


def check(chain: str, key: str, host: str) -> None:
    """Raise a `ValidationError` at the field to correct. The messages repeat nothing of the key."""
    certificates = read_chain(chain)
    leaf = certificates[0]
    said = facts(leaf)
    now = timezone.now()
    if said.ends_at <= now:
        raise ValidationError({"chain": f"The certificate ended on {said.ends_at:%Y-%m-%d}."})
    if said.begins_at > now:
        raise ValidationError({"chain": f"The certificate is valid from {said.begins_at:%Y-%m-%d} on only."})
    if not said.covers(host):
        named = ", ".join(said.names[:5]) or "no host name"
        raise ValidationError({"chain": f"The certificate is for {named}, not for {host}."})
    _check_order(certificates)
    _check_key(leaf, key)


def read_chain(chain: str) -> list[x509.Certificate]:
    try:
        if len(chain) > LONGEST:
            raise ValueError("too long")
        return x509.load_pem_x509_certificates(chain.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValidationError(
            {"chain": "This is not a certificate in PEM form. It begins with -----BEGIN CERTIFICATE-----."}
        ) from None


def _check_order(certificates: Sequence[x509.Certificate]) -> None:
    for lower, upper in pairwise(certificates):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            raise ValidationError(
                {
                    "chain": "The certificates are not in order: the host's own first, then each one by which the one "
                    "before it is signed."
                }
            ) from None


def _check_key(leaf: x509.Certificate, key: str) -> None:
    try:
        if len(key) > LONGEST:
            raise ValueError("too long")
        private = load_pem_private_key(key.encode(), password=None)
    except TypeError:
        raise ValidationError({"private_key": "The key is protected by a password. Paste it without."}) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValidationError({"private_key": "This is not a private key in PEM form."}) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ValidationError({"private_key": "The key does not belong to the certificate."})
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size < LEAST_RSA_BITS:
        raise ValidationError({"private_key": f"An RSA key needs {LEAST_RSA_BITS} bits, or browsers refuse it."})
