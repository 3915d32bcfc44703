"""Strict readers of what git hosts send: whatever stands in a body, they give what was asked for, "" or {} for what is
of another kind, or raise `Unreadable`."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

from .base import Kind, PushedCommit, RefChange, RefType, Unreadable

FORM = "application/x-www-form-urlencoded"
ZERO = "0" * 40
SAMPLE = "0" * 39 + "1"
"""A commit that no repository has."""
_lenient: ContextVar[bool] = ContextVar("lenient", default=False)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_TEXT = 1000
_MAX_NAME = 300
_MAX_COMMITS = 2048
_MAX_URLS = 20
_MAX_MESSAGE = 20_000


def header(headers: Mapping[str, str], name: str) -> str:
    """A header's value whatever its case, "" without it."""
    return next((str(value) for key, value in headers.items() if str(key).lower() == name.lower()), "")


def identifier(headers: Mapping[str, str], name: str) -> str:
    """A header that names something: printable ASCII, at most 100 characters, else ""."""
    value = header(headers, name)
    return value if re.fullmatch(r"[!-~]{1,100}", value) else ""


def is_form(body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether the JSON stands in a form's field; without a content type the bytes tell."""
    content_type = header(headers, "Content-Type").partition(";")[0].strip().lower()
    return content_type == FORM or (not content_type and body.startswith(b"payload="))


def read(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The delivery's JSON object, out of its form if there is one."""
    return read_json(form_payload(body) if is_form(body, headers) else body)


def body_id(body: bytes) -> str:
    """Stands for the id of a delivery whose host gives none."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def form_payload(body: bytes) -> bytes:
    """The JSON in a form-encoded delivery, from the raw bytes."""
    try:
        fields = parse_qs(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20
        )
    except ValueError:
        raise Unreadable("the form cannot be read") from None
    payloads = fields.get("payload", [])
    if len(payloads) != 1:
        raise Unreadable("the form has no single “payload” field")
    return payloads[0].encode("utf-8", "surrogatepass")


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in the body, strictly: UTF-8, no NaN, no number or nesting that Python cannot take."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None
    except ValueError:
        # Bad UTF-8, a byte order mark, bad JSON, NaN, an integer of thousands of digits.
        raise Unreadable("the body is not valid JSON") from None
    if not isinstance(document, dict):
        raise Unreadable("the JSON is not an object")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(name)


def mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object in it, {} for anything else."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def text(document: Mapping[str, Any], key: str) -> str:
    """A text that a person may be shown and a database may store; "" for anything else."""
    value = document.get(key)
    if not isinstance(value, str):
        return ""
    return "".join(character if character.isprintable() else "�" for character in value[:_MAX_NAME])


def first_text(document: Mapping[str, Any], *keys: str) -> str:
    """Of these, the first that is there."""
    return next(filter(None, texts(document, *keys)), "")


def texts(document: Mapping[str, Any], *keys: str) -> list[str]:
    return [text(document, key) for key in keys]


def listed(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in a list in it; what else stands there is left out."""
    value = document.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def message(document: Mapping[str, Any], key: str) -> str:
    """A commit's whole message, to be searched."""
    value = document.get(key)
    return value[:_MAX_MESSAGE] if isinstance(value, str) else ""


def subject(document: Mapping[str, Any], key: str) -> str:
    """A commit message's first line."""
    value = document.get(key)
    return text({key: value.strip().split("\n", 1)[0].strip()}, key) if isinstance(value, str) else ""


def ref_name(document: Mapping[str, Any], key: str) -> str:
    """A whole ref. Raises `Unreadable` for what git itself never sends."""
    value = document.get(key)
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise Unreadable(f"“{key}” is not the name of a ref")
    if any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in value):
        raise Unreadable(f"“{key}” contains characters that no ref has")
    return value


def commit_id(document: Mapping[str, Any], key: str, *, required: bool = True) -> str:
    """A whole id of git's, SHA-1 or SHA-256; zeros are one. "" where it may be missing and is."""
    value = document.get(key)
    if value is None and not required:
        return ""
    if isinstance(value, str) and _lenient.get():
        return text(document, key)
    if not isinstance(value, str) or not _COMMIT.fullmatch(value):
        raise Unreadable(f"“{key}” is not a commit id")
    return value


def earlier_id(document: Mapping[str, Any], key: str) -> str:
    """What a ref was at before: "" where that isn't told."""
    return "" if document.get(key) == "" else commit_id(document, key, required=False)


@contextmanager
def leniently() -> Iterator[None]:
    """Within it any text passes for a commit's id, and a change that cannot be read at all is left out: to show a
    person what a delivery says that is refused for that. Never where something is deployed from it."""
    token = _lenient.set(True)
    try:
        yield
    finally:
        _lenient.reset(token)


def each(read_one: Callable[[Any], RefChange], moves: Iterable[Any]) -> tuple[RefChange, ...]:
    """The changes that a delivery tells. Raises `Unreadable` if one of them cannot be read."""
    found = []
    for move in moves:
        try:
            found.append(read_one(move))
        except Unreadable:
            if not _lenient.get():
                raise
    return tuple(found)


def is_zero(sha: str) -> bool:
    """Whether it stands for "there is none"."""
    return not sha.strip("0")


def split_ref(ref: str) -> tuple[RefType, str]:
    for prefix, kind in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
        if ref.startswith(prefix) and len(ref) > len(prefix):
            return kind, ref.removeprefix(prefix)  # type: ignore[return-value]
    return "other", ref


def addresses(*found: str) -> tuple[str, ...]:
    """Each once, in their order, without the missing ones."""
    return tuple(dict.fromkeys(address for address in found if address))[:_MAX_URLS]


def commit_of(entry: Mapping[str, Any], sha: str = "id", words: str = "message") -> PushedCommit | None:
    """A commit from `{id, message, author: {name}}`; None where it has no id."""
    value = entry.get(sha)
    if not isinstance(value, str) or not _COMMIT.fullmatch(value):
        return None
    author = mapping(entry, "author")
    name = text(author, "displayName") or text(author, "name")
    return PushedCommit(value, subject(entry, words), name, message(entry, words))


def commits_of(
    entries: Iterable[Mapping[str, Any]], sha: str = "id", words: str = "message"
) -> tuple[PushedCommit, ...]:
    """Each commit once; entries of another form are left out."""
    found: dict[str, PushedCommit] = {}
    for entry in islice(entries, _MAX_COMMITS):
        commit = commit_of(entry, sha, words)
        if commit:
            found.setdefault(commit.sha, commit)
    return tuple(found.values())


def moved(
    ref: str, before: str, after: str, head: str = "", *, deleted: bool = False, forced: bool | None = None
) -> RefChange:
    """A change of a ref where zeros stand for "there is none". `head` as the host names it, else what the ref is at."""
    kind, name = split_ref(ref)
    deleted = deleted or (bool(after) and is_zero(after))
    return RefChange(
        ref=ref,
        type=kind,
        name=name,
        before=before,
        after=after,
        head="" if deleted else head or after,
        created=not deleted and bool(before) and is_zero(before),
        deleted=deleted,
        forced=forced,
    )


def kind_of(changes: Iterable[RefChange]) -> Kind:
    kinds = {change.kind for change in changes}
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "other"
