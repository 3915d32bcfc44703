"""How a delivery is proven to come from the project's git host. Each takes the same way without any secret, so that
neither time nor answer tells whether there is one."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random
import time
from collections.abc import Iterable, Mapping

from .base import Refused
from .reading import form_payload, header, is_form

WRONG = "doesn't match the project's webhook secret"
TOLERANCE = 300
"""Seconds that a signed time may be off, in both directions (Standard Webhooks)."""
SIGNING_TOKEN = "whsec_"  # noqa: S105 - how one begins
_MOST_SIGNATURES = 10
_DUMMY_KEY = random.token_bytes(32)


def usable(secrets: Iterable[str | None] | str) -> list[str]:
    """The secrets that count; a text is one secret, not a list of letters."""
    candidates = [secrets] if isinstance(secrets, str) else secrets
    return [secret for secret in candidates if secret and secret.strip()]


def signed(body: bytes, signature_hex: str, secrets: Iterable[str | None]) -> bool:
    """Whether it is the body's HMAC-SHA256 under one of the secrets."""
    keys = [secret.encode("utf-8", "surrogatepass") for secret in usable(secrets)]
    given = signature_hex.encode("utf-8", "surrogatepass")
    matches = [
        hmac.compare_digest(hmac.new(key, body, hashlib.sha256).hexdigest().encode(), given)
        for key in keys or [_DUMMY_KEY]
    ]
    return bool(keys) and any(matches)


def check_signature(
    body: bytes, headers: Mapping[str, str], secrets: Iterable[str | None], name: str, prefix: str = "sha256="
) -> None:
    """Raises `Refused` unless the named header has the body's HMAC-SHA256 in hexadecimal digits, after the prefix."""
    value = header(headers, name)
    match = re.fullmatch(f"{re.escape(prefix)}([0-9a-f]{{64}})", value)
    proven = signed(body, match[1] if match else "0" * 64, secrets)
    if not value:
        raise Refused(f"the signature ({name}) is missing")
    if not match:
        form = f"“{prefix}” and 64" if prefix else "64"
        raise Refused(f"the signature ({name}) is not {form} hexadecimal digits")
    if not proven:
        raise Refused(f"the signature {WRONG}")


def signed_part(body: bytes, headers: Mapping[str, str]) -> bytes:
    """What Gitea, Forgejo and Gogs sign: the JSON, also where a form is around it."""
    return form_payload(body) if is_form(body, headers) else body


def check_token(headers: Mapping[str, str], secrets: Iterable[str | None], name: str) -> None:
    """Raises `Refused` unless the named header is one of the secrets in clear."""
    value = header(headers, name)
    given = value.encode("utf-8", "surrogatepass")
    known = usable(secrets)
    matches = [hmac.compare_digest(one.encode("utf-8", "surrogatepass"), given) for one in known]
    hmac.compare_digest(_DUMMY_KEY, given)
    if not value:
        raise Refused(f"the token ({name}) is missing")
    if not any(matches):
        raise Refused(f"the token ({name}) {WRONG}")


def check_password(headers: Mapping[str, str], secrets: Iterable[str | None]) -> None:
    """Raises `Refused` unless HTTP Basic authentication brings one of the secrets as its password; the user's name
    doesn't matter."""
    scheme, _, encoded = header(headers, "Authorization").partition(" ")
    if scheme.lower() != "basic":
        raise Refused("the password (Authorization: Basic) is missing")
    try:
        password = base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        raise Refused("what is given as HTTP Basic authentication is none") from None
    matches = [hmac.compare_digest(one.encode("utf-8", "surrogatepass"), password) for one in usable(secrets)]
    hmac.compare_digest(_DUMMY_KEY, password)
    if not any(matches):
        raise Refused(f"the password {WRONG}")


def signing_key(secret: str) -> bytes:
    """What `whsec_…` stands for; any other secret is its own key."""
    if secret.startswith(SIGNING_TOKEN):
        try:
            return base64.b64decode(secret.removeprefix(SIGNING_TOKEN), validate=True)
        except (binascii.Error, ValueError):
            return b""
    return secret.encode("utf-8", "surrogatepass")


def signing_token(secret: str) -> str:
    """The secret in the form in which Standard Webhooks want it typed."""
    return secret if secret.startswith(SIGNING_TOKEN) else SIGNING_TOKEN + base64.b64encode(secret.encode()).decode()


def standard_signature(key: bytes, identifier: str, timestamp: str, body: bytes) -> str:
    """As Standard Webhooks have it: base64 of the HMAC-SHA256 over id, time and body."""
    content = f"{identifier}.{timestamp}.".encode("utf-8", "surrogatepass") + body
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def check_standard(body: bytes, headers: Mapping[str, str], secrets: Iterable[str | None]) -> None:
    """Raises `Refused` unless one of the `v1` signatures is of this body, id and time, and the time is now."""
    identifier, timestamp = header(headers, "webhook-id"), header(headers, "webhook-timestamp")
    given = header(headers, "webhook-signature").split(" ")[:_MOST_SIGNATURES]
    keys = [key for key in map(signing_key, usable(secrets)) if key]
    expected = [standard_signature(key, identifier, timestamp, body).encode() for key in keys or [_DUMMY_KEY]]
    found = [one.removeprefix("v1,").encode("utf-8", "surrogatepass") for one in given if one.startswith("v1,")]
    matches = [hmac.compare_digest(one, other) for one in expected for other in found]
    if not identifier or not re.fullmatch(r"[0-9]{1,12}", timestamp, re.ASCII):
        raise Refused("the signed id and time (webhook-id, webhook-timestamp) are missing")
    if not keys or not any(matches):
        raise Refused(f"the signature (webhook-signature) {WRONG}")
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        raise Refused("the signed time (webhook-timestamp) is more than 5 minutes off")
