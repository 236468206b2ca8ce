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


# With few workers, a file that takes a minute must not be the last one to start.
LONGEST_FILES = ("integration/test_demo.py", "integration/test_documents.py", "contract/test_kinds.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST_FILES))
