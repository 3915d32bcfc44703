"""Terminal output as HTML: colours as CSS classes, everything else escaped.

What a build prints is the repository's to decide, so only colour codes get as far as ansi2html: no hyperlinks, no
cursor movements, no other escape sequence.
"""

import re

from ansi2html import Ansi2HTMLConverter
from django.utils.safestring import SafeString

_COLOUR = r"\x1b\[[0-9;]{0,30}m"
_OTHER_ESCAPES = re.compile(
    rf"(?!{_COLOUR})\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])?", re.MULTILINE
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\x80-\x9f]")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)(?=[^\n])")
"""What a progress bar has drawn over."""


def plain(text: str) -> str:
    """Without any escape sequence."""
    return re.sub(_COLOUR, "", _tidy(text))


def to_html(text: str) -> SafeString:
    """For the inside of a `<pre>`."""
    converter = Ansi2HTMLConverter(inline=False, escaped=True, linkify=False)
    return SafeString(converter.convert(_tidy(text), full=False, ensure_trailing_newline=text.endswith("\n")))


def _tidy(text: str) -> str:
    text = _OVERWRITTEN.sub("", text.replace("\r\n", "\n"))
    return _CONTROLS.sub("", _OTHER_ESCAPES.sub("", text)).replace("\r", "")
