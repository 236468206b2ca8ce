"""The command `tritone` for tests: run in this process, with its exit status and output."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import typer


@dataclass(frozen=True)
class Ended:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run_tritone(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run `tritone ARGUMENTS` in this process and return how it ended; an exception that it leaks fails the test."""
    from tritone_cli import console, main

    command = _command()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console.people, "width", 200)
    monkeypatch.setattr(main, "build_app", lambda: command)
    client_log = logging.getLogger("tritone.audio")  # the command line adds a handler, which must not outlive the test
    monkeypatch.setattr(client_log, "handlers", list(client_log.handlers))

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["tritone", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main.main()
        captured = capfd.readouterr()
        status = ended.value.code
        assert isinstance(status, int | None)
        return Ended(status or 0, captured.out, captured.err)

    return run


@functools.cache
def _command() -> Any:
    """Return the command `tritone`, built once: Typer takes 0.1 s to make it from the signatures of all verbs."""
    from tritone_cli.main import build_app

    return typer.main.get_command(build_app())
