"""Values as people read them: moments, durations, sizes, coloured words. HTML-safe, for the admin's pages."""

from datetime import datetime, timedelta

from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ocore.forms import format_size
from ocore.viewer import may_see

NOTHING = "–"


def relative(moment: datetime, now: datetime | None = None) -> str:
    """`3 min ago`; days until a month, then the date."""
    elapsed = (now or timezone.now()) - moment
    seconds = elapsed.total_seconds()
    if seconds < -5:
        return f"in {rough(-seconds)}"
    if seconds < 5:
        return "just now"
    if elapsed > timedelta(days=30):
        return f"{moment:%Y-%m-%d}"
    return f"{rough(seconds)} ago"


def rough(seconds: float) -> str:
    """One unit only."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def exact(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.get_default_timezone()):%Y-%m-%d %H:%M:%S} UTC"


def ago(moment: datetime | None) -> SafeString | str:
    """Relative, and exact when pointed at."""
    if moment is None:
        return NOTHING
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact(moment), relative(moment))


def at(moment: datetime | None) -> SafeString | str:
    """Exact, and relative when pointed at."""
    if moment is None:
        return NOTHING
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), relative(moment), exact(moment))


def as_of(moment: datetime | None) -> SafeString | str:
    """How old data is: `14:03:07 UTC, 12 min ago`, with the date when that isn't today."""
    if moment is None:
        return NOTHING
    words = exact(moment)
    if words[:10] == exact(timezone.now())[:10]:
        words = words[11:]
    return format_html(
        '<time datetime="{}" title="{}">{}</time>, {}', moment.isoformat(), exact(moment), words, ago(moment)
    )


def duration(seconds: float | None) -> str:
    """`40 ms`, `4.2 s`, `1 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size(count: int | None) -> str:
    return NOTHING if count is None else format_size(count)


def tag(text: str, tone: str, icon: str = "", title: str = "") -> SafeString:
    """A coloured word. Never colour alone: the text says it, the icon repeats it."""
    mark = format_html('<span aria-hidden="true">{}</span> ', icon) if icon else ""
    return format_html('<span class="oc-tag oc-{}" title="{}">{}{}</span>', tone, title, mark, text)


def link_to(row: Model, text: object = None) -> SafeString:
    """To the row's page in the admin; the text alone to somebody who may not open that."""
    words = row if text is None else text
    opts = row._meta
    if not may_see(type(row)):
        return format_html("{}", words)
    return link(reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[row.pk]), words)


def link(url: str, text: object, *, new_tab: bool = False) -> SafeString:
    if new_tab:
        return format_html('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>', url, text)
    return format_html('<a href="{}">{}</a>', url, text)
