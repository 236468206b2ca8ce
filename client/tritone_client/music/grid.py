"""The form in which every music model reads and writes scores: a row a time step, a column a pitch.

```python
grid = Grid(frames)                          # frames: (N, 88), values below
grid.n_bars, grid.duration_s
```

Letters: N time steps, 88 pitches (MIDI 21..108, the piano's keys).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_client._exceptions import InvalidScoreError

LOWEST_PITCH: Final = 21
HIGHEST_PITCH: Final = 108
N_PITCHES: Final = 88
SILENT: Final = 0
HELD: Final = 1  # sounds on from the step before
STRUCK: Final = 2  # begins here

FRAMES_PER_QUARTER: Final = 4  # sixteenths
FRAMES_PER_QUARTER_RANGE: Final = range(1, 97)
# 34 minutes of sixteenths at 120 quarters a minute. A model's own limit may be lower.
MAX_FRAMES: Final = 16_384
TEMPO_QPM: Final = 120.0  # MIDI's own default
TEMPO_RANGE_QPM: Final = (4.0, 1000.0)  # MIDI cannot write slower ones, nobody can play faster ones
UNKNOWN_METER: Final = (0, 0)

Frames = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grid:
    """A score on a grid of equal time steps.

    Whatever sounds at the first step is struck there, and so is a note that is marked as held after a silence.

    Attributes:
        frames: (N, 88) uint8, read-only; 0 silent, 1 held on from the step before, 2 struck here.
        frames_per_quarter: time steps in a quarter note.
        meter: (time steps in a bar, index within its bar of the first step); an upbeat of one quarter before bars of
            4/4 in sixteenths is (16, 12). (0, 0) if unknown.
        tempo_qpm: quarter notes a minute.
        dropped: what of the source is not in the grid, counted by reason; see `to_grid`.

    Raises:
        InvalidScoreError: a value is not as described; the message says which.
    """

    frames: Frames = field(repr=False)
    frames_per_quarter: int = FRAMES_PER_QUARTER
    meter: tuple[int, int] = UNKNOWN_METER
    tempo_qpm: float = TEMPO_QPM
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = with_strikes(_checked_frames(self.frames))
        frames.setflags(write=False)
        object.__setattr__(self, "frames", frames)
        steps = self.frames_per_quarter
        if not isinstance(steps, int | np.integer) or steps not in FRAMES_PER_QUARTER_RANGE:  # 4.0 is in the range
            raise _bad(f"frames_per_quarter is {steps!r}; expected a whole number from 1 to 96")
        low, high = TEMPO_RANGE_QPM
        if not _is_number(self.tempo_qpm) or not low <= self.tempo_qpm <= high:  # false for NaN too
            raise _bad(f"tempo_qpm is {self.tempo_qpm!r}; expected {low:g} to {high:g} quarter notes a minute")
        if not _is_meter(self.meter):
            raise _bad(f"meter is {self.meter!r}; expected (steps in a bar, index of the first step), or (0, 0)")
        length, index = self.meter
        object.__setattr__(self, "meter", (int(length), int(index)))  # a list would not compare as one

    @property
    def n_frames(self) -> int:
        """Time steps."""
        return len(self.frames)

    @property
    def n_notes(self) -> int:
        """Notes struck."""
        return int((self.frames == STRUCK).sum())

    @property
    def duration_s(self) -> float:
        """Length at `tempo_qpm`."""
        return self.n_frames / self.frames_per_quarter * 60.0 / self.tempo_qpm

    @property
    def bars(self) -> tuple[slice, ...]:
        """The time steps of each bar, an upbeat being a bar of its own; bars of 4/4 where the meter is unknown."""
        length, index = self.meter
        length = length or 4 * self.frames_per_quarter
        starts = [0, *range(length - index, self.n_frames, length)]
        return tuple(slice(a, b) for a, b in zip(starts, [*starts[1:], self.n_frames], strict=True))

    @property
    def n_bars(self) -> int:
        """Bars, an upbeat and an incomplete last bar included."""
        length, index = self.meter
        return math.ceil((self.n_frames + index) / (length or 4 * self.frames_per_quarter))


def with_strikes(frames: npt.NDArray[Any]) -> Frames:
    """Mark as struck what is held on from nothing; so 0/1 frames become a grid in which repeated notes are one.

    Args:
        frames: (N, 88), values 0..2.

    Returns:
        (N, 88) uint8, a copy.
    """
    marked = frames.astype(np.uint8)
    before = np.zeros_like(marked)
    before[1:] = marked[:-1]
    marked[(marked == HELD) & (before == SILENT)] = STRUCK
    return marked


def notes_of(grid: Grid) -> tuple[IntArray, IntArray, IntArray]:
    """The notes of a grid: a struck note lasts until its pitch is struck again or silent.

    Letters: K notes.

    Returns:
        Onset and end in time steps and MIDI pitch, each (K,), in order of onset and, within a step, of pitch.
    """
    column, onset = np.nonzero(grid.frames.T == STRUCK)  # (K,), by pitch, then by time
    # Where each pitch stops being held, looking back from the end.
    n_frames = grid.n_frames
    stops = np.where(grid.frames == HELD, n_frames, np.arange(n_frames)[:, None])  # (N, 88)
    after = np.concatenate([stops[1:], np.full((1, N_PITCHES), n_frames)])
    end = np.minimum.accumulate(after[::-1], axis=0)[::-1][onset, column]
    order = np.lexsort((column, onset))
    return onset[order], end[order], column[order] + LOWEST_PITCH


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_meter(meter: Any) -> bool:
    if not isinstance(meter, tuple | list) or len(meter) != 2:
        return False
    if not all(isinstance(number, int | np.integer) for number in meter):
        return False
    length, index = meter
    return (length, index) == UNKNOWN_METER or (0 < length <= MAX_FRAMES and 0 <= index < length)


def _checked_frames(frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        array = np.asarray(frames)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that live elsewhere
        raise _bad(f"frames are not an array of numbers ({error})") from error
    if array.ndim != 2 or array.shape[1] != N_PITCHES or array.dtype.kind not in "biuf":
        raise _bad(
            f"frames have shape {array.shape} and type {array.dtype}; expected whole numbers of shape (n_frames, 88)"
        )
    if not len(array):
        raise InvalidScoreError("<frames>: hold no time step", path="<frames>", reason="empty")
    if len(array) > MAX_FRAMES:
        raise too_long("<frames>", len(array))
    if not np.isin(array, (SILENT, HELD, STRUCK)).all():
        raise _bad("frames hold other values than 0 (silent), 1 (held) and 2 (struck)")
    return array


def too_long(name: str, n_frames: int) -> InvalidScoreError:
    """The error for a score of too many time steps."""
    return InvalidScoreError(
        f"{name}: lasts {n_frames:,} time steps; at most {MAX_FRAMES:,} can be read "
        f"({MAX_FRAMES // 16:,} bars of 4/4 in sixteenths): cut it, or choose fewer frames_per_quarter",
        path=name,
        reason="too_long",
    )


def _bad(what: str) -> InvalidScoreError:
    return InvalidScoreError(f"<frames>: {what}", path="<frames>", reason="bad_shape")
