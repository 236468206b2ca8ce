"""`tritone publish` and `tritone rollback` with invalid addresses and model names, refused without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tritone_export import InvalidModelNameError
from tritone_export.publishing import Live, publish_live, rollback


def test_an_address_with_half_a_bracket_is_wrong_usage(run_tritone: Callable[..., Any]) -> None:
    done = run_tritone("rollback", "m", "--server", "http://[::1")
    assert done.status == 2
    assert "--server" in done.stderr


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp", "a/b", ""])
def test_invalid_model_names_are_refused(tmp_path: Path, name: str) -> None:
    live = cast("Live", None)  # refused before it is used
    with pytest.raises(InvalidModelNameError):
        rollback(name, live)
    with pytest.raises(InvalidModelNameError):
        publish_live(tmp_path, (name,), live)
