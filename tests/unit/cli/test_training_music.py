"""`tritone train` and `evaluate` on a folder of scores, for every composing model kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import music_models

KINDS = {
    "polyphony_rnn": "nll per frame",
    "music_transformer": "nll per frame",
    "music_vae": "reconstruction accuracy",
    "music_gan": "duplicate rate",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_prints_its_results(kind: str, run_tritone: Callable[..., Any]) -> None:
    checkpoint = music_models.trained(kind)
    ended = run_tritone(
        "evaluate", kind, "--checkpoint", checkpoint, "--data", music_models.tunes(), "--split", "valid"
    )
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    assert KINDS[kind] in ended.stderr


def test_train_prints_its_results(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    ended = run_tritone(
        "train", "polyphony_rnn", "--data", music_models.tunes(), "--preset", "tiny", "--max-epochs", 1,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    assert "24 of 24 pieces used (chorale 12, dance 12)" in ended.stderr
    assert "splits: " in ended.stderr
    assert "valid: nll_per_frame" in ended.stderr
    assert "next: tritone export polyphony_rnn" in ended.stderr
