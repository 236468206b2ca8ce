"""Repetition within one piece: repeated bars and phrases, and the similarity of bars by their distance.

Two bars are equal if they strike the same pitches at the same steps. The similarity of two bars is the share of their
notes that they have in common: notes (step in the bar, pitch, length) in both, over notes in either, as in the
similarity error of Museformer (Yu et al. 2022, arXiv:2210.10349).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import Grid, notes_of

PHRASE_BARS: Final = 4
MAX_LAG: Final = 32  # bars
Struck = frozenset[tuple[int, int]]  # step in the bar, MIDI pitch


def struck_in_bars(grid: Grid) -> list[Struck]:
    """Return the struck notes of each bar as (step in the bar, MIDI pitch), an upbeat being a bar of its own."""
    return [frozenset(note[:2] for note in bar) for bar in _notes_in_bars(grid)]


def repeated_bars(grid: Grid) -> float:
    """Return the share of bars that equal an earlier bar; bars without onsets are left out. NaN without notes."""
    bars = [bar for bar in struck_in_bars(grid) if bar]
    return 1 - len(set(bars)) / len(bars) if bars else float("nan")


def repeated_phrases(grid: Grid, n_bars: int = PHRASE_BARS) -> float:
    """Return the share of segments of `n_bars` bars, one beginning at each bar, that equal an earlier segment.

    Segments without onsets are left out. NaN for pieces of fewer than two segments.
    """
    bars = struck_in_bars(grid)
    segments = [tuple(bars[start : start + n_bars]) for start in range(len(bars) - n_bars + 1)]
    segments = [segment for segment in segments if any(segment)]
    return 1 - len(set(segments)) / len(segments) if len(segments) > 1 else float("nan")


def self_similarity(grid: Grid, *, max_lag: int = MAX_LAG) -> npt.NDArray[np.float64]:
    """Return the mean similarity of bars at each distance of 1 .. `max_lag` bars: (max_lag,), 0 to 1.

    NaN at distances beyond the piece; pairs of bars without onsets are left out.
    """
    bars = [frozenset(bar) for bar in _notes_in_bars(grid)]
    means = np.full(max_lag, np.nan)
    for lag in range(1, min(max_lag, len(bars) - 1) + 1):
        pairs = [(a, b) for a, b in zip(bars, bars[lag:], strict=False) if a or b]
        if pairs:
            means[lag - 1] = np.mean([len(a & b) / len(a | b) for a, b in pairs])
    return means


def _notes_in_bars(grid: Grid) -> list[list[tuple[int, int, int]]]:
    """Return the notes struck in each bar as (step in the bar, MIDI pitch, length in steps)."""
    length, index = grid.meter
    length = length or 4 * grid.frames_per_quarter
    bars: list[list[tuple[int, int, int]]] = [[] for _ in grid.bars]
    for onset, end, pitch in zip(*(values.tolist() for values in notes_of(grid)), strict=True):
        bar, step = divmod(onset + index, length)
        bars[bar].append((step, pitch, end - onset))
    return bars
