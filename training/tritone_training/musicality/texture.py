"""Texture of one piece: range, density, polyphony, silence, repeated notes, and the leading of its voices.

Definitions:

* Range, density: Yang & Lerch 2020 ("On the evaluation of generative models in music", Neural Computing and
  Applications 32: pitch range, note count). Polyphony: MusPy (Dong et al. 2020, arXiv:2008.01951).
* Parallel fifths and octaves: `tritone.music.voice_leading`.
* Voice crossing: a voice sounds above a voice that is higher by its number (Huron 2001, "Tone and voice", Music
  Perception 19).

Grids have no voices. `tritone.music.voices.assign_voices` derives four of them, for real and for generated music
alike; it crosses voices only where held notes leave no alternative.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tritone.music.grid import SILENT, STRUCK, Grid, notes_of
from tritone.music.voice_leading import VOICE_PAIRS, count_parallels, sounding_columns
from tritone_training.musicality.measures import Integers

NAN: Final = float("nan")
LONGEST_NOTE: Final = 32  # sixteenths; longer notes count into the last bin of the histogram
_SIXTEENTHS_PER_QUARTER: Final = 4


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
    sounding = sounding_columns(grid.frames)  # (N, 4)
    n_parallels, n_changes = count_parallels(sounding)
    several = (sounding >= 0).sum(1) >= 2
    crossed = np.zeros(len(sounding), bool)
    for upper, lower in VOICE_PAIRS:
        crossed |= (sounding[:, lower] > sounding[:, upper]) & (sounding[:, upper] >= 0)
    return {
        "parallels": 100 * n_parallels / n_changes if n_changes else NAN,
        "voice_crossing": float(crossed[several].mean()) if several.any() else NAN,
    }
