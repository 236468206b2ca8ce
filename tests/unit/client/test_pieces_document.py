"""The examples of docs/pieces.md run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "pieces.md"


def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        exec(block, names)  # noqa: S102
    assert {path.name for path in tmp_path.iterdir()} == {"tune.mid", "tune.wav", "tune.png", "download"}
    assert "/tune" in names["app"].openapi()["paths"]
