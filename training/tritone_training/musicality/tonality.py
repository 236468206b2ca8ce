"""Tonal measures of one piece: scale, key, and how it ends.

Definitions:

* Scale consistency: the largest share of notes in one scale, after Mogren 2016 ("C-RNN-GAN", arXiv:1611.09904), in two
  variants. `scale_consistency` tries all major and harmonic minor scales. `diatonic_consistency` tries major scales
  only; it equals MusPy's `scale_consistency` (Dong et al. 2020, arXiv:2008.01951), whose minor scales are natural and
  have the notes of a major scale. Twelve equally frequent pitch classes have 7/12 = 0.58 in both.
* Key: the Krumhansl-Schmuckler algorithm on durations, see `tritone.music.keys`. Key clarity is the correlation of the
  best key (Lartillot & Toiviainen 2007, MIRtoolbox: `mirkey`).
* Key drift: the distance of the keys of the first and the last quarter on the circle of fifths. Relative keys, which
  have one key signature, have the distance 0.
* Cadence: the final note is the tonic; a final chord is the tonic triad over the tonic in the bass, as in every
  authentic and plagal cadence (Aldwell, Schachter & Cadwallader, Harmony and Voice Leading, 4th ed., chapters 7 and
  11); the third may be major in minor keys, or absent. The end is also marked by rhythm: it begins on a strong beat,
  and lasts at least as long as the median note (Narmour 1990, The Analysis and Cognition of Basic Melodic Structures:
  closure by metric emphasis and by duration; Lerdahl & Jackendoff 1983, metrical preference rules 5 and 7). Unbroken
  repetitions of the final note, with which many tunes close, count as one note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import LOWEST_PITCH, SILENT, Grid, notes_of
from tritone.music.keys import KEY_NAMES, MODES, N_KEYS, estimate_keys, key_correlations
from tritone_training.musicality.measures import (
    HARMONIC_MINOR_SCALE,
    MAJOR_SCALE,
    best_scale_share,
    pitch_class_counts,
)

Key = tuple[int, int]  # tonic 0..11 from C; 0 major, 1 minor
_TRIAD: Final = frozenset({0, 3, 4, 7})  # semitones above the root; both thirds, for the Picardy third


@dataclass(frozen=True)
class Ending:
    """How a piece ends.

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


def scale_consistency_of(grid: Grid) -> float:
    """Return the largest share of notes in one major or harmonic minor scale, 0 to 1; NaN without notes."""
    return float(best_scale_share(_counts(grid), (MAJOR_SCALE, HARMONIC_MINOR_SCALE))[0])


def diatonic_consistency(grid: Grid) -> float:
    """Return the largest share of notes in one major scale, 0 to 1; NaN without notes."""
    return float(best_scale_share(_counts(grid), (MAJOR_SCALE,))[0])


def key_of(grid: Grid) -> Key | None:
    """Return the estimated key; None where nothing sounds, or all pitch classes equally long."""
    tonic, mode = (int(values[0]) for values in estimate_keys(grid.frames[None]))
    return None if tonic < 0 else (tonic, mode)


def key_name(key: Key) -> str:
    """Return the name of a key, such as `F# minor`."""
    return f"{KEY_NAMES[key[0]]} {MODES[key[1]]}"


def key_clarity(grid: Grid) -> float:
    """Return the correlation of the pitch-class durations with the profile of the best key; NaN without notes."""
    correlations = key_correlations(grid.frames[None])
    return float(correlations.max()) if correlations.any() else float("nan")


def key_drift(grid: Grid) -> float:
    """Return the distance of the keys of the first and last quarter in fifths, 0 to 6; NaN if either is silent."""
    n_quarter = grid.n_frames // 4
    if not n_quarter:
        return float("nan")
    ends = np.stack([grid.frames[:n_quarter], grid.frames[-n_quarter:]])
    tonics, modes = estimate_keys(ends)
    if (tonics < 0).any():
        return float("nan")
    # A minor key has the signature of the major key three semitones above; a fifth up adds one sharp.
    signatures = (tonics + 3 * modes) * 7 % N_KEYS
    distance = int(abs(signatures[0] - signatures[1]))
    return float(min(distance, N_KEYS - distance))


def in_scale_share(grid: Grid, key: Key) -> float:
    """Return the share of notes in the scale of a key (major; natural or harmonic minor); NaN without notes."""
    tonic, mode = key
    scales = ((0, 2, 3, 5, 7, 8, 10), HARMONIC_MINOR_SCALE) if mode else (MAJOR_SCALE,)
    counts = np.roll(_counts(grid)[0], -tonic)
    total = counts.sum()
    return max(float(counts[list(scale)].sum()) for scale in scales) / total if total else float("nan")


def ending_of(grid: Grid, key: Key | None = None, *, tolerance: float = 0.0) -> Ending:
    """Return how a piece ends, silence after its last note left out.

    Args:
        grid: the piece; bars of 4/4 where the meter is unknown.
        key: the key of the piece; estimated if None.
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
    if not tolerance:  # of equal keys the first, as in `key_of`
        return {int(correlations.argmax()) % N_KEYS}
    return {int(key) % N_KEYS for key in np.flatnonzero(correlations >= correlations.max() - tolerance)}


def _final_run(
    onsets: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], is_bass: npt.NDArray[np.bool_], end: int
) -> list[int]:
    """Return the onsets of a final note and of the unbroken repetitions before it: tunes close with G G G."""
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


def _counts(grid: Grid) -> npt.NDArray[np.float64]:
    return pitch_class_counts(grid.frames[None])
