"""Asking a person at the terminal before anything goes that can't be had back."""

import sys

from ocore.errors import ExpectedError


class NotAgreed(ExpectedError):
    """Nobody said yes."""


def require(*, agreed: bool, advice: str = "Say --yes if this is what you want.") -> None:
    """Returns once somebody has said yes to what was just told: beforehand (`agreed`), or now. Raises
    `NotAgreed`; where nobody can be asked, since the input is no terminal, with the advice."""
    if agreed:
        return
    if not sys.stdin.isatty():
        raise NotAgreed("Nobody is here to be asked, so nothing was done.", advice=advice)
    try:
        answer = input("Type yes to go on: ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise NotAgreed("Nothing was done.")
