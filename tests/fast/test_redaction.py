"""No secret leaves through text: what is hidden, what stays readable, and that neither takes long."""

import io
import logging
import time
from collections.abc import Iterator

import pytest

from ocore.redaction import RedactingFilter, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fetch https://bob:s3cret@host/x", "fetch https://•••@host/x"),
        ("password=abcdef next", "password=••• next"),
        ('password="abc def" next', 'password="•••" next'),
        ("{'password': 'it is \"long\"', 'a': 1}", "{'password': '•••', 'a': 1}"),
        ('{"token": "abc \\" def", "ref": "main"}', '{"token": "•••", "ref": "main"}'),
        ("api-key: 'cut off here", "api-key: '•••"),
        ('secret="cut off\nnext line', 'secret="•••\nnext line'),
        ('{"token": "", "ref": "main"}', '{"token": "", "ref": "main"}'),
        ("the tokens: none", "the tokens: none"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a-" * 20_000,
        "://" + "a" * 40_000,
        "password" * 5_000,
        "token=" * 5_000,
        'token="' * 5_000,
        "token='\"" * 5_000,
        'token="\\' * 5_000,
        'token="' + "a" * 40_000,
        'token="' + "\\" * 40_000,
        "token" + " " * 40_000,
        "token=" + " " * 40_000,
        "token='" + 'token="' * 5_000,
    ],
)
def test_redacting_what_strangers_send_takes_no_time(text: str) -> None:
    started = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started < 0.2


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with the filter on its handler, as in the settings, and what it wrote."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(RedactingFilter())
    logger = logging.getLogger("tests.redaction")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, out
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_traceback_in_the_log_keeps_no_secret(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = log
    try:
        raise ValueError("cannot fetch https://bob:s3cr3t@host/x, password='two words'")
    except ValueError:
        logger.exception("It failed with token=%s", "hunter22")

    assert "It failed with token=•••\nTraceback (most recent call last):" in out.getvalue()
    assert "ValueError: cannot fetch https://•••@host/x, password='•••'" in out.getvalue()
    # The line of source in the traceback too.
    assert not [secret for secret in ("s3cr3t", "two words", "hunter22") if secret in out.getvalue()]


def test_the_stack_in_the_log_keeps_no_secret(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = log

    logger.warning("Look", stack_info=True, extra={"why": "password=hunter22"})

    assert "Stack (most recent call last):" in out.getvalue()
    assert "hunter22" not in out.getvalue()
