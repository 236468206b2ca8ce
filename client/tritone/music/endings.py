"""Detect whether a piece ends with a cadence.

Definition: the final note is the tonic; a final chord is the tonic triad over the tonic in the bass, as in every
authentic and plagal cadence (Aldwell, Schachter & Cadwallader, Harmony and Voice Leading, 4th ed., chapters 7 and 11);
the third may be major in minor keys, or absent. The end is also marked by rhythm: it begins on a strong beat, and lasts
at least as long as the median note (Narmour 1990, The Analysis and Cognition of Basic Melodic Structures: closure by
metric emphasis and by duration; Lerdahl & Jackendoff 1983, metrical preference rules 5 and 7). Unbroken repetitions of
the final note, with which many tunes close, count as one note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import LOWEST_PITCH, SILENT, Grid, notes_of
from tritone.music.keys import N_KEYS, key_correlations

_TRIAD: Final = frozenset({0, 3, 4, 7})  # semitones above the root; both thirds, for the Picardy third


@dataclass(frozen=True)
class Ending:
    """Properties of the end of a piece.

    Attributes:
        on_tonic: the final note is the tonic, or the final chord the tonic triad over the tonic.
        on_strong_beat: the lowest final note begins on a strong beat.
        is_long: the lowest final note lasts at least as long as the median note, repetitions included.
    """

    on_tonic: bool
    on_strong_beat: bool
    is_long: bool

    @property
    def is_cadence(self) -> bool:
        """Return whether all three are true."""
        return self.on_tonic and self.on_strong_beat and self.is_long


def ending_of(grid: Grid, key: tuple[int, int] | None = None, *, tolerance: float = 0.0) -> Ending:
    """Return the properties of the end of a piece; silence after its last note is ignored.

    Args:
        grid: the piece; bars of 4/4 where the meter is unknown.
        key: tonic 0 to 11 from C, and 0 major or 1 minor; estimated if None.
        tolerance: if the key is estimated, also accept keys whose correlation is smaller by at most this.
    """
    sounding = np.flatnonzero((grid.frames != SILENT).any(axis=1))
    tonics = _tonics(grid, tolerance) if key is None else {key[0]}
    if not tonics or not sounding.size:
        return Ending(on_tonic=False, on_strong_beat=False, is_long=False)
    last = int(sounding[-1])
    pitches = np.flatnonzero(grid.frames[last] != SILENT) + LOWEST_PITCH
    intervals = set(((pitches - pitches[0]) % N_KEYS).tolist())
    onsets, ends, struck = notes_of(grid)
    beginnings = _final_run(onsets, ends, struck == pitches[0], last + 1)
    median = float(np.median(ends - onsets))
    strong = [onset for onset in beginnings if is_strong(grid, onset)]
    return Ending(
        on_tonic=bool(pitches[0] % N_KEYS in tonics and intervals <= _TRIAD),
        on_strong_beat=bool(strong),
        is_long=last + 1 - min(strong or beginnings) >= median,
    )


def _tonics(grid: Grid, tolerance: float) -> set[int]:
    """Return the tonics of the best key and of those whose correlation is smaller by at most the tolerance."""
    correlations = key_correlations(grid.frames[None])[0]
    if not correlations.any():
        return set()
    if not tolerance:  # of equal keys the first, as in `estimate_keys`
        return {int(correlations.argmax()) % N_KEYS}
    return {int(key) % N_KEYS for key in np.flatnonzero(correlations >= correlations.max() - tolerance)}


def _final_run(
    onsets: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], is_bass: npt.NDArray[np.bool_], end: int
) -> list[int]:
    """Return the onsets of the final bass note and of its unbroken repetitions, the last one first."""
    run = []
    for onset, stop in sorted(zip(onsets[is_bass].tolist(), ends[is_bass].tolist(), strict=True), reverse=True):
        if stop == end:
            run.append(onset)
            end = onset
    return run


def is_strong(grid: Grid, step: int) -> bool:
    """Return whether a step begins a bar, or the second half of a bar of an even number of beats.

    The beats of 6/8, 9/8 and 12/8 are dotted quarters. A bar of unknown meter has four beats.
    """
    length, index = grid.meter
    beats, denominator = grid.time_signature or (4, 4)
    length = length or 4 * grid.frames_per_quarter
    if beats % 3 == 0 and beats > 3 and denominator >= 8:
        beats //= 3
    position = (step + index) % length
    return position == 0 or (beats % 2 == 0 and 2 * position == length)
