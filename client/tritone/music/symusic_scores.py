"""Scores of the package symusic: import it, and build scores in ticks.

Shapes: K notes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.extras import require
from tritone.music.grid import Grid, simplest_signature

IntArray = npt.NDArray[np.int64]

INSTALL: Final = "pip install 'tritone[scores]'"
END_MARKER: Final = "end of score"  # marks the end of a score that ends with silence
TICKS_PER_QUARTER: Final = 480
VELOCITY: Final = 80


def require_symusic() -> Any:
    """Import symusic.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    return require("symusic", extra="scores", purpose="scores and rendering")


def score_without_notes(grid: Grid) -> tuple[Any, int]:
    """Return a score with the tempo, the time signatures and the end of a grid, and the ticks of a time step.

    Raises:
        MissingExtraError: symusic is not installed.
    """
    symusic = require_symusic()
    # A step must be a whole number of ticks.
    step = max(1, TICKS_PER_QUARTER // grid.frames_per_quarter)
    score = symusic.Score(step * grid.frames_per_quarter)
    score.tempos.append(symusic.Tempo(0, grid.tempo_qpm))
    for at, numerator, denominator in _time_signatures(grid):
        score.time_signatures.append(symusic.TimeSignature(at * step, numerator, denominator))
    if not grid.frames[-1].any():
        score.markers.append(symusic.TextMeta(grid.n_frames * step, END_MARKER))
    return score, step


def add_track(
    score: Any,
    onset: IntArray,
    duration: IntArray,
    pitch: IntArray,
    velocity: npt.NDArray[Any],
    *,
    program: int,
    name: str = "",
) -> None:
    """Add a track to a score in ticks.

    Args:
        onset, duration: (K,) in ticks.
        pitch: (K,) MIDI pitches.
        velocity: (K,) 1 to 127.
        program: 0 to 127.
        name: of the track.
    """
    symusic = require_symusic()
    track = symusic.Track(name, program, False)
    track.notes = symusic.Note.from_numpy(
        time=onset.astype(np.int32),
        duration=duration.astype(np.int32),
        pitch=pitch.astype(np.int8),
        velocity=velocity.astype(np.int8),
    )
    score.tracks.append(track)


def _time_signatures(grid: Grid) -> list[tuple[int, int, int]]:
    """Return (step, numerator, denominator) of each; none if MIDI cannot express them."""
    if grid.time_signature is None:
        return []
    length, index = grid.meter
    numerator, denominator = grid.time_signature
    if not index:
        return [(0, numerator, denominator)]
    upbeat = simplest_signature(length - index, grid.frames_per_quarter, denominator)
    return [] if upbeat is None else [(0, *upbeat), (length - index, numerator, denominator)]
