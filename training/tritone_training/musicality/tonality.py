"""Tonal measures of one piece: scale and key.

Definitions:

* Scale consistency: the largest share of notes in one scale, after Mogren 2016 ("C-RNN-GAN", arXiv:1611.09904), in two
  variants. `scale_consistency` tries all major and harmonic minor scales. `diatonic_consistency` tries major scales
  only; it equals MusPy's `scale_consistency` (Dong et al. 2020, arXiv:2008.01951), whose minor scales are natural and
  have the notes of a major scale. Twelve equally frequent pitch classes have 7/12 = 0.58 in both.
* Key: the Krumhansl-Schmuckler algorithm on durations, see `tritone.music.keys`. Key clarity is the correlation of the
  best key (Lartillot & Toiviainen 2007, MIRtoolbox: `mirkey`).
* Key drift: the distance of the keys of the first and the last quarter on the circle of fifths. Relative keys, which
  have one key signature, have the distance 0.

Endings are measured by `tritone.music.endings`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tritone.music.grid import Grid
from tritone.music.keys import KEY_NAMES, MODES, N_KEYS, estimate_keys, key_correlations
from tritone_training.musicality.measures import (
    HARMONIC_MINOR_SCALE,
    MAJOR_SCALE,
    best_scale_share,
    pitch_class_counts,
)

Key = tuple[int, int]  # tonic 0..11 from C; 0 major, 1 minor


def scale_consistency_of(grid: Grid) -> float:
    """Return the largest share of notes in one major or harmonic minor scale, 0 to 1; NaN without notes."""
    return float(best_scale_share(_counts(grid), (MAJOR_SCALE, HARMONIC_MINOR_SCALE))[0])


def diatonic_consistency(grid: Grid) -> float:
    """Return the largest share of notes in one major scale, 0 to 1; NaN without notes."""
    return float(best_scale_share(_counts(grid), (MAJOR_SCALE,))[0])


def key_of(grid: Grid) -> Key | None:
    """Return the estimated key; None if nothing sounds, or all pitch classes sound equally long."""
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


def _counts(grid: Grid) -> npt.NDArray[np.float64]:
    return pitch_class_counts(grid.frames[None])
