"""`ocore.show` for templates."""

from django import template

from ocore import show
from ocore.ansi import to_html
from ocore.viewer import may_see

register = template.Library()
for _function in (show.ago, show.at, show.as_of, show.duration, show.size, show.exact, show.link_to, may_see):
    register.filter(_function.__name__, _function)
register.filter("ansi", to_html)


@register.filter
def label(text: str) -> str:
    """A field's name as a heading; what is a file's name stays as it is."""
    return text if "." in text else text[:1].upper() + text[1:]
