"""Voice leading: parallel fifths and octaves.

Two voices that move in the same direction from one perfect fifth (octave, unison) to another, as forbidden since Fux
1725 (Gradus ad Parnassum); compounds of the intervals count as the intervals. Grids have no voices: `assign_voices`
derives four of them.

Shapes: N time steps, V = 4 voices from the highest down.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.voices import FIRST_STRIKE, HOLD, N_VOICES, assign_voices

Integers = npt.NDArray[np.int64]
VOICE_PAIRS: Final = tuple(combinations(range(N_VOICES), 2))
_FIFTH: Final = 7  # semitones


def sounding_columns(frames: npt.NDArray[Any]) -> Integers:
    """Return the column 0..87 that each voice sounds, or -1 for a rest: (N, 88) -> (N, 4)."""
    voices, _ = assign_voices(frames)
    steps = np.arange(len(voices))[:, None]
    since = np.maximum.accumulate(np.where(voices == HOLD, 0, steps), axis=0)  # when each note or rest began
    return np.maximum(np.take_along_axis(voices, since, axis=0) - FIRST_STRIKE, -1)


def count_parallels(sounding: Integers) -> tuple[int, int]:
    """Count parallel fifths, octaves and unisons.

    Args:
        sounding: (N, 4) from `sounding_columns`.

    Returns:
        the number of parallels, and of chord changes: time steps at which at least two voices sound, as in the step
        before, and at least one of them moves.
    """
    before, after = sounding[:-1], sounding[1:]
    both = (before >= 0) & (after >= 0)
    moves = np.where(both, after - before, 0)
    n_changes = int(((both.sum(1) >= 2) & (moves != 0).any(1)).sum())
    n_parallels = 0
    for upper, lower in VOICE_PAIRS:
        same_direction = moves[:, upper] * moves[:, lower] > 0
        first, second = (np.abs(each[:, upper] - each[:, lower]) % 12 for each in (before, after))
        n_parallels += int((same_direction & (first == second) & np.isin(first, (0, _FIFTH))).sum())
    return n_parallels, n_changes
