"""The time grid in which every music model reads and writes scores: one row per time step, one column per pitch.

```python
grid = Grid(frames)                          # frames: (N, 88), values below
grid.n_bars, grid.duration_s
```

Shapes: N time steps, 88 pitches (MIDI 21..108, the piano's keys).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidScoreError
from tritone.results.json_result import INTEGER, INTEGER_BY_NAME, NUMBER, JsonResult, array_of, optional

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
TEMPO_RANGE_QPM: Final = (4.0, 1000.0)  # MIDI cannot represent slower ones, and nobody plays faster ones
UNKNOWN_METER: Final = (0, 0)
COMMON_TIME: Final = (4, 4)  # MIDI's own default
_DENOMINATORS: Final = (4, 8, 16, 32, 64)  # of derived time signatures, the simplest first
_MAX_NUMERATOR: Final = 255  # MIDI writes it in a byte

Frames = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
TimeSignature: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Grid(JsonResult):
    """A score on a grid of equal time steps.

    Whatever sounds at the first step is struck there, and so is a note that is marked as held after a silence.

    Attributes:
        frames: (N, 88) uint8, read-only; 0 silent, 1 held on from the step before, 2 struck here.
        frames_per_quarter: time steps in a quarter note.
        meter: (time steps in a bar, index within its bar of the first step); an upbeat of one quarter before bars of
            4/4 in sixteenths is (16, 12). (0, 0) if unknown.
        tempo_qpm: quarter notes a minute.
        dropped: what of the source is not in the grid, counted by reason; see `to_grid`.
        time_signature: (beats, denominator), such as (4, 4) or (6, 8). Derived from `meter` if None or if its bar
            does not have `meter[0]` time steps; None if the meter is unknown or has no signature.

    Raises:
        InvalidScoreError: a value is not as described; the message says which.
    """

    frames: Frames = field(repr=False)
    frames_per_quarter: int = FRAMES_PER_QUARTER
    meter: tuple[int, int] = UNKNOWN_METER
    tempo_qpm: float = TEMPO_QPM
    dropped: Mapping[str, int] = field(default_factory=dict)
    time_signature: TimeSignature | None = None

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "frames_per_quarter": INTEGER,
        "meter": optional(array_of(INTEGER, 2)),
        "frames_per_bar": INTEGER,
        "first_frame_in_bar": INTEGER,
        "tempo_qpm": NUMBER,
        "n_frames": INTEGER,
        "duration_s": NUMBER,
        "notes": array_of(array_of(INTEGER, 3)),
        "dropped": INTEGER_BY_NAME,
    }

    def __post_init__(self) -> None:
        frames = with_strikes(_checked_frames(self.frames))
        frames.setflags(write=False)
        object.__setattr__(self, "frames", frames)
        steps = self.frames_per_quarter
        if not isinstance(steps, int | np.integer) or steps not in FRAMES_PER_QUARTER_RANGE:  # 4.0 is in the range
            raise _bad(
                f"frames_per_quarter is {steps!r}; expected a whole number from 1 to 96", argument="frames_per_quarter"
            )
        low, high = TEMPO_RANGE_QPM
        if not _is_number(self.tempo_qpm) or not low <= self.tempo_qpm <= high:  # false for NaN too
            raise _bad(
                f"tempo_qpm is {self.tempo_qpm!r}; expected {low:g} to {high:g} quarter notes a minute",
                argument="tempo_qpm",
            )
        if not _is_meter(self.meter):
            raise _bad(
                f"meter is {self.meter!r}; expected (steps in a bar, index of the first step), or (0, 0)",
                argument="meter",
            )
        length, index = self.meter
        object.__setattr__(self, "meter", (int(length), int(index)))  # a list would not compare as one
        signature = _checked_signature(self.time_signature)
        if signature is None or 4 * signature[0] * steps != length * signature[1]:
            signature = simplest_signature(int(length), int(steps))
        object.__setattr__(self, "time_signature", signature)

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the notes as `[onset, length, pitch]` in time steps."""
        onset, end, pitch = notes_of(self)
        length, index = self.meter
        return {
            "frames_per_quarter": int(self.frames_per_quarter),
            "meter": None if self.time_signature is None else list(self.time_signature),
            "frames_per_bar": length,
            "first_frame_in_bar": index,
            "tempo_qpm": float(self.tempo_qpm),
            "n_frames": self.n_frames,
            "duration_s": self.duration_s,
            "notes": np.stack([onset, end - onset, pitch], axis=1).tolist(),
            "dropped": dict(self.dropped),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the grid whose `to_dict` gave the values.

        Raises:
            InvalidScoreError: a value is not as `Grid` expects it.
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        n_frames = int(values["n_frames"])
        if not 0 < n_frames <= MAX_FRAMES:
            raise _bad(f"n_frames is {n_frames}; expected 1 to {MAX_FRAMES:,}", argument="n_frames")
        frames = np.zeros((n_frames, N_PITCHES), np.uint8)
        for onset, length, pitch in values["notes"]:
            if not (
                0 <= onset < n_frames and 0 < length <= n_frames - onset and LOWEST_PITCH <= pitch <= HIGHEST_PITCH
            ):
                raise _bad(
                    f"notes hold {[onset, length, pitch]}; expected [onset, length, pitch] within {n_frames} time "
                    f"steps and pitches {LOWEST_PITCH} to {HIGHEST_PITCH}",
                    argument="notes",
                )
            frames[onset : onset + length, pitch - LOWEST_PITCH] = HELD
            frames[onset, pitch - LOWEST_PITCH] = STRUCK
        signature = values["meter"]
        return cls(
            frames,
            values["frames_per_quarter"],
            (values["frames_per_bar"], values["first_frame_in_bar"]),
            values["tempo_qpm"],
            dict(values["dropped"]),
            None if signature is None else tuple(signature),
        )

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


def simplest_signature(n_frames: int, frames_per_quarter: int, least: int = 4) -> TimeSignature | None:
    """Return the time signature of a bar with the smallest denominator.

    Args:
        n_frames: time steps in the bar.
        frames_per_quarter: of the grid.
        least: a denominator to try first.

    Returns:
        None if MIDI has no such time signature, and for a bar of no time steps.
    """
    quarters = Fraction(n_frames, frames_per_quarter)
    for denominator in (least, *_DENOMINATORS):
        beats = quarters * denominator / 4
        if beats.denominator == 1:
            return (int(beats), denominator) if 0 < beats <= _MAX_NUMERATOR else None
    return None


def with_strikes(frames: npt.NDArray[Any]) -> Frames:
    """Mark as struck what is held after silence; 0/1 frames become a grid in which repeated notes are one.

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
    """Return the notes of a grid: a struck note lasts until its pitch is struck again or silent.

    Shapes: K notes.

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


def _checked_signature(signature: Any) -> TimeSignature | None:
    if signature is None:
        return None
    is_pair = isinstance(signature, tuple | list) and len(signature) == 2
    if not is_pair or not all(isinstance(number, int | np.integer) for number in signature):
        raise _bad(
            f"time_signature is {signature!r}; expected a pair such as (4, 4), or None", argument="time_signature"
        )
    numerator, denominator = (int(number) for number in signature)
    if not 0 < numerator <= _MAX_NUMERATOR or denominator < 1 or denominator & (denominator - 1):
        raise _bad(
            f"time_signature is {signature!r}; expected 1 to {_MAX_NUMERATOR} beats of a power of two",
            argument="time_signature",
        )
    return numerator, denominator


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
        raise InvalidScoreError("<frames>: expected at least one time step, got none", path="<frames>", reason="empty")
    if len(array) > MAX_FRAMES:
        raise too_long("<frames>", len(array))
    if not np.isin(array, (SILENT, HELD, STRUCK)).all():
        raise _bad("frames hold other values than 0 (silent), 1 (held) and 2 (struck)")
    return array


def too_long(name: str, n_frames: int) -> InvalidScoreError:
    """Return the error for a score with too many time steps."""
    return InvalidScoreError(
        f"{name}: lasts {n_frames:,} time steps; at most {MAX_FRAMES:,} can be read "
        f"({MAX_FRAMES // 16:,} bars of 4/4 in sixteenths): cut it, or choose fewer frames_per_quarter",
        path=name,
        reason="too_long",
    )


def _bad(what: str, argument: str = "frames") -> InvalidScoreError:
    return InvalidScoreError(f"<frames>: {what}", path="<frames>", reason="bad_shape", argument=argument)
