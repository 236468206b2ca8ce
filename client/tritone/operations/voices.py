"""Which notes of a piece a model gets to hear: its highest voice, or no more at once than it can take.

Shapes: N frames, 88 pitches; values as in `Grid`.
"""

from __future__ import annotations

import numpy as np

from tritone.music.grid import HELD, STRUCK, Frames


def first_chord(frames: Frames) -> int | None:
    """Index of the first of (N, 88) frames where more than one note sounds; None if there is none."""
    chords = np.flatnonzero((frames > 0).sum(axis=1) > 1)
    return int(chords[0]) if chords.size else None


def highest_voice(frames: Frames) -> Frames:
    """(N, 88) -> (N, 88) with the highest note of each frame alone.

    A lower note that comes to light because the one above it ended is struck there.
    """
    sounding = frames > 0
    n_pitches = frames.shape[1]
    some = sounding.any(axis=1)
    top = n_pitches - 1 - sounding[:, ::-1].argmax(axis=1)  # (N,)
    rows = np.arange(len(frames))
    same_as_before = np.zeros(len(frames), bool)
    same_as_before[1:] = (top[1:] == top[:-1]) & some[:-1]
    held = (frames[rows, top] == HELD) & same_as_before
    voice = np.zeros_like(frames)
    voice[rows[some], top[some]] = np.where(held, HELD, STRUCK)[some]
    return voice


def thinned(frames: Frames, n_most: int) -> tuple[Frames, int]:
    """Take whole notes away until at most `n_most` sound at once.

    The inner ones go first: melody and bass are what the ear follows.

    Returns:
        (N, 88), and how many notes were taken away.
    """
    thin = frames.copy()
    n_gone = 0
    for frame in np.flatnonzero((frames > 0).sum(axis=1) > n_most):
        pitches = np.flatnonzero(thin[frame])  # notes that left an earlier frame are gone here too
        n_over = len(pitches) - n_most
        if n_over <= 0:
            continue
        first = (len(pitches) - n_over + 1) // 2
        for pitch in pitches[first : first + n_over]:
            _take_away(thin, int(frame), int(pitch))
        n_gone += n_over
    return thin, n_gone


def _take_away(frames: Frames, frame: int, pitch: int) -> None:
    """The note that sounds at `frame`, from where it was struck to where it ends; in place."""
    line = frames[:, pitch]
    start = frame
    while start and line[start] == HELD and line[start - 1]:
        start -= 1
    stop = frame + 1
    while stop < len(line) and line[stop] == HELD:
        stop += 1
    line[start:stop] = 0
