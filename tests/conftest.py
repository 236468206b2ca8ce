"""Fixtures of every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.command_line import run_tritone

__all__ = ["run_tritone"]


@pytest.fixture(scope="session", autouse=True)
def isolated_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use a state folder (tokens, keys, logs) of this test process alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder
