"""One worker at a time finds, builds or removes an image."""

import hashlib
from pathlib import Path

from django.conf import settings


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def lock_of(reference: str) -> Path:
    """A few files serve as locks for ever; that two images share one is rare, and costs a wait."""
    return Path(settings.STATE_DIR) / "locks" / f"image-{digest(reference)[:3]}.lock"
