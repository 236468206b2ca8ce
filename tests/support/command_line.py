"""Runs `tritone` in this process, as people run it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tritone_cli import console, main


@dataclass(frozen=True)
class CommandResult:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run_tritone(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Run `tritone ARGUMENTS` and return its result; an exception that it does not report fails the test."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console.people, "width", 200)
    client_log = logging.getLogger("tritone.audio")  # the command line adds a handler, which must not outlive the test
    monkeypatch.setattr(client_log, "handlers", list(client_log.handlers))

    def run(*arguments: object) -> CommandResult:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["tritone", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main.main()
        captured = capfd.readouterr()
        status = ended.value.code
        assert isinstance(status, int | None)
        return CommandResult(status or 0, captured.out, captured.err)

    return run
