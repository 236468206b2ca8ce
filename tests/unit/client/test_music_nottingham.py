"""Tests with real MIDI files: round trips of 1,034 folk tunes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tritone import Grid, to_grid, to_score
from tritone.music.voices import assign_voices, voices_to_grid

NOTTINGHAM = Path(__file__).parents[4] / "shared" / "data" / "nottingham_midi"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not NOTTINGHAM.is_dir(), reason="../shared/data/nottingham_midi is not here"),
]


@pytest.fixture(scope="module")
def grids() -> list[Grid]:
    return [to_grid(path) for path in sorted(NOTTINGHAM.glob("*.mid"))]


def test_every_tune_survives_the_way_to_midi_and_back(grids: list[Grid]) -> None:
    assert len(grids) == 1034
    for grid in grids:
        again = to_grid(to_score(grid).dumps_midi())
        assert np.array_equal(again.frames, grid.frames)
        assert (again.meter, again.tempo_qpm, again.dropped) == (grid.meter, grid.tempo_qpm, {})


def test_only_ornaments_are_lost(grids: list[Grid]) -> None:
    lost: Counter[str] = Counter()
    for grid in grids:
        lost.update(grid.dropped)
    assert lost == {"lengthened": 89, "meter_changes": 74, "merged": 6}
    assert sum(grid.n_notes for grid in grids) == 356_263


def test_voices_of_real_tunes_are_stable(grids: list[Grid]) -> None:
    for grid in grids[::20]:
        voices, n_dropped = assign_voices(grid.frames)
        frames = voices_to_grid(voices)
        assert np.array_equal(frames, grid.frames) == (n_dropped == 0)
        again, n_dropped_again = assign_voices(frames)
        assert np.array_equal(again, voices)
        assert n_dropped_again == 0
