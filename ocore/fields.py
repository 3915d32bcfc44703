"""Model fields with a meaning of their own: secrets, memory sizes, lists of names, mappings."""

import json
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.forms import Field
from django.utils.text import capfirst

from ocore import forms
from ocore.secrets import WrongEncryptionKey, decrypt, encrypt


class OwnForm:
    """A model field with a form field of ours; the rest of Django's defaults don't apply to it."""

    own_form: type[Field]

    def formfield(self: Any, **_: Any) -> Any:
        return self.own_form(required=not self.blank, label=capfirst(self.verbose_name), help_text=self.help_text)


SEALED = "encrypted:"
"""Before the ciphertext in a dump, so that loading it tells it from plain text."""


def _sealed(ciphertext: str | None) -> str:
    return SEALED + ciphertext if ciphertext else ""


def _unsealed(text: Any) -> Any:
    if not isinstance(text, str) or not text.startswith(SEALED):
        return text
    try:
        return decrypt(text.removeprefix(SEALED))
    except WrongEncryptionKey as error:
        raise ValidationError(f"{error.message} {error.advice}") from None


class EncryptedTextField(OwnForm, models.TextField):  # type: ignore[type-arg]
    """Ciphertext in the database and in dumps, plain text in Python, write-only in forms."""

    own_form = forms.SecretField

    def get_prep_value(self, value: Any) -> Any:
        return encrypt(value) if value else value

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return decrypt(value) if value else value

    def to_python(self, value: Any) -> Any:
        return _unsealed(value)

    def value_to_string(self, obj: models.Model) -> str:
        return _sealed(self.get_prep_value(self.value_from_object(obj)))


class EncryptedMappingField(OwnForm, models.TextField):  # type: ignore[type-arg]
    """Names in the open, values secret: a mapping kept as one ciphertext. None inherits."""

    own_form = forms.SecretMappingField

    def get_prep_value(self, value: Any) -> Any:
        return value if value is None else encrypt(json.dumps(value, sort_keys=True))

    def from_db_value(self, value: Any, *_: Any) -> Any:
        return json.loads(decrypt(value)) if value else None

    def to_python(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return json.loads(_unsealed(value)) if value else None

    def value_to_string(self, obj: models.Model) -> str:
        return _sealed(self.get_prep_value(self.value_from_object(obj)))


class MemoryField(OwnForm, models.BigIntegerField):  # type: ignore[type-arg]
    """Bytes; people type and read `2 GiB`, `512M`, also in what is said of its bounds."""

    own_form = forms.MemoryField
    default_error_messages = {
        "min_value": "That is too little: at least %(limit_value)s.",
        "max_value": "That is too much: at most %(limit_value)s.",
    }

    def run_validators(self, value: Any) -> None:
        try:
            super().run_validators(value)
        except ValidationError as error:
            for one in error.error_list:
                if isinstance(bound := (one.params or {}).get("limit_value"), int):
                    one.params = {**(one.params or {}), "limit_value": forms.format_size(bound)}
            raise


class NameListField(OwnForm, models.JSONField):
    """A list of names; people type them separated by spaces or commas."""

    own_form = forms.NameListField

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ValidationError("A list of names is expected.")


class MappingField(OwnForm, models.JSONField):
    """Names to values; people type a `name = value` line each."""

    own_form = forms.MappingField

    def validate(self, value: Any, model_instance: Any) -> None:
        super().validate(value, model_instance)
        if value is not None and not (
            isinstance(value, dict) and all(isinstance(item, str | None) for item in value.values())
        ):
            raise ValidationError("A mapping of names to texts is expected.")
