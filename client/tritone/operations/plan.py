"""What a model that composes is given: a piece with frames to keep, to harmonise and to write.

Shapes: T frames of the whole piece, N of the part that the model hears, P of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidInputError, InvalidScoreError
from tritone.music.grid import MAX_FRAMES, N_PITCHES, UNKNOWN_METER, Frames, Grid, with_strikes
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike, describe, to_grid
from tritone.operations.options import check_range, frames_per_bar
from tritone.operations.voices import first_chord, highest_voice, thinned

FREE: Final = 0  # the model writes this frame
GIVEN: Final = 1  # this frame stands as it is
MELODY: Final = 2  # this frame's highest voice stands, the model writes the others
# Of a longer prompt the end is heard, of a longer score what lies around the bars to fill in: a model looks back
# over some hundred steps, and every step that it is given costs as much as one that it writes.
N_HEARD_MAX: Final = 512


class Source:
    """A caller's score, which may be a stream and is therefore read once."""

    def __init__(self, score: ScoreLike) -> None:
        self._name = describe(score)
        self._score = score

    def grid(self, frames_per_quarter: int) -> Grid:
        """The score on a model's grid.

        Raises:
            InvalidScoreError: it cannot be read, or holds no notes.
        """
        self._score = grid = to_grid(self._score, frames_per_quarter=frames_per_quarter)
        if not grid.n_notes:
            raise InvalidScoreError(f"{self._name}: holds no notes", path=self._name, reason="empty")
        return grid


