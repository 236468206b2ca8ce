"""Notes of many spans of equal length at once.

Shapes: S spans, N time steps of each, V voices, M notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone.music.grid import HELD, N_PITCHES, SILENT, STRUCK
from tritone.music.voices import FIRST_STRIKE, HOLD
from tritone_training.exceptions import DataError

Frames = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


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
    """Voices as grids: (S, N, V) -> (S, N, 88) uint8; like `voices_to_grid`, for many spans at once.

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
    """What each voice sounds: (S, N, V) -> columns 0..87 or -1 (S, N, V), and whether it is struck there (S, N, V).

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
    """The notes of grids (S, N, 88) or of voices (S, N, V), the latter with their voices.

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
    """One more than the number of held steps that follow each cell without a gap; (S, N, X) -> (S, N, X)."""
    lengths = np.ones(held.shape, np.int64)
    for step in range(held.shape[1] - 2, -1, -1):
        lengths[:, step] += np.where(held[:, step + 1], lengths[:, step + 1], 0)
    return lengths


def is_sounding(frames: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(S, N, 88) -> (S, N, 88) bool."""
    sounding: npt.NDArray[np.bool_] = frames != SILENT
    return sounding
