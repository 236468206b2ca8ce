"""Measures of sets of spans: attributes and summary statistics.

Attributes are the measures that `MusicClient.vary` can change:

* note density: notes struck in a quarter note (as in MusicVAE: Roberts et al. 2018, arXiv:1803.05428).
* pitch range: semitones between the highest and the lowest note (Yang & Lerch 2020, "On the evaluation of generative
  models in music", Neural Computing and Applications 32).
* rhythmic complexity: how weak the beats are on which notes begin, from 0 (bar lines only) to 1 (only sixteenths
  between the eighths): one minus the mean metrical weight of the onsets, with the weights of Toussaint 2002 ("A
  mathematical analysis of African, Brazilian and Cuban clave rhythms") scaled to 0..1. Pati & Lerch 2020
  (arXiv:2004.05485) order latent spaces by the same idea.

Definitions of the other measures: MuseGAN (Dong et al. 2018, arXiv:1709.06298) for empty bars and used pitch classes;
MusPy (Dong et al. 2020, arXiv:2008.01951) for polyphony, polyphony rate, scale consistency and pitch-class entropy.

Shapes: S spans, N time steps (sixteenths of 4/4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import HELD, N_PITCHES, SILENT, STRUCK
from tritone.music.keys import PITCH_CLASSES, pitch_class_durations
from tritone.music.voices import FIRST_STRIKE, HOLD
from tritone_training.exceptions import DataError

ATTRIBUTES: Final = ("note_density", "pitch_range", "rhythmic_complexity")
_STEPS_PER_QUARTER: Final = 4
# Toussaint's weights of the sixteen pulses of a bar of 4/4, as Lerdahl & Jackendoff's levels give them.
METRICAL_WEIGHTS: Final = (5, 1, 2, 1, 3, 1, 2, 1, 4, 1, 2, 1, 3, 1, 2, 1)
Frames = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def measure_attributes(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the attributes of grids: (S, N, 88) -> (S, 3) in the order of `ATTRIBUTES`; 0 where there are no notes.

    Args:
        frames: sixteenths, beginning at a bar line; N a multiple of 16.

    Raises:
        DataError: N is not a multiple of 16.
    """
    n_steps, n_pitches = frames.shape[1:]
    if n_steps % len(METRICAL_WEIGHTS):
        raise DataError(f"not whole bars: expected a multiple of {len(METRICAL_WEIGHTS)} steps, got {n_steps}")
    struck = frames == STRUCK
    density = struck.sum((1, 2)) / (n_steps / _STEPS_PER_QUARTER)
    used = struck.any(1)  # (S, 88)
    columns = np.arange(n_pitches)
    pitch_range = np.where(used, columns, -1).max(1) - np.where(used, columns, n_pitches).min(1)
    onsets = struck.any(2)  # (S, N)
    weights = np.tile((np.array(METRICAL_WEIGHTS) - 1) / 4, n_steps // len(METRICAL_WEIGHTS))
    n_onsets = onsets.sum(1)
    complexity = 1 - (onsets * weights).sum(1) / np.maximum(n_onsets, 1)
    measured: npt.NDArray[np.float64] = np.stack([density, pitch_range, complexity], axis=1).astype(np.float64)
    measured[n_onsets == 0] = 0.0
    return measured


STEPS_PER_BAR: Final = 16  # sixteenths of 4/4
MAJOR_SCALE: Final = (0, 2, 4, 5, 7, 9, 11)
HARMONIC_MINOR_SCALE: Final = (0, 2, 3, 5, 7, 8, 11)


def describe(frames: npt.NDArray[Any]) -> dict[str, float]:
    """Return all measures of a set of grids of sixteenths in whole bars of 4/4, each averaged over the set.

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
    """Return the share of bars in which nothing sounds."""
    return float((~_bars(frames).any((1, 2))).mean())


def used_pitch_classes(frames: npt.NDArray[Any]) -> float:
    """Return the number of pitch classes in a bar, averaged over the bars in which something sounds; 0 if none."""
    bars = _bars(frames).any(1)  # (bars, 88)
    used = np.stack([bars[:, pitch_class == PITCH_CLASSES].any(1) for pitch_class in range(12)], axis=1).sum(1)
    return _mean(used[used > 0])


def scale_consistency(frames: npt.NDArray[Any]) -> float:
    """Return the largest share of notes in one major or harmonic minor scale, averaged over spans with notes."""
    shares = best_scale_share(pitch_class_counts(frames), (MAJOR_SCALE, HARMONIC_MINOR_SCALE))
    return _mean(shares[~np.isnan(shares)])


def pitch_class_counts(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the number of notes of each pitch class: (S, N, 88) -> (S, 12)."""
    notes = note_table(frames)
    counts = np.zeros((len(frames), 12))
    np.add.at(counts, (notes.span, PITCH_CLASSES[notes.pitch]), 1)
    return counts


def best_scale_share(counts: npt.NDArray[np.float64], scales: tuple[tuple[int, ...], ...]) -> npt.NDArray[np.float64]:
    """Return the largest share of notes in one scale: pitch-class counts (S, 12) -> (S,), NaN without notes.

    Args:
        scales: semitones above the tonic; each scale is tried on every tonic.
    """
    masks = np.zeros((len(scales) * 12, 12))
    for row, (scale, tonic) in enumerate((scale, tonic) for scale in scales for tonic in range(12)):
        masks[row, (np.array(scale) + tonic) % 12] = 1
    total = counts.sum(1)
    best = (counts @ masks.T).max(1)
    shares: npt.NDArray[np.float64] = np.divide(best, total, out=np.full_like(total, np.nan), where=total > 0)
    return shares


def pitch_class_entropy(frames: npt.NDArray[Any]) -> float:
    """Return the entropy in bits of the durations of pitch classes, averaged over spans with notes."""
    durations = pitch_class_durations(frames)
    durations = durations[durations.sum(1) > 0]
    shares = durations / durations.sum(1, keepdims=True)
    return _mean(-(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1))


def polyphony(frames: npt.NDArray[Any]) -> float:
    """Return the number of notes that sound at once, averaged over the time steps in which any does; 0 if none."""
    n_sounding = is_sounding(frames).sum(2)
    return _mean(n_sounding[n_sounding > 0])


def polyphony_rate(frames: npt.NDArray[Any], *, threshold: int = 2) -> float:
    """Return the share of all time steps in which at least `threshold` notes sound."""
    return float((is_sounding(frames).sum(2) >= threshold).mean())


def note_length(frames: npt.NDArray[Any]) -> float:
    """Return the mean length of a note in time steps; 0 without notes."""
    return _mean(note_table(frames).length)


def _bars(frames: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(S, N, 88) -> (S * N / 16, 16, 88) bool."""
    return is_sounding(frames).reshape(-1, STEPS_PER_BAR, frames.shape[2])


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if values.size else 0.0


@dataclass(frozen=True, eq=False)
class NoteTable:
    """Every note of a set of spans, each field (M,), ordered by span, voice and step.

    Attributes:
        voice: its voice, 0 for all where the spans are grids.
        pitch: column of the grid, 0..87.
        length: in time steps, cut off where the span ends.
    """

    span: Integers
    voice: Integers
    step: Integers
    pitch: Integers
    length: Integers


def spans_to_frames(voices: npt.NDArray[Any]) -> Frames:
    """Convert voices to grids: (S, N, V) -> (S, N, 88) uint8; like `voices_to_grid`, for many spans at once.

    Raises:
        DataError: another shape.
    """
    sounding, struck = sounding_pitches(voices)
    frames = np.zeros((*voices.shape[:2], N_PITCHES), np.uint8)
    for marks, mark in ((sounding >= 0, HELD), (struck, STRUCK)):
        spans, steps, voice = np.nonzero(marks)
        frames[spans, steps, sounding[spans, steps, voice]] = mark
    return frames


def sounding_pitches(voices: npt.NDArray[Any]) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return the column 0..87 that each voice sounds, or -1, (S, N, V), and whether it is struck, (S, N, V).

    Raises:
        DataError: another shape.
    """
    if voices.ndim != 3:
        raise DataError(f"voices have shape {voices.shape}; expected (spans, steps, voices)")
    sounding = np.full(voices.shape, -1, np.int64)
    now = np.full((voices.shape[0], voices.shape[2]), -1, np.int64)
    for step in range(voices.shape[1]):
        values = voices[:, step].astype(np.int64)
        now = np.where(values == HOLD, now, np.maximum(values - FIRST_STRIKE, -1))
        sounding[:, step] = now
    return sounding, voices >= FIRST_STRIKE


def note_table(spans: npt.NDArray[Any]) -> NoteTable:
    """Return the notes of grids (S, N, 88), or of voices (S, N, V) with their voices.

    Raises:
        DataError: another number of axes.
    """
    if spans.ndim != 3:
        raise DataError(f"spans have shape {spans.shape}; expected (spans, steps, 88) or (spans, steps, voices)")
    if spans.shape[2] == N_PITCHES:
        return _notes_of_frames(spans)
    sounding, struck = sounding_pitches(spans)
    # Voice before step, so that the notes of one voice follow one another.
    span, voice, step = np.nonzero(struck.transpose(0, 2, 1))
    length = _run_lengths((spans == HOLD) & (sounding >= 0))
    return NoteTable(span, voice, step, sounding[span, step, voice], length[span, step, voice])


def _notes_of_frames(frames: npt.NDArray[Any]) -> NoteTable:
    span, step, pitch = np.nonzero(frames == STRUCK)
    length = _run_lengths(frames == HELD)
    return NoteTable(span, np.zeros_like(span), step, pitch, length[span, step, pitch])


def _run_lengths(held: npt.NDArray[np.bool_]) -> Integers:
    """Return the number of uninterrupted held steps after each cell, plus one: (S, N, X) -> (S, N, X)."""
    lengths = np.ones(held.shape, np.int64)
    for step in range(held.shape[1] - 2, -1, -1):
        lengths[:, step] += np.where(held[:, step + 1], lengths[:, step + 1], 0)
    return lengths


def is_sounding(frames: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which cells of a grid sound: (S, N, 88) -> (S, N, 88) bool."""
    sounding: npt.NDArray[np.bool_] = frames != SILENT
    return sounding