@dataclass(frozen=True, eq=False)
class Limits:
    """What a model takes."""

    n_frames: int
    n_notes: int
    frames_per_quarter: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A piece that is to be written or filled in.

    Attributes:
        grid: the whole piece, (T, 88); silent where it is to be written.
        mode: (T,) FREE, GIVEN or MELODY.
        heard: the frames that the model is given.
        given: (N, 88), what it hears there.
    """

    grid: Grid
    mode: npt.NDArray[np.uint8]
    heard: slice
    given: Frames = field(repr=False)

    @property
    def n_heard(self) -> int:
        """N."""
        return len(self.given)

    @property
    def given_mode(self) -> npt.NDArray[np.uint8]:
        """(N,)."""
        return self.mode[self.heard]

    @property
    def meter(self) -> tuple[int, int]:
        """Of the part that the model hears."""
        length, index = self.grid.meter
        return (length, (index + self.heard.start) % length) if length else UNKNOWN_METER

    def piece(self, frames: Frames, nll: npt.NDArray[np.float32] | None, **about: Any) -> Piece:
        """The whole piece, with a model's answer in the places that were its to write.

        Args:
            frames: (n, 88), the first n of the N frames; what comes after them is left out.
            nll: (n,), or None if the model does not say.
            about: seed, model and version.
        """
        stop = self.heard.start + len(frames)
        whole = self.grid.frames.copy()
        written = self.mode[self.heard.start : stop] != GIVEN
        whole[self.heard.start : stop][written] = frames[written]
        if stop < self.heard.stop:
            whole = whole[:stop]
        if nll is not None:
            spread = np.full(len(whole), np.nan, np.float32)
            spread[self.heard.start : stop] = nll
            nll = spread
        return Piece(replace(self.grid, frames=whole), nll=nll, **about)


def continued(
    prompt: Grid | None,
    bars: int,
    limits: Limits,
    *,
    meter: tuple[int, int] | None,
    tempo_qpm: float | None,
) -> Plan:
    """So many bars more, after the bar that the prompt leaves unfinished is finished.

    Raises:
        InvalidInputError: more than the model or a grid can hold.
    """
    start = _as_asked(prompt, limits, meter, tempo_qpm)
    length, index = start.meter
    n_prompt = 0 if prompt is None else start.n_frames
    n_new = -(index + n_prompt) % length + bars * length
    n_before = min(n_prompt, N_HEARD_MAX, limits.n_frames - n_new)
    if n_before < min(n_prompt, length) or n_prompt + n_new > MAX_FRAMES:
        raise InvalidInputError(
            f"bars is {bars}, which takes {n_new:,} time steps after the prompt's {n_prompt:,}; the model holds "
            f"{limits.n_frames:,} at once, a bar of the prompt among them, and a piece at most {MAX_FRAMES:,}: ask "
            f"for fewer bars, or give the prompt's last bars only"
        )
    frames = np.concatenate([start.frames[:n_prompt], np.zeros((n_new, N_PITCHES), np.uint8)])
    mode = np.repeat(np.array([GIVEN, FREE], np.uint8), [n_prompt, n_new])
    return _plan(replace(start, frames=frames), mode, slice(n_prompt - n_before, len(frames)), limits)


def harmonized(melody: Grid, limits: Limits, *, highest: bool, tempo_qpm: float | None) -> Plan:
    """Other voices under a melody.

    Raises:
        InvalidInputError: the melody has chords, or is longer than the model takes.
    """
    grid = _as_asked(melody, limits, None, tempo_qpm)
    chord = first_chord(grid.frames)
    if highest:
        grid = replace(grid, frames=highest_voice(grid.frames))
    elif chord is not None:
        raise InvalidInputError(
            f"the melody has {int((grid.frames[chord] > 0).sum())} notes at once {place(grid, chord)}; expected one "
            f"voice: pass highest=True (--highest) to harmonise the highest, or give that voice alone"
        )
    if grid.n_frames > limits.n_frames:
        raise InvalidInputError(
            f"the melody has {grid.n_frames:,} time steps; the model takes at most {limits.n_frames:,}: cut it"
        )
    return _plan(grid, np.full(grid.n_frames, MELODY, np.uint8), slice(0, grid.n_frames), limits)


def filled_in(score: Grid, bars: tuple[int, int], limits: Limits, *, tempo_qpm: float | None) -> Plan:
    """Some bars written anew, as they fit to what is before and after them.

    Raises:
        InvalidInputError: there are no such bars.
    """
    grid = _as_asked(score, limits, None, tempo_qpm)
    first, last = check_range(bars, grid.n_bars)
    hole = slice(grid.bars[first].start, grid.bars[last - 1].stop)
    n_hole = hole.stop - hole.start
    if n_hole > limits.n_frames:
        raise InvalidInputError(
            f"bars is {bars!r}, which are {n_hole:,} time steps; the model writes at most {limits.n_frames:,} at once"
        )
    frames = grid.frames.copy()
    frames[hole] = 0
    mode = np.full(grid.n_frames, GIVEN, np.uint8)
    mode[hole] = FREE
    n_around = min(N_HEARD_MAX, limits.n_frames - n_hole) // 2
    heard = slice(max(0, hole.start - n_around), min(grid.n_frames, hole.stop + n_around))
    return _plan(replace(grid, frames=frames), mode, heard, limits)


def place(grid: Grid, frame: int) -> str:
    """A time step for people."""
    bar = next(number for number, steps in enumerate(grid.bars) if frame < steps.stop)
    return f"in bar {bar} (counted from 0), at time step {frame}"


def _as_asked(grid: Grid | None, limits: Limits, meter: tuple[int, int] | None, tempo_qpm: float | None) -> Grid:
    """With meter and tempo as the caller says, else as the score says, else 4/4 at 120."""
    asked = frames_per_bar(meter, limits.frames_per_quarter)
    if grid is None:
        grid = Grid(np.zeros((1, N_PITCHES), np.uint8), limits.frames_per_quarter)
    length, index = grid.meter
    signature = grid.time_signature if meter is None else (int(meter[0]), int(meter[1]))
    if asked is None and not length:
        asked = 4 * limits.frames_per_quarter
    if asked is not None and asked != length:
        length, index = asked, 0
    return replace(
        grid,
        meter=(length, index),
        time_signature=signature,
        tempo_qpm=grid.tempo_qpm if tempo_qpm is None else tempo_qpm,
    )


def _plan(grid: Grid, mode: npt.NDArray[np.uint8], heard: slice, limits: Limits) -> Plan:
    """What the model cannot hear is counted with what else the score lost on its way."""
    given, n_gone = thinned(with_strikes(grid.frames[heard]), limits.n_notes)
    unheard = {"unheard_notes": n_gone, "unheard_steps": grid.n_frames - len(given)}
    dropped = {**grid.dropped, **{reason: n for reason, n in unheard.items() if n}}
    return Plan(replace(grid, dropped=dropped), mode, heard, given)
