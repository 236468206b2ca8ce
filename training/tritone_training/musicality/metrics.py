"""What is in a set of spans, in a handful of numbers.

Definitions: MuseGAN (Dong et al. 2018, arXiv:1709.06298) for empty bars, used pitch classes; MusPy (Dong et al. 2020,
arXiv:2008.01951) for polyphony, polyphony rate, scale consistency, pitch-class entropy; see `attributes` for the
others.

Shapes: S spans, N time steps.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import N_PITCHES
from tritone_training._exceptions import DataError
from tritone_training.musicality.attributes import ATTRIBUTES, measure_attributes
from tritone_training.musicality.key import PITCH_CLASSES, pitch_class_durations
from tritone_training.musicality.spans import is_sounding, note_table

STEPS_PER_BAR: Final = 16  # sixteenths of 4/4
_MAJOR_SCALE: Final = (0, 2, 4, 5, 7, 9, 11)
_HARMONIC_MINOR_SCALE: Final = (0, 2, 3, 5, 7, 8, 11)


def describe(frames: npt.NDArray[Any]) -> dict[str, float]:
    """All measures of a set of grids of sixteenths in whole bars of 4/4, each averaged over the set.

    Args:
        frames: (S, N, 88), S at least 1, N a multiple of 16.

    Raises:
        DataError: another shape, or no spans.
    """
    if frames.ndim != 3 or not len(frames) or frames.shape[1] % STEPS_PER_BAR or frames.shape[2] != N_PITCHES:
        raise DataError(f"spans have shape {frames.shape}; expected (1 or more, whole bars of 16, {N_PITCHES})")
    attributes = measure_attributes(frames).mean(0)
    return {
        "empty_bar_rate": empty_bar_rate(frames),
        "used_pitch_classes": used_pitch_classes(frames),
        "scale_consistency": scale_consistency(frames),
        "pitch_class_entropy": pitch_class_entropy(frames),
        "polyphony": polyphony(frames),
        "polyphony_rate": polyphony_rate(frames),
        "note_length": note_length(frames),
        **{name: float(value) for name, value in zip(ATTRIBUTES, attributes, strict=True)},
    }


def empty_bar_rate(frames: npt.NDArray[Any]) -> float:
    """Share of bars in which nothing sounds."""
    return float((~_bars(frames).any((1, 2))).mean())


def used_pitch_classes(frames: npt.NDArray[Any]) -> float:
    """Different pitch classes in a bar, averaged over the bars in which something sounds; 0 if none."""
    bars = _bars(frames).any(1)  # (bars, 88)
    used = np.stack([bars[:, pitch_class == PITCH_CLASSES].any(1) for pitch_class in range(12)], axis=1).sum(1)
    return _mean(used[used > 0])


def scale_consistency(frames: npt.NDArray[Any]) -> float:
    """Largest share of notes that lie in one major or (harmonic) minor scale, averaged over spans with notes."""
    notes = note_table(frames)
    counts = np.zeros((len(frames), 12))
    np.add.at(counts, (notes.span, PITCH_CLASSES[notes.pitch]), 1)
    scales = np.zeros((24, 12))
    for row, (scale, tonic) in enumerate((s, t) for s in (_MAJOR_SCALE, _HARMONIC_MINOR_SCALE) for t in range(12)):
        scales[row, (np.array(scale) + tonic) % 12] = 1
    total = counts.sum(1)
    best = (counts @ scales.T).max(1)
    return _mean(best[total > 0] / total[total > 0])


def pitch_class_entropy(frames: npt.NDArray[Any]) -> float:
    """Entropy in bits of the durations of the twelve classes, averaged over spans in which something sounds."""
    durations = pitch_class_durations(frames)
    durations = durations[durations.sum(1) > 0]
    shares = durations / durations.sum(1, keepdims=True)
    return _mean(-(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1))


def polyphony(frames: npt.NDArray[Any]) -> float:
    """Notes that sound at once, averaged over the time steps in which any does; 0 if none."""
    n_sounding = is_sounding(frames).sum(2)
    return _mean(n_sounding[n_sounding > 0])


def polyphony_rate(frames: npt.NDArray[Any], *, threshold: int = 2) -> float:
    """Share of all time steps in which at least `threshold` notes sound."""
    return float((is_sounding(frames).sum(2) >= threshold).mean())


def note_length(frames: npt.NDArray[Any]) -> float:
    """Mean length of a note in time steps; 0 without notes."""
    return _mean(note_table(frames).length)


def _bars(frames: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(S, N, 88) -> (S * N / 16, 16, 88) bool."""
    return is_sounding(frames).reshape(-1, STEPS_PER_BAR, frames.shape[2])


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if values.size else 0.0
