"""What can't be had back goes only where somebody has said yes, at a terminal or beforehand."""

import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from deployments.management.commands import clean_machine
from instances.runtimes import docker
from instances.runtimes.docker import Inventory
from ocore import consent
from ocore.machine.engine import Engine


class Keyboard:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "agrees"), [("yes", True), (" Y ", True), ("", False), ("n", False), (None, False)])
def test_at_a_terminal_only_a_yes_counts(monkeypatch: pytest.MonkeyPatch, typed: str | None, agrees: bool) -> None:
    def answer(prompt: str) -> str:
        if typed is None:
            raise EOFError
        return typed

    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr("builtins.input", answer)
    if agrees:
        consent.require(agreed=False)
    else:
        with pytest.raises(consent.NotAgreed, match=r"Nothing was done\."):
            consent.require(agreed=False)


@pytest.mark.parametrize("typed", ["", "n\n", "yes\n"])
def test_what_is_no_terminal_is_nobody_whatever_it_says(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(typed))
    with pytest.raises(consent.NotAgreed, match="Nobody is here to be asked"):
        consent.require(agreed=False)
    consent.require(agreed=True)


@pytest.mark.django_db
def test_make_clean_machine_removes_nothing_where_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    def remove(*_: Any, **__: Any) -> Inventory:
        removed.append("all")
        return Inventory()

    monkeypatch.setattr(sys, "stdin", StringIO("n\n"))
    monkeypatch.setattr(clean_machine, "find_engine", lambda: Engine("unix:///nowhere/docker.sock", ""))
    monkeypatch.setattr(clean_machine, "stop_running", lambda progress: None)
    monkeypatch.setattr(docker, "Engine", lambda spec: SimpleNamespace(api=None))
    monkeypatch.setattr(docker, "everything_of", lambda *_: Inventory(volumes=["ocore-acme-production"]))
    monkeypatch.setattr(docker, "remove_everything", remove)

    with pytest.raises(CommandError, match="Nobody is here to be asked") as caught:
        call_command("clean_machine")
    assert "make clean-machine YES=1" in str(caught.value)
    assert not removed
    call_command("clean_machine", "--yes")
    assert removed == ["all"]
