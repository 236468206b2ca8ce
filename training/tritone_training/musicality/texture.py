"""Texture of one piece: range, density, polyphony, silence, repeated notes, and the leading of its voices.

Definitions:

* Range, density: Yang & Lerch 2020 ("On the evaluation of generative models in music", Neural Computing and
  Applications 32: pitch range, note count). Polyphony: MusPy (Dong et al. 2020, arXiv:2008.01951).
* Parallel fifths and octaves: two voices that move in the same direction from one perfect fifth (octave, unison) to
  another, as forbidden since Fux 1725 (Gradus ad Parnassum); compounds of the intervals count as the intervals.
* Voice crossing: a voice sounds above a voice that is higher by its number (Huron 2001, "Tone and voice", Music
  Perception 19).

Grids have no voices. `tritone.music.voices.assign_voices` derives four of them, for real and for generated music
alike; it crosses voices only where held notes leave no alternative.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import SILENT, STRUCK, Grid, notes_of
from tritone.music.voices import assign_voices
from tritone_training.musicality.measures import Integers, sounding_pitches

NAN: Final = float("nan")
LONGEST_NOTE: Final = 32  # sixteenths; longer notes count into the last bin of the histogram
_SIXTEENTHS_PER_QUARTER: Final = 4
_FIFTH: Final = 7  # semitones


def pitch_range(grid: Grid) -> float:
    """Return the distance of the highest from the lowest note in semitones; NaN without notes."""
    used = np.flatnonzero((grid.frames == STRUCK).any(axis=0))
    return float(used[-1] - used[0]) if used.size else NAN


def note_density(grid: Grid) -> float:
    """Return the number of notes struck in a quarter note."""
    return grid.n_notes * grid.frames_per_quarter / grid.n_frames


def polyphony_of(grid: Grid) -> float:
    """Return the number of notes that sound at once, averaged over the steps in which any does; NaN without notes."""
    n_sounding = (grid.frames != SILENT).sum(axis=1)
    return float(n_sounding[n_sounding > 0].mean()) if n_sounding.any() else NAN


def silent_bars(grid: Grid) -> float:
    """Return the share of bars in which no note begins."""
    onsets = (grid.frames == STRUCK).any(axis=1)
    return float(np.mean([not onsets[bar].any() for bar in grid.bars]))


def longest_silence(grid: Grid) -> float:
    """Return the length of the longest silence in quarter notes, before and after the notes included."""
    edges = np.flatnonzero(np.concatenate([[True], (grid.frames != SILENT).any(axis=1), [True]]))
    return float(np.diff(edges).max() - 1) / grid.frames_per_quarter


def repeated_notes(grid: Grid) -> float:
    """Return the share of notes that strike the pitch that sounded in the step before; NaN without notes."""
    struck = grid.frames == STRUCK
    again = struck[1:] & (grid.frames[:-1] != SILENT)
    return float(again.sum() / struck.sum()) if struck.any() else NAN


def note_lengths(grid: Grid) -> Integers:
    """Return how many notes last 1 .. 32 sixteenths: (32,); longer ones count into the last."""
    onsets, ends, _ = notes_of(grid)
    sixteenths = np.rint((ends - onsets) * _SIXTEENTHS_PER_QUARTER / grid.frames_per_quarter)
    counts = np.bincount(np.clip(sixteenths, 1, LONGEST_NOTE).astype(np.int64), minlength=LONGEST_NOTE + 1)
    return counts[1:].astype(np.int64)


def voice_leading(grid: Grid) -> dict[str, float]:
    """Return `parallels` and `voice_crossing`.

    `parallels` is the number of parallel fifths, octaves and unisons in 100 chord changes: steps at which at least two
    voices sound, as in the step before, and at least one of them moves. `voice_crossing` is the share of steps with two
    or more voices in which two of them cross. NaN where there are no such steps, as in a melody.
    """
    voices, _ = assign_voices(grid.frames)
    sounding = sounding_pitches(voices[None])[0][0]  # (N, 4)
    before, after = sounding[:-1], sounding[1:]
    both = (before >= 0) & (after >= 0)
    moves = np.where(both, after - before, 0)
    n_changes = int(((both.sum(1) >= 2) & (moves != 0).any(1)).sum())
    n_parallels = sum(_parallels(before[:, pair], after[:, pair], moves[:, pair]) for pair in _pairs(sounding))
    several = (sounding >= 0).sum(1) >= 2
    crossed = np.zeros(len(sounding), bool)
    for upper, lower in _pairs(sounding):
        crossed |= (sounding[:, lower] > sounding[:, upper]) & (sounding[:, upper] >= 0)
    return {
        "parallels": 100 * n_parallels / n_changes if n_changes else NAN,
        "voice_crossing": float(crossed[several].mean()) if several.any() else NAN,
    }


def _pairs(voices: Integers) -> list[list[int]]:
    return [list(pair) for pair in combinations(range(voices.shape[1]), 2)]


def _parallels(before: Integers, after: Integers, moves: Integers) -> int:
    """Count the parallel fifths, octaves and unisons of two voices: (N, 2) each."""
    same_direction = moves.prod(1) > 0
    intervals = [np.abs(np.diff(pitches, axis=1)[:, 0]) % 12 for pitches in (before, after)]
    perfect: npt.NDArray[np.bool_] = (intervals[0] == intervals[1]) & np.isin(intervals[0], (0, _FIFTH))
    return int((same_direction & perfect).sum())
