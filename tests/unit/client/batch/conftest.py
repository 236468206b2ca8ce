"""Fixtures of batch jobs with a fake server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.client.batch.job_server import Server, write_tone

from tritone import Grid, Piece


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr("tritone.batch.failures._FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("tritone.batch.failures._LONGEST_PAUSE_S", 0.05)
    return Server()


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for number in range(10):
        write_tone(folder / ("sub" if number % 2 else ".") / f"{number}.wav")
    return folder


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    folder = tmp_path / "scores"
    folder.mkdir()
    for number in range(3):
        frames = np.zeros((32, 88), np.uint8)
        frames[4 * number, 40 + number] = 1
        Piece(Grid(frames)).save(folder / f"{number}.mid")
    (folder / "text.mid").write_text("no music")
    return folder
