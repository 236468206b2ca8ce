"""The sound of frames of music, in the windows that `genre_cnn` reads.

Scores are rendered and recordings cut by the client's own code, so that the response of the model equals that of a
caller who renders and classifies a piece.

Shapes: N frames, S samples, W windows of 66,150 samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone.audio import iter_windows
from tritone.constants import N_RENDERED_WINDOWS_MAX, SAMPLE_RATE_HZ, SILENCE_PEAK, WINDOW_S, WINDOW_SAMPLES
from tritone.exceptions import ClientError
from tritone.music.grid import TEMPO_RANGE_QPM, Grid
from tritone.music.render import TAIL_S, render
from tritone.music.scores import to_score

Array = np.ndarray[Any, Any]

_MAX_S = N_RENDERED_WINDOWS_MAX * WINDOW_S
_FINE = 24  # frames in a quarter note, for frames that are too short to be quarter notes


class RenderError(Exception):
    """Frames cannot be rendered, or a package is missing; the message is sent to the caller."""


@dataclass(frozen=True)
class Sound:
    """The sound of a piece.

    Attributes:
        windows: (W, 66150) float32, mono at 22,050 Hz; W is 1 to 64.
        starts_s: (W,) float32, start of each window in the piece.
        duration_s: length of the sound, a second longer than the notes.
    """

    windows: Array
    starts_s: Array
    duration_s: float


def render_windows(frames: Array, frame_s: float) -> Sound:
    """Return the sound of frames; frames without notes give silence.

    Args:
        frames: (N, 88) uint8; 0 silent, 1 held, 2 struck.
        frame_s: duration of a frame in seconds.

    Raises:
        RenderError: the sound has more than 64 windows, or cannot be made.
    """
    longest_s = len(frames) * frame_s + TAIL_S
    if longest_s > _MAX_S:
        raise RenderError(
            f"invalid frames: expected at most {_MAX_S - TAIL_S:g} s of music, got {longest_s - TAIL_S:,.1f} s "
            f"({len(frames)} frames of {frame_s:g} s); send fewer frames"
        )
    try:
        grid = _grid(frames, frame_s)
        if not grid.n_notes:
            return _silence(longest_s)
        samples = render(to_score(grid), rate_hz=SAMPLE_RATE_HZ)  # (S,)
        if np.abs(samples).max() < SILENCE_PEAK:
            return _silence(longest_s)
        windows = list(iter_windows((samples, SAMPLE_RATE_HZ)))
    except ClientError as error:
        raise RenderError(str(error)) from error
    return Sound(
        np.stack([window.samples for window in windows]),
        np.array([window.start_s for window in windows], np.float32),
        samples.size / SAMPLE_RATE_HZ,
    )


def warm_up() -> None:
    """Load the synthesizer and render a note, so that the first request is not slower.

    Raises:
        RenderError: symusic or the SoundFont is missing.
    """
    frames = np.zeros((4, 88), np.uint8)
    frames[0, 40] = 2
    render_windows(frames, 0.125)


def _grid(frames: Array, frame_s: float) -> Grid:
    """Return the frames as a score, whose resolution is chosen so that its tempo is a valid one."""
    per_quarter = 1 if 60.0 / frame_s <= TEMPO_RANGE_QPM[1] else _FINE
    return Grid(frames, per_quarter, tempo_qpm=60.0 / (frame_s * per_quarter))


def _silence(duration_s: float) -> Sound:
    n_windows = math.ceil(duration_s / WINDOW_S)
    starts_s = np.arange(n_windows, dtype=np.float32) * np.float32(WINDOW_S)
    return Sound(np.zeros((n_windows, WINDOW_SAMPLES), np.float32), starts_s, duration_s)
