"""Encryption at rest: what is secret is ciphertext in the database, and readable only through these functions."""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from ocore.errors import ExpectedError


class WrongEncryptionKey(ExpectedError):
    default_advice = (
        "OCORE_ENCRYPTION_KEYS (or the file encryption-key in the state folder) must hold the key "
        "that the secret was written with; restore it from your backup."
    )


@lru_cache(maxsize=4)
def _box(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(plain: str) -> str:
    return _box(tuple(settings.OCORE_ENCRYPTION_KEYS)).encrypt(plain.encode()).decode()


def decrypt(token: str) -> str:
    """Raises `WrongEncryptionKey` when no known key fits."""
    try:
        return _box(tuple(settings.OCORE_ENCRYPTION_KEYS)).decrypt(token.encode()).decode()
    except InvalidToken as error:
        raise WrongEncryptionKey("A stored secret cannot be decrypted with the keys that are configured.") from error
