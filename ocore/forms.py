"""Form fields behind `ocore.fields`. In every one of them an empty input means "inherit" (None)."""

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

EMPTY_WORD = "none"
"""What to type for a value that is there and empty, since an empty input inherits."""
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B?)?\s*$", re.IGNORECASE)
KEPT = "•" * 8
LARGEST_SIZE = 64 * 1024**4
"""More memory than any server has; what is typed above it is a slip."""


def parse_size(text: str) -> int:
    """`2G`, `2 GiB`, `512m`, `1.5 GB` or plain bytes, always in powers of 1024. Bytes."""
    match = _SIZE.match(text)
    if not match:
        raise ValidationError(f"“{text}” is not a size. Write for example 512M or 2G.")
    size = float(match[1]) * _UNITS[match[2].upper()]
    if size > LARGEST_SIZE:
        raise ValidationError(f"“{text[:50]}” is more than {format_size(LARGEST_SIZE)}. Write for example 512M or 2G.")
    return int(size)


def format_size(size: int) -> str:
    for unit, factor in (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= factor:
            return f"{size / factor:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{size} B"


class MemoryField(forms.CharField):
    def prepare_value(self, value: Any) -> Any:
        return format_size(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        return parse_size(text) if text else None

    def has_changed(self, initial: Any, data: Any) -> bool:
        return (self.prepare_value(initial) or "") != (data or "")


class NameListField(forms.CharField):
    """Names separated by spaces or commas; `none` is the empty list."""

    widget = forms.Textarea(attrs={"rows": 2, "cols": 60})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, list):
            return " ".join(value) or EMPTY_WORD
        return value

    def clean(self, value: Any) -> Any:
        text = super().clean(value).strip()
        if not text:
            return None
        return [] if text.lower() == EMPTY_WORD else [name for name in re.split(r"[\s,]+", text) if name]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return (self.prepare_value(initial) or "") != (data or "")


class MappingField(forms.CharField):
    """A `name = value` line each; a name alone takes an inherited entry away; `none` is the empty mapping."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 60})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            lines = [name if text is None else f"{name} = {text}" for name, text in sorted(value.items())]
            return "\n".join(lines) or EMPTY_WORD
        return value

    def clean(self, value: Any) -> Any:
        text = super().clean(value).strip()
        if not text:
            return None
        if text.lower() == EMPTY_WORD:
            return {}
        mapping: dict[str, str | None] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            name, separator, content = line.partition("=")
            name = name.strip()
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
                raise ValidationError(f"“{name}” is not a name. Write one “name = value” line for each.")
            if name in mapping:
                raise ValidationError(f"“{name}” stands there twice.")
            mapping[name] = content.strip() if separator else None
        return mapping

    def has_changed(self, initial: Any, data: Any) -> bool:
        return (self.prepare_value(initial) or "") != (data or "").replace("\r\n", "\n")


class SecretField(forms.CharField):
    """Write-only: shows that there is one, never what; left as it is, it keeps it; emptied, it takes it away."""

    widget = forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "class": "vTextField"})

    def prepare_value(self, value: Any) -> Any:
        return KEPT if value else value

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What was typed is never sent back; `KeepsSecrets` says so when the form is shown again."""
        return KEPT if data and initial else ""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return data != KEPT if initial else bool(data)


class SecretMappingField(MappingField):
    """As a mapping, each value write-only: `NAME = ••••••••` keeps what is there."""

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return super().prepare_value({name: None if text is None else KEPT for name, text in value.items()})
        return value

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Names come back, typed values don't."""
        return "\n".join(re.sub(r"=.*", f"= {KEPT}", line.strip()) for line in (data or "").splitlines())


class SaysAllErrors(forms.ModelForm):  # type: ignore[type-arg]
    """What the model finds wrong with a field that the form does not have is said above the form."""

    def add_error(self, field: str | None, error: Any) -> None:
        if field is None and hasattr(error, "error_dict"):
            for name, errors in error.error_dict.items():
                super().add_error(name if name in self.fields else None, errors)
        else:
            super().add_error(field, error)


class KeepsSecrets(SaysAllErrors):
    """A form whose secret fields, left as they are shown, keep what is stored."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        for name, form_field in self.fields.items():
            if isinstance(form_field, SecretField | SecretMappingField) and name in self.cleaned_data:
                try:
                    self.cleaned_data[name] = self._kept(self.cleaned_data[name], getattr(self.instance, name))
                except ValidationError as error:
                    self.add_error(name, error)
        return cleaned

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound or not self.errors:
            return
        for name, form_field in self.fields.items():
            if isinstance(form_field, SecretField | SecretMappingField) and name not in self.errors:
                data = self[name].data or ""
                typed = any(line and not line.endswith(KEPT) for line in map(str.strip, data.splitlines()))
                if typed and form_field.has_changed(self.get_initial_for_field(form_field, name), data):
                    self.add_error(name, "Something else has to be corrected first. Type the secret once more.")

    @staticmethod
    def _kept(value: Any, before: Any) -> Any:
        if value == KEPT:
            return before
        if not isinstance(value, dict):
            return value
        missing = [key for key, text in value.items() if text == KEPT and not (before or {}).get(key)]
        if missing:
            raise ValidationError(f"No value is kept for {', '.join(missing)}; write it out.")
        return {key: before[key] if text == KEPT else text for key, text in value.items()}
