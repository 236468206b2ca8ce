"""Tests of `tritone keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("TRITONE_GATEWAY_KEYS", str(path))
    return path


def test_the_state_of_each_key_stands_next_to_its_caller(run_tritone: Any) -> None:
    run_tritone("keys", "create", "shop", "--scope", "recommend", "--users", "shop:", "--rate", "600/minute")
    shown = run_tritone("keys", "list").stderr
    (row,) = [line for line in shown.splitlines() if "shop" in line and "valid" in line]
    assert row.index("shop") < row.index("valid") < row.index("recommend")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("shop", "--rate", "5"),
            "invalid rate: expected requests per second, minute, hour or day, such as 600/minute, got '5'",
        ),
        (
            ("a shop",),
            "invalid caller: expected a name of 1 to 100 letters, digits or characters of _.@:+-, got 'a shop'",
        ),
    ],
)
def test_errors_name_what_is_expected_instead_of_a_pattern(
    run_tritone: Any, arguments: tuple[str, ...], expected: str
) -> None:
    ended = run_tritone("keys", "create", *arguments)
    assert ended.status != 0
    assert expected in " ".join(ended.stderr.split())
