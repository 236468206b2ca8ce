"""Grids as four voices, the input and output format of the models of short spans.

```python
voices = grid_to_voices(frames)                # (N, 88) -> (N, 4)
frames = voices_to_grid(voices)                # and back: the same notes, if no more than four sounded at once
```

Shapes: N time steps, V = 4 voices from the highest voice (voice 0) down, 88 pitches (MIDI 21..108).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidScoreError
from tritone.music.grid import HELD, N_PITCHES, STRUCK, Frames, with_strikes

N_VOICES: Final = 4
REST: Final = 0
HOLD: Final = 1
FIRST_STRIKE: Final = 2  # strikes MIDI pitch 21; 89 strikes 108
N_VOICE_VALUES: Final = FIRST_STRIKE + N_PITCHES
SPAN_FRAMES: Final = 32  # two bars of 4/4 in sixteenths
_CROSSING: Final = 1000.0  # costs more than any leaps: voices cross only where held notes leave no alternative

Voices = npt.NDArray[np.int64]
_Candidates = dict[int, int]  # column of the pitch -> HELD or STRUCK


def grid_to_voices(frames: npt.NDArray[Any]) -> Voices:
    """Return the voices of a grid; see `assign_voices`.

    Args:
        frames: (N, 88), values 0..2.

    Returns:
        (N, 4) int64: 0 rest, 1 hold, 2..89 strike pitch 21..108.
    """
    return assign_voices(frames)[0]


def assign_voices(frames: npt.NDArray[Any]) -> tuple[Voices, int]:
    """Assign every note to a voice, greedily in time and deterministically.

    A note keeps its voice as long as it is held. New notes take free voices in the order of their pitches, those
    whose last notes were nearest. Where more than four notes would sound, the inner ones are left out from there
    on. Notes that sound at the first step are struck there.

    Args:
        frames: (N, 88), values 0..2.

    Returns:
        The voices (N, 4), and how many notes were left out or cut short.
    """
    kept, n_dropped = _at_most_four(with_strikes(frames))
    near = _typical_pitches(kept)
    voices: list[list[int]] = []
    held: dict[int, int] = {}  # column -> voice
    for candidates in kept:
        row = [REST] * N_VOICES
        held = {column: held[column] for column, value in candidates.items() if value == HELD}
        for voice in held.values():
            row[voice] = HOLD
        if len(held) < len(candidates):
            new = [column for column in candidates if column not in held]
            for column, voice in zip(new, _voices_for(new, held, near), strict=True):
                row[voice] = FIRST_STRIKE + column
                held[column] = voice
                near[voice] = column
        voices.append(row)
    return np.array(voices, np.int64).reshape(-1, N_VOICES), n_dropped


def voices_to_grid(voices: npt.NDArray[Any]) -> Frames:
    """Return the grid of voices; a pitch in two voices is one note, struck whenever either voice strikes it.

    Args:
        voices: (N, 4), values 0..89; a hold that follows a rest, or nothing, is a rest.

    Returns:
        (N, 88) uint8 grid.

    Raises:
        InvalidScoreError: the shape or a value is invalid.
    """
    array = np.asarray(voices)
    if array.ndim != 2 or array.shape[1] != N_VOICES or array.dtype.kind not in "iu":
        raise _bad(f"voices have shape {array.shape} and type {array.dtype}; expected whole numbers of shape (n, 4)")
    if array.size and not (array.min() >= REST and array.max() < N_VOICE_VALUES):
        raise _bad(f"voices hold values {array.min()} to {array.max()}; expected 0 to {N_VOICE_VALUES - 1}")
    frames = np.zeros((len(array), N_PITCHES), np.uint8)
    sounding = [-1] * N_VOICES
    for step, values in enumerate(array.tolist()):
        for voice, value in enumerate(values):
            if value != HOLD:
                sounding[voice] = value - FIRST_STRIKE  # below 0 for a rest
            if sounding[voice] >= 0:
                mark = HELD if value == HOLD else STRUCK
                frames[step, sounding[voice]] = max(mark, frames[step, sounding[voice]])
    return frames


def _at_most_four(frames: Frames) -> tuple[list[_Candidates], int]:
    """Return at most four notes of each step, the highest first, and the number of inner notes that were dropped."""
    steps, columns = np.nonzero(frames[:, ::-1])  # the highest first
    columns = N_PITCHES - 1 - columns
    marks = frames[steps, columns].tolist()
    kept: list[_Candidates] = [{} for _ in frames]
    for step, column, mark in zip(steps.tolist(), columns.tolist(), marks, strict=True):
        kept[step][column] = mark
    n_dropped = 0
    last: _Candidates = {}
    for now in kept:
        if n_dropped:  # a note that was left out stays out until it is struck again
            for column in [column for column, mark in now.items() if mark == HELD and column not in last]:
                del now[column]
        inner = list(now)[N_VOICES // 2 : -(N_VOICES // 2)] if len(now) > N_VOICES else []
        for column in inner:
            del now[column]
        n_dropped += len(inner)
        last = now
    return kept, n_dropped


def _typical_pitches(kept: list[_Candidates]) -> list[float]:
    """Return where each voice begins: its mean pitch where most voices sound; unused voices begin far below."""
    n_voices = max(map(len, kept), default=0)
    fullest = np.array([list(now) for now in kept if n_voices and len(now) == n_voices])
    typical: list[float] = fullest.mean(axis=0).tolist() if n_voices else []
    return typical + [-float(N_PITCHES)] * (N_VOICES - n_voices)


def _voices_for(new: list[int], held: dict[int, int], near: list[float]) -> tuple[int, ...]:
    """Return the free voices for new notes, given from the highest down."""
    free = sorted(set(range(N_VOICES)) - set(held.values()))

    def cost(voices: tuple[int, ...]) -> float:
        leaps = sum(abs(near[voice] - column) for column, voice in zip(new, voices, strict=True))
        crossings = sum(
            (voice < other_voice) != (column > other)
            for column, voice in zip(new, voices, strict=True)
            for other, other_voice in held.items()
        )
        return leaps + _CROSSING * crossings

    if len(new) == len(free):
        return tuple(free)
    return min(combinations(free, len(new)), key=cost)  # of equal ones the first: the higher voices


def _bad(what: str) -> InvalidScoreError:
    return InvalidScoreError(f"<voices>: {what}", path="<voices>", reason="bad_shape")
