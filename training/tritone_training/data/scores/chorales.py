"""JSON of the kind of the JSB chorales in sixteenths: `{"train": [piece, ...], "valid": ..., "test": ...}`.

A piece is a list of time steps, a step a list of MIDI pitches: one for each voice, -1 (or null) where it rests; or,
where the steps' lengths differ, simply what sounds. A voice that repeats a pitch looks like one that holds it.
Source: the chorales as Boulanger-Lewandowski et al. 2012 split them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import HELD, HIGHEST_PITCH, LOWEST_PITCH, MAX_FRAMES, N_PITCHES, STRUCK, with_strikes
from tritone_training.data.recordings import DataProblem, printable
from tritone_training.data.scores.score_set import SPLITS, ScorePiece, ScoreSet, count_repeats
from tritone_training.exceptions import DataError

REST: Final = -1
# The format does not say its resolution; the files' names do (Jsb16thSeparated, jsb-chorales-quarter).
_RESOLUTIONS: Final = {"16th": 4, "8th": 2, "quarter": 1}


def from_json(path: Path) -> ScoreSet:
    """Read such a file; its portions stay whole.

    Raises:
        DataError: it is not such a file, or no piece of it can be used.
    """
    contents = _contents(path)
    pieces: list[ScorePiece] = []
    problems: list[DataProblem] = []
    for split in (split for split in SPLITS if split in contents):
        for index, steps in enumerate(contents[split]):
            name = f"{split}/{index:04d}"
            try:
                frames, voices = _piece(steps)
            except ValueError as error:
                problems.append(DataProblem(name, "bad_steps", f"{path.name} {name}: {error}"))
                continue
            pieces.append(ScorePiece(name, frames, split, path.stem, voices=voices))
    if not pieces:
        raise DataError(f"{path}: no piece can be used; the first: {problems[0].message if problems else 'no pieces'}")
    return ScoreSet(
        source=printable(str(path)),
        pieces=tuple(pieces),
        has_onsets=False,
        frames_per_quarter=next((n for word, n in _RESOLUTIONS.items() if word in path.stem.lower()), 0),
        problems=tuple(problems),
        notes={"split": "the data set's own", "n_repeats_kept": count_repeats(pieces)},
    )


def _contents(path: Path) -> dict[str, list[Any]]:
    try:
        contents = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # bytes that are no text, text that is no JSON
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(contents, dict) or not any(isinstance(contents.get(split), list) for split in SPLITS):
        there = ", ".join(map(str, contents)) if isinstance(contents, dict) else f"a {type(contents).__name__}"
        raise DataError(f"{path}: holds {there or 'nothing'}; expected an object with the lists train, valid, test")
    return {split: contents[split] for split in SPLITS if isinstance(contents.get(split), list)}


def _piece(steps: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """Frames (T, 88) and voices (T, V); a ValueError says what is wrong."""
    if not isinstance(steps, list) or not all(isinstance(step, list) for step in steps):
        raise ValueError("a piece is a list of time steps, each a list of MIDI pitches")
    if not 0 < len(steps) <= MAX_FRAMES:
        raise ValueError(f"has {len(steps):,} time steps; expected 1 to {MAX_FRAMES:,}")
    frames = np.zeros((len(steps), N_PITCHES), np.uint8)
    before: list[int] = []
    voiced = len({len(step) for step in steps}) == 1 and len(steps[0]) > 0
    for frame, step in zip(frames, steps, strict=True):
        pitches = [_pitch(value) for value in step]
        for voice, pitch in enumerate(pitches):
            if pitch != REST:
                # A voice that takes over another's pitch strikes it.
                new = voiced and bool(before) and before[voice] != pitch
                column = pitch - LOWEST_PITCH
                frame[column] = max(frame[column], STRUCK if new else HELD)
        before = pitches
    voices = np.array([[_pitch(value) for value in step] for step in steps], np.int64) if voiced else None
    return with_strikes(frames), voices


def _pitch(value: Any) -> int:
    if value is None or value == REST:
        return REST
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"holds {value!r:.40} where a MIDI pitch is expected")
    if not LOWEST_PITCH <= value <= HIGHEST_PITCH:
        raise ValueError(f"holds the pitch {value!r:.40}; expected {LOWEST_PITCH} to {HIGHEST_PITCH}, or -1 for a rest")
    return int(value)
