"""The browser of the browser tests: Debian's, which Playwright drives."""

from ocore.machine.packages import ensure_packages, ensure_program, may_install
from ocore.machine.progress import Progress

FONTS = ["fonts-dejavu-core"]
"""Without a font of its own a screenshot shows empty boxes."""


def ensure_chromium(progress: Progress) -> str:
    """Its path."""
    if may_install():
        ensure_packages(["chromium", *FONTS], progress, purpose="the browser tests")
    return ensure_program("chromium", "chromium", progress, purpose="the browser tests")
