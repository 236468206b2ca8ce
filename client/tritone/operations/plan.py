"""The input of models that compose: a piece with frames to keep, to harmonize and to write.

Shapes: T frames of the whole piece, N of the excerpt that the model reads, P of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.arguments import check_bool, is_whole, shown
from tritone.exceptions import InvalidInputError, InvalidScoreError
from tritone.music.grid import HELD, MAX_FRAMES, N_PITCHES, STRUCK, UNKNOWN_METER, Frames, Grid, with_strikes
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike, describe, to_grid

FREE: Final = 0  # the model writes this frame
GIVEN: Final = 1  # this frame is kept
MELODY: Final = 2  # the highest voice of this frame is kept, the model writes the others
# The model reads the end of a longer prompt, or the surroundings of the bars to infill: it looks back over some hundred
# steps, and a step that it reads costs as much as one that it writes.
N_READ_MAX: Final = 512
N_BARS_MAX: Final = 256  # about eight minutes of 4/4 at 120 quarters per minute


class ScoreSource:
    """The score of a caller, read once because it may be a stream."""

    def __init__(self, score: ScoreLike) -> None:
        self._name = describe(score)
        self._score = score

    def grid(self, frames_per_quarter: int) -> Grid:
        """Return the score on the grid of a model.

        Raises:
            InvalidScoreError: it cannot be read, or holds no notes.
        """
        self._score = grid = to_grid(self._score, frames_per_quarter=frames_per_quarter)
        if not grid.n_notes:
            raise InvalidScoreError(f"{self._name}: holds no notes", path=self._name, reason="empty")
        return grid


@dataclass(frozen=True, eq=False)
class ModelLimits:
    """The limits of a model."""

    n_frames: int
    n_notes: int
    frames_per_quarter: int


@dataclass(frozen=True, eq=False)
class CompositionPlan:
    """A piece to be written or infilled.

    Attributes:
        grid: the whole piece, (T, 88); silent in the frames to write.
        mode: (T,) FREE, GIVEN or MELODY.
        excerpt: the frames that the model reads or writes.
        given: (N, 88), the frames of the excerpt as the model reads them.
    """

    grid: Grid
    mode: npt.NDArray[np.uint8]
    excerpt: slice
    given: Frames = field(repr=False)

    @property
    def n_frames(self) -> int:
        """N."""
        return len(self.given)

    @property
    def given_mode(self) -> npt.NDArray[np.uint8]:
        """(N,)."""
        return self.mode[self.excerpt]

    @property
    def meter(self) -> tuple[int, int]:
        """The meter of the excerpt, as in `Grid.meter`."""
        length, index = self.grid.meter
        return (length, (index + self.excerpt.start) % length) if length else UNKNOWN_METER

    def piece(self, frames: Frames, nll: npt.NDArray[np.float32] | None, **about: Any) -> Piece:
        """Return the whole piece with the frames that a model wrote.

        Args:
            frames: (n, 88), the first n of the N frames; the piece ends after them.
            nll: (n,), or None if the model has no such output.
            about: seed, model and version.
        """
        stop = self.excerpt.start + len(frames)
        whole = self.grid.frames.copy()
        written = self.mode[self.excerpt.start : stop] != GIVEN
        whole[self.excerpt.start : stop][written] = frames[written]
        if stop < self.excerpt.stop:
            whole = whole[:stop]
        if nll is not None:
            spread = np.full(len(whole), np.nan, np.float32)
            spread[self.excerpt.start : stop] = nll
            nll = spread
        return Piece(replace(self.grid, frames=whole), nll=nll, **about)


def continued(
    prompt: Grid | None,
    bars: int,
    limits: ModelLimits,
    *,
    meter: tuple[int, int] | None,
    tempo_qpm: float | None,
) -> CompositionPlan:
    """Return a plan for a number of new bars after a prompt; its unfinished bar is finished first.

    Raises:
        InvalidInputError: the piece exceeds the limits of the model or of a grid.
    """
    start = _start(prompt, limits, meter, tempo_qpm)
    length, index = start.meter
    n_prompt = 0 if prompt is None else start.n_frames
    n_new = -(index + n_prompt) % length + bars * length
    n_before = min(n_prompt, N_READ_MAX, limits.n_frames - n_new)
    if n_before < min(n_prompt, length) or n_prompt + n_new > MAX_FRAMES:
        raise InvalidInputError(
            f"the piece is too long: expected at most {limits.n_frames:,} time steps for the new bars and one bar of "
            f"the prompt, and {MAX_FRAMES:,} in all, got {n_new:,} new ones after {n_prompt:,}; write fewer bars, or "
            f"pass only the last bars of the prompt",
            argument="bars",
            reason="too_long",
        )
    frames = np.concatenate([start.frames[:n_prompt], np.zeros((n_new, N_PITCHES), np.uint8)])
    mode = np.repeat(np.array([GIVEN, FREE], np.uint8), [n_prompt, n_new])
    return _plan(replace(start, frames=frames), mode, slice(n_prompt - n_before, len(frames)), limits)


def harmonized(melody: Grid, limits: ModelLimits, *, highest: bool, tempo_qpm: float | None) -> CompositionPlan:
    """Return a plan for other voices of a melody.

    Raises:
        InvalidInputError: the melody has chords, or is longer than the model takes.
    """
    grid = _start(melody, limits, None, tempo_qpm)
    chord = first_chord(grid.frames)
    if check_bool("highest", highest):
        grid = replace(grid, frames=highest_voice(grid.frames))
    elif chord is not None:
        raise InvalidInputError(
            f"the melody has chords: expected one voice, got {int((grid.frames[chord] > 0).sum())} notes at once "
            f"{position(grid, chord)}; pass highest=True (--highest) to harmonize the highest voice",
            argument="melody",
            reason="too_many_notes",
        )
    if grid.n_frames > limits.n_frames:
        raise InvalidInputError(
            f"the melody is too long: expected at most {limits.n_frames:,} time steps, got {grid.n_frames:,}; shorten "
            f"it",
            argument="melody",
            reason="too_long",
        )
    return _plan(grid, np.full(grid.n_frames, MELODY, np.uint8), slice(0, grid.n_frames), limits)


def filled_in(score: Grid, bars: tuple[int, int], limits: ModelLimits, *, tempo_qpm: float | None) -> CompositionPlan:
    """Return a plan for new content of some bars of a score.

    Raises:
        InvalidInputError: the score has no such bars.
    """
    grid = _start(score, limits, None, tempo_qpm)
    first, last = check_bars(bars, grid.n_bars)
    hole = slice(grid.bars[first].start, grid.bars[last - 1].stop)
    n_hole = hole.stop - hole.start
    if n_hole > limits.n_frames:
        raise InvalidInputError(
            f"too many bars: expected at most {limits.n_frames:,} time steps, got {n_hole:,} in {bars!r}; infill fewer "
            f"bars",
            argument="bars",
            reason="too_long",
        )
    frames = grid.frames.copy()
    frames[hole] = 0
    mode = np.full(grid.n_frames, GIVEN, np.uint8)
    mode[hole] = FREE
    n_around = min(N_READ_MAX, limits.n_frames - n_hole) // 2
    excerpt = slice(max(0, hole.start - n_around), min(grid.n_frames, hole.stop + n_around))
    return _plan(replace(grid, frames=frames), mode, excerpt, limits)


def position(grid: Grid, frame: int) -> str:
    """Return a time step in words."""
    bar = next(number for number, steps in enumerate(grid.bars) if frame < steps.stop)
    return f"in bar {bar} (counted from 0), at time step {frame}"


def _start(grid: Grid | None, limits: ModelLimits, meter: tuple[int, int] | None, tempo_qpm: float | None) -> Grid:
    """Return the grid with the meter and tempo of the caller, else of the score, else 4/4 at 120."""
    requested = frames_per_bar(meter, limits.frames_per_quarter)
    if grid is None:
        grid = Grid(np.zeros((1, N_PITCHES), np.uint8), limits.frames_per_quarter)
    length, index = grid.meter
    signature = grid.time_signature if meter is None else (int(meter[0]), int(meter[1]))
    if requested is None and not length:
        requested = 4 * limits.frames_per_quarter
    if requested is not None and requested != length:
        length, index = requested, 0
    return replace(
        grid,
        meter=(length, index),
        time_signature=signature,
        tempo_qpm=grid.tempo_qpm if tempo_qpm is None else tempo_qpm,
    )


def _plan(grid: Grid, mode: npt.NDArray[np.uint8], excerpt: slice, limits: ModelLimits) -> CompositionPlan:
    """Make a plan; notes and steps that the model does not read are added to the counts in `grid.dropped`."""
    given, n_gone = thinned(with_strikes(grid.frames[excerpt]), limits.n_notes)
    unread = {"unread_notes": n_gone, "unread_steps": grid.n_frames - len(given)}
    dropped = {**grid.dropped, **{reason: n for reason, n in unread.items() if n}}
    return CompositionPlan(replace(grid, dropped=dropped), mode, excerpt, given)


def first_chord(frames: Frames) -> int | None:
    """Return the index of the first of (N, 88) frames with more than one note; None without such a frame."""
    chords = np.flatnonzero((frames > 0).sum(axis=1) > 1)
    return int(chords[0]) if chords.size else None


def highest_voice(frames: Frames) -> Frames:
    """Return (N, 88) with only the highest note of each frame.

    Where a higher note ends above a lower one that goes on, the lower one is struck again.
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
    """Remove whole notes until at most `n_most` sound at once; inner notes first, to keep melody and bass.

    Returns:
        (N, 88), and the number of removed notes.
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
            _remove_note(thin, int(frame), int(pitch))
        n_gone += n_over
    return thin, n_gone


def _remove_note(frames: Frames, frame: int, pitch: int) -> None:
    """Remove the note that sounds at `frame` from its start to its end, in place."""
    line = frames[:, pitch]
    start = frame
    while start and line[start] == HELD and line[start - 1]:
        start -= 1
    stop = frame + 1
    while stop < len(line) and line[stop] == HELD:
        stop += 1
    line[start:stop] = 0


def check_bars(bars: tuple[int, int], n_bars: int) -> tuple[int, int]:
    """Return a half-open range of bars, counted from 0.

    Raises:
        InvalidInputError: the score has no such bars, or they are too many.
    """
    expected = (
        f"expected (start, end) with 0 <= start < end <= {n_bars}, the number of bars of the score; "
        f"bars are counted from 0 and the end is not included"
    )
    pair = isinstance(bars, tuple | list) and len(bars) == 2 and all(is_whole(bar) for bar in bars)
    if not pair or not 0 <= bars[0] < bars[1] <= n_bars:
        raise InvalidInputError(f"invalid bars: {expected}, got {shown(bars)}", argument="bars")
    if bars[1] - bars[0] > N_BARS_MAX:
        raise InvalidInputError(
            f"too many bars: expected at most {N_BARS_MAX} in one call, got {shown(bars)}", argument="bars"
        )
    return int(bars[0]), int(bars[1])


def frames_per_bar(meter: tuple[int, int] | None, frames_per_quarter: int) -> int | None:
    """Return the length of a bar of a time signature such as (3, 4), in frames.

    Raises:
        InvalidInputError: the time signature is invalid or does not fit the grid.
    """
    if meter is None:
        return None
    pair = isinstance(meter, tuple | list) and len(meter) == 2 and all(is_whole(number) for number in meter)
    if not pair or not 1 <= meter[0] <= 32 or meter[1] not in (1, 2, 4, 8, 16, 32):
        raise InvalidInputError(
            f"invalid meter: expected a time signature such as (4, 4), (3, 4) or (6, 8), got {shown(meter)}",
            argument="meter",
        )
    n_frames, rest = divmod(4 * frames_per_quarter * int(meter[0]), int(meter[1]))
    if rest or not n_frames:
        raise InvalidInputError(
            f"invalid meter: expected bars of a whole number of time steps ({frames_per_quarter} per quarter note), "
            f"got {meter[0]}/{meter[1]}",
            argument="meter",
        )
    return n_frames
