"""Convert MIDI, MusicXML and ABC files and `symusic.Score` objects to grids, and grids to scores.

```python
grid = to_grid("tune.mid")
print(grid.n_bars, dict(grid.dropped))       # 16 {'drums': 64, 'shortened': 2}
to_score(grid).dump_midi("copy.mid")
```

Shapes: K notes, N time steps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidScoreError
from tritone.music.grid import (
    COMMON_TIME,
    FRAMES_PER_QUARTER,
    FRAMES_PER_QUARTER_RANGE,
    HELD,
    HIGHEST_PITCH,
    LOWEST_PITCH,
    MAX_FRAMES,
    N_PITCHES,
    STRUCK,
    TEMPO_QPM,
    TEMPO_RANGE_QPM,
    UNKNOWN_METER,
    Grid,
    TimeSignature,
    notes_of,
    too_long,
)
from tritone.music.notation import TICKS_PER_QUARTER as NOTATION_TICKS
from tritone.music.notation import notation_format, read_notation
from tritone.music.smf import MAX_BYTES, DamagedError, MidiFile, parse_midi
from tritone.music.symusic_scores import (
    END_MARKER,
    VELOCITY,
    IntArray,
    add_track,
    require_symusic,
    score_without_notes,
)

if TYPE_CHECKING:
    from tritone.music.piece import Piece

# Inputs of `to_grid`; Any stands for symusic.Score.
ScoreLike: TypeAlias = Union["str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO", "Grid", "Piece", Any]


def to_grid(score: ScoreLike, *, frames_per_quarter: int = FRAMES_PER_QUARTER) -> Grid:
    """Return a score as a grid.

    Onsets and ends go to the nearest time step (halves to the later one); a note takes at least one. The first step
    is the score's time 0, so an upbeat that is written with rests before it keeps them; one that is written as a
    shorter first bar gives a meter whose first step is not 0. Bars and tempo are those at the beginning: 4/4 and 120
    quarter notes per minute up to the first time signature and tempo of the file, as MIDI defines. All pitched tracks
    become one; instruments, loudness, pedals and controllers are not part of a grid.

    Tracks are those that are in the file, whatever its header and the chunks' lengths say.

    `dropped` counts, where there were any:
        `drums`: percussion notes left out.
        `out_of_range`: notes outside the piano's keys (MIDI 21..108) left out.
        `unended`: notes left out because the file never ends them.
        `merged`: notes that begin where another of the same pitch does: one is kept, with the later end.
        `shortened`: notes that end early because their pitch is struck again.
        `lengthened`: notes shorter than a time step, which last one.
        `tempo_changes`, `meter_changes`: those after the beginning, which a grid does not hold.
        `missing_tracks`: tracks that the file's header claims and the file does not have.
        `malformed_events`: tempos and time signatures of a wrong length, which are ignored.
        `skipped_chunks`: chunks that are not tracks.
        `grace_notes`, `tunes`: grace notes, and ABC tunes after the first one, left out.
        `skipped_bytes`: bytes between, behind or after the tracks that belong to no chunk, as of a second file.

    Args:
        score: a path, the bytes of a MIDI file (type 0, 1 or 2, whose tracks are read side by side, also in a RIFF
            RMID container), of MusicXML (also compressed, .mxl) or ABC (both need `tritone[notation]`), a binary file
            object (read from its beginning, left open), a `symusic.Score`, a `Grid` or a `Piece`.
        frames_per_quarter: 1 to 96; 4 are sixteenths.

    Raises:
        InvalidScoreError: see its `reason`. At most 16,384 time steps can be read.
        MissingExtraError: symusic is not installed.
    """
    if frames_per_quarter not in FRAMES_PER_QUARTER_RANGE:
        raise InvalidScoreError(
            f"frames_per_quarter is {frames_per_quarter!r}; expected a whole number from 1 to 96",
            path=describe(score),
            reason="bad_shape",
            argument="frames_per_quarter",
        )
    inner: Any = getattr(score, "grid", score)  # a Piece holds one
    if isinstance(inner, Grid):
        return _at_resolution(inner, frames_per_quarter)
    name = describe(score)
    if hasattr(inner, "tracks") and hasattr(inner, "ticks_per_quarter"):
        return _from_symusic(inner, Fraction(inner.ticks_per_quarter), {}, name, frames_per_quarter)
    return _from_bytes(_bytes_of(inner, name), name, frames_per_quarter)


def describe(score: Any) -> str:
    """Return the name of a score for messages: its path, or a description such as `<512 bytes>`."""
    if isinstance(score, str | os.PathLike):
        return os.fsdecode(score)
    if isinstance(score, bytes | bytearray | memoryview):
        return f"<{len(score)} bytes>"
    if hasattr(score, "read"):
        name = getattr(score, "name", None)
        return name if isinstance(name, str) else "<file object>"  # a temporary file has a number, or None
    return f"<{type(score).__name__}>"


def _bytes_of(score: Any, name: str) -> bytes:
    try:
        if isinstance(score, str | os.PathLike):
            path = Path(os.fsdecode(score))
            if not path.exists():
                raise InvalidScoreError(f"{name}: does not exist", path=name, reason="missing")
            if not path.is_file():
                what = "is a folder, not a file" if path.is_dir() else "is not a regular file"
                raise InvalidScoreError(f"{name}: {what}", path=name, reason="missing")
            with path.open("rb") as file:
                data: Any = file.read(MAX_BYTES + 1)
        elif isinstance(score, bytes | bytearray | memoryview):
            data = bytes(score)
        elif callable(getattr(score, "read", None)):
            if getattr(score, "seekable", lambda: False)():
                score.seek(0)
            data = score.read(MAX_BYTES + 1)
        else:
            raise InvalidScoreError(
                f"invalid score: expected a path, the bytes of a MIDI file, a binary file object, a symusic.Score, a "
                f"Grid or a Piece, got {type(score).__name__}",
                path=name,
                reason="bad_shape",
            )
    except (OSError, ValueError) as error:  # ValueError: a null byte in a path, or a closed file
        if isinstance(error, InvalidScoreError):
            raise
        raise InvalidScoreError(f"{name}: cannot be read ({error})", path=name, reason="unreadable") from error
    if not isinstance(data, bytes):
        raise InvalidScoreError(
            f"{name}: is a text file object; open it in binary mode ('rb')", path=name, reason="unreadable"
        )
    if not data:
        raise InvalidScoreError(f"{name}: is empty (0 bytes)", path=name, reason="empty")
    return data


def read_midi(source: Any) -> Any:
    """Read a MIDI file with its tracks, programs and velocities.

    Args:
        source: a path, bytes or a binary file object, as for `to_grid`.

    Returns:
        A `symusic.Score` in ticks.

    Raises:
        InvalidScoreError: see its `reason`.
        MissingExtraError: symusic is not installed.
    """
    name = describe(source)
    return _parsed(_bytes_of(source, name), name)[0]


def _parsed(data: bytes, name: str) -> tuple[Any, MidiFile]:
    symusic = require_symusic()
    try:
        midi = parse_midi(data)
    except DamagedError as error:
        raise InvalidScoreError(f"{name}: {error}", path=name, reason=error.reason) from error
    try:
        return symusic.Score.from_midi(midi.data, sanitize_data=True), midi
    except Exception as error:  # symusic raises bare RuntimeErrors
        raise InvalidScoreError(
            f"{name}: is damaged ({error}, from symusic); save or download it again", path=name, reason="unreadable"
        ) from error


def _from_bytes(data: bytes, name: str, frames_per_quarter: int) -> Grid:
    if notation_format(data) is not None:
        score, left_out = read_notation(data, name)
        return _from_symusic(score, Fraction(NOTATION_TICKS), left_out, name, frames_per_quarter)
    score, midi = _parsed(data, name)
    if midi.in_seconds:
        score.tempos = []
    dropped = {**midi.skipped, "unended": max(0, midi.n_note_ons - score.note_num())}
    return _from_symusic(score, midi.ticks_per_quarter, dropped, name, frames_per_quarter)


def _from_symusic(
    score: Any, ticks_per_quarter: Fraction, dropped: Mapping[str, int], name: str, frames_per_quarter: int
) -> Grid:
    if str(score.ttype) != "Tick":
        score = score.to("tick")
    if ticks_per_quarter <= 0:
        raise InvalidScoreError(
            f"{name}: has {ticks_per_quarter} ticks in a quarter; expected at least 1", path=name, reason="bad_shape"
        )
    scale = Fraction(frames_per_quarter) / ticks_per_quarter
    counts = Counter(dropped)
    onset, end, pitch = _notes(score, counts)
    if not onset.size:
        left_out = {reason: n for reason, n in counts.items() if n}
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise InvalidScoreError(
            f"{name}: holds no notes that can be read" + (f" (left out: {why})" if why else ""),
            path=name,
            reason="empty",
        )
    onset, end = to_steps(onset, scale), to_steps(end, scale)
    ends = [_step(mark.time, scale) for mark in score.markers if mark.text == END_MARKER]
    n_frames = max(int(onset.max()) + 1, int(end.max()), *ends)
    if onset.min() < 0:
        raise InvalidScoreError(f"{name}: holds notes before its time 0", path=name, reason="bad_shape")
    if n_frames > MAX_FRAMES:
        raise too_long(name, n_frames)
    counts["lengthened"] += int((end <= onset).sum())
    frames = _painted(onset, end, pitch, n_frames, counts)
    tempo_qpm = _tempo(score, scale, counts)
    meter, signature = _meter(score, scale, frames_per_quarter, counts)
    left_out = {reason: n for reason, n in sorted(counts.items()) if n}
    return Grid(frames, frames_per_quarter, meter, tempo_qpm, left_out, signature)


def _notes(score: Any, counts: Counter[str]) -> tuple[IntArray, IntArray, IntArray]:
    """Return onset and end in ticks and pitch of every note that a grid can hold; each (K,)."""
    columns: list[IntArray] = []
    for track in score.tracks:
        if track.is_drum:
            counts["drums"] += len(track.notes)
        elif len(track.notes):
            fields = track.notes.numpy()
            time, duration, pitch = (np.asarray(fields[key], np.int64) for key in ("time", "duration", "pitch"))
            columns.append(np.stack([time, time + duration, pitch]))
    notes: IntArray = np.concatenate(columns, axis=1) if columns else np.zeros((3, 0), np.int64)
    playable = (notes[2] >= LOWEST_PITCH) & (notes[2] <= HIGHEST_PITCH)
    counts["out_of_range"] += int((~playable).sum())
    onset, end, pitch = notes[:, playable]
    return onset, end, pitch


def to_steps(ticks: IntArray, scale: Fraction) -> IntArray:
    """Return ticks as the nearest time steps, computed exactly: (ticks * scale) rounded half up."""
    steps: IntArray = (2 * ticks * scale.numerator + scale.denominator) // (2 * scale.denominator)
    return steps


def _painted(
    onset: IntArray, end: IntArray, pitch: IntArray, n_frames: int, counts: Counter[str]
) -> npt.NDArray[np.uint8]:
    """Return notes as frames (N, 88); a note takes at least the step of its onset."""
    frames = np.zeros((n_frames, N_PITCHES), np.uint8)
    for first, stop, column in zip(onset.tolist(), end.tolist(), (pitch - LOWEST_PITCH).tolist(), strict=True):
        frames[first:stop, column] = HELD
    frames[onset, pitch - LOWEST_PITCH] = STRUCK
    order = np.lexsort((end, onset, pitch))
    onset, end, pitch = onset[order], end[order], pitch[order]
    same = pitch[1:] == pitch[:-1]
    together = same & (onset[1:] == onset[:-1])
    counts["merged"] += int(together.sum())
    counts["shortened"] += int((same & ~together & (end[:-1] > onset[1:])).sum())
    return frames


def _tempo(score: Any, scale: Fraction, counts: Counter[str]) -> float:
    """Return the tempo at the beginning, in quarter notes per minute."""
    low, high = TEMPO_RANGE_QPM
    # Of several at one time, the last holds. A tempo of 0 microseconds per quarter is infinite.
    marks = {int(mark.time): float(mark.qpm) for mark in score.tempos if low <= mark.qpm <= high}
    times = sorted(marks)
    tempos = [marks[time] for time in times]
    if not times or _step(times[0], scale) > 0:
        tempos.insert(0, TEMPO_QPM)
    counts["tempo_changes"] += sum(a != b for a, b in pairwise(tempos))
    return tempos[0]


def _meter(
    score: Any, scale: Fraction, frames_per_quarter: int, counts: Counter[str]
) -> tuple[tuple[int, int], TimeSignature | None]:
    """Return `Grid.meter` and the time signature at the beginning."""

    def bar(signature: TimeSignature) -> Fraction:
        return Fraction(4 * signature[0] * frames_per_quarter, signature[1])

    signatures: dict[int, TimeSignature] = {}  # by time step
    for mark in score.time_signatures:
        # symusic lets the power of two overflow in a damaged or absurd signature, which is ignored.
        if mark.numerator > 0 and mark.denominator > 0:
            signatures[_step(mark.time, scale)] = int(mark.numerator), int(mark.denominator)
    marks = sorted(signatures.items())
    upbeat = 0  # steps of a shorter first bar
    if not marks or marks[0][0] > 0:
        if marks and marks[0][1] == COMMON_TIME and marks[0][0] < bar(COMMON_TIME):
            upbeat = marks[0][0]
        marks.insert(0, (0, COMMON_TIME))
    elif len(marks) > 1 and marks[1][0] == bar(marks[0][1]) < bar(marks[1][1]):
        # One short bar before a longer one is how notation programs write an upbeat.
        upbeat = marks[1][0]
        del marks[0]
    signature = marks[0][1]
    counts["meter_changes"] += sum(a != b for (_, a), (_, b) in pairwise(marks))
    length = bar(signature)
    if length.denominator != 1 or not 0 < length <= MAX_FRAMES:
        return UNKNOWN_METER, None  # its bars do not end on time steps
    return (int(length), int(-upbeat % length)), signature


def _step(time: Any, scale: Fraction) -> int:
    """Return the time step nearest to a time in ticks."""
    return int(to_steps(np.array([time], np.int64), scale)[0])


def _at_resolution(grid: Grid, frames_per_quarter: int) -> Grid:
    """Return the grid with another number of time steps in a quarter note."""
    if grid.frames_per_quarter == frames_per_quarter:
        return grid
    again = to_grid(to_score(grid), frames_per_quarter=frames_per_quarter)
    return replace(again, dropped=dict(Counter(grid.dropped) + Counter(again.dropped)))


def to_score(grid: Grid) -> Any:
    """Return a grid as a score; `to_grid` returns the same grid from it.

    A struck note lasts until its pitch is struck again or silent. Bars of unknown meter get no time signature; an
    upbeat becomes a shorter first bar. A grid that ends with silence gets a marker there.

    Returns:
        A `symusic.Score` in ticks with one track (program 0, piano), loudness 80; see `perform` for a score with
        instruments and dynamics.

    Raises:
        MissingExtraError: symusic is not installed.
    """
    score, step = score_without_notes(grid)
    onset, end, pitch = notes_of(grid)
    add_track(score, onset * step, (end - onset) * step, pitch, np.full(onset.size, VELOCITY), program=0)
    return score
